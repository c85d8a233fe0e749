"""What does asking a feature flag cost when nothing has changed?"""

from __future__ import annotations

from benchmarks import harness


def main() -> None:
    harness.set_up("waffle")
    from waffle import switch_is_active
    from waffle.models import Switch

    from dref_django import DRef, Flag

    Switch.objects.create(name="bench", active=True)
    flag = Flag("bench", using="redis")
    settings: DRef[dict[str, object]] = DRef("bench-dict", default=dict, using="redis")
    flag.set(True)
    settings.set({"beta": True, "percent": 10})
    harness.rates(
        "a flag, nothing changed",
        {
            "django-waffle switch, local-memory cache": lambda: switch_is_active("bench"),
            "dref_django Flag.peek": flag.peek,
            "dref_django peek of a dict (a copy each)": settings.peek,
            "dref_django Flag.get (a round trip)": flag.get,
        },
    )
