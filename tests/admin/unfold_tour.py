"""Loads every page with django-unfold, in a process of its own: `python -m tests.admin.unfold_tour`. Prints JSON."""

from __future__ import annotations

import json
import os
from typing import Any

REFS = "/admin/dref_django/ref/"


def tour() -> dict[str, tuple[int, str]]:
    """Status code and text by page."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from dref_django import DRef, Election, Presence, lock

    setup_test_environment()
    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    rollout = DRef("rollout", 0, history=10)
    rollout.set(10)
    rollout.set(20)
    Presence("hall").join("alice")
    with lock("billing") as held, Election("boss", identity="me").lead():
        breaking = f"{REFS}locks/break/?kind=lock&name=billing&token={held.token}"
        found = {page: client.get(f"{REFS}{page}") for page in ("", "locks/", "elections/", "presence/", "health/")}
        found |= {"rollout": client.get(f"{REFS}rollout/change/"), "break": client.get(breaking)}
        refused: dict[str, Any] = {"version": "1", "value": "30"}
        found["refused"] = client.post(f"{REFS}rollout/change/", refused)
        changed = {"version": str(rollout.version()), "value": "30"}
        found["changed"] = client.post(f"{REFS}rollout/change/", changed, follow=True)
    return {page: (answer.status_code, answer.content.decode()) for page, answer in found.items()}


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.admin.unfold_settings"
    import django

    django.setup()
    print(json.dumps(tour()))
