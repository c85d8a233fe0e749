"""Sets up the database of a demo: its tables, and staff whose password everybody knows.

Only `example_project.demo` runs this. Its database is new, its servers listen on 127.0.0.1, and all of it goes when the
demo ends. No migration and no other command makes these users.
"""

from __future__ import annotations

import os
import sys
from typing import Final

SUPERUSER: Final = "admin"
RIGHTS: Final = {"viewer": "view_ref", "changer": "change_ref", "breaker": "break_lock"}
"""Staff who may do just that."""
PASSWORD: Final = "demo"


def main() -> None:
    import django

    django.setup()
    from django.contrib.auth.hashers import make_password
    from django.contrib.auth.models import Permission, User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    staff = {"password": make_password(PASSWORD), "is_staff": True}
    User.objects.create(username=SUPERUSER, is_superuser=True, **staff)
    for name, right in RIGHTS.items():
        permission = Permission.objects.get(content_type__app_label="dref_django", codename=right)
        User.objects.create(username=name, **staff).user_permissions.add(permission)


if __name__ == "__main__":
    if "DREF_DEMO_SECRET" not in os.environ:
        sys.exit("These users are for the demo: python -m example_project.demo")
    main()
