"""What does the app add to `django.setup()`?"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import harness

SCRIPT = """
import time
import django
from django.conf import settings
import django.contrib.contenttypes, django.contrib.auth
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *{apps}],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
    DREF_BACKEND={{"BACKEND": "redis", "OPTIONS": {{"URL": "redis://127.0.0.1:1"}}}},
)
started = time.perf_counter()
{imports}
django.setup()
print((time.perf_counter() - started) * 1e6)
"""


def main() -> None:
    harness.compare(
        "django.setup()",
        {
            "contenttypes and auth": lambda: measure([], ""),
            "and dref_django, imported": lambda: measure(["dref_django"], "import dref_django"),
        },
        unit="microseconds",
        rounds=25,
        best=min,
    )


def measure(apps: list[str], imports: str) -> float:
    script = SCRIPT.format(apps=apps, imports=imports)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)
