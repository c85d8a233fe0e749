"""How long does the admin take to show a page of 100,000 refs, beside as many of Django's groups?"""

from __future__ import annotations

import time
from typing import Any, Final

from benchmarks import harness

COUNT: Final = 100_000
BATCH: Final = 1000
SAMPLES: Final = 40
REFS: Final = "/admin/dref_django/ref/"


def main() -> None:
    harness.set_up("django.contrib.admin", "django.contrib.messages", "django.contrib.sessions")
    from django.contrib.auth.models import Group, User
    from django.test import Client, override_settings

    from dref_django import backends
    from dref_django.protocol import Write
    from tests import settings

    names = [f"shop.n{number:06}" for number in range(COUNT)]
    Group.objects.bulk_create([Group(name=name) for name in names], batch_size=BATCH)
    for alias in ("redis", "postgres"):
        backend = backends.get_backend(alias)
        for start in range(0, COUNT, BATCH):
            backend.execute([Write(name, start) for name in names[start : start + BATCH]])

    def sampled(address: str, **query: str) -> list[float]:
        return [timed(client, address, query) for _ in range(SAMPLES)][1:]  # the first one loads templates

    with override_settings(
        ROOT_URLCONF=settings.ROOT_URLCONF,
        TEMPLATES=settings.TEMPLATES,
        MIDDLEWARE=settings.MIDDLEWARE,
        STATIC_URL=settings.STATIC_URL,
        ALLOWED_HOSTS=["*"],
    ):
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        pages: dict[str, dict[str, str]] = {"first": {}, "in the middle": {"after": names[COUNT // 2]}}
        pages["by prefix"] = {"q": "shop.n0999"}
        samples = {"Django's groups on PostgreSQL, first": sampled("/admin/auth/group/")}
        for alias in ("redis", "postgres"):
            for page, query in pages.items():
                samples[f"refs on {alias}, {page}"] = sampled(REFS, using=alias, **query)
    harness.percentiles(f"A page of {COUNT:,}", samples)


def timed(client: Any, address: str, query: dict[str, str]) -> float:
    started = time.perf_counter()
    answer = client.get(address, query)
    took = time.perf_counter() - started
    assert answer.status_code == 200
    return took
