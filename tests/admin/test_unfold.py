"""The pages with django-unfold, which replaces the default admin site and every template of its frame."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXPECTED = {
    "": (200, "rollout</a>"),
    "rollout": (200, '<title id="dref-spark">2 changes: from 10 to 20'),
    "refused": (409, "Nothing was saved"),
    "changed": (200, "The value of rollout was changed."),
    "locks/": (200, "billing"),
    "break": (200, "Take lock billing from its holder?"),
    "elections/": (200, "boss"),
    "presence/": (200, "alice"),
    "health/": (200, "READY"),
}


def test_every_page_is_shown_within_its_frame() -> None:
    command = [sys.executable, "-m", "tests.admin.unfold_tour"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    pages = json.loads(done.stdout)
    assert set(pages) == set(EXPECTED)
    for page, (status, text) in EXPECTED.items():
        code, shown = pages[page]
        assert (page, code) == (page, status)
        assert text in shown, page
        assert "unfold/css/styles.css" in shown, page
        assert "dref_django/admin.css" in shown, page
        assert 'class="dref-tabs"' in shown, page
