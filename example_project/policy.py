"""Who may watch: anybody, the refs of the demo and who is there, and nothing else."""

from __future__ import annotations

from typing import Any

from dref_django.live.policy import PRESENCE, WATCH, Policy

PUBLIC = "demo."
ROOM = "demo"


class DemoPolicy(Policy):
    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        if action == PRESENCE:
            return ref_name == ROOM
        return action == WATCH and ref_name.startswith(PUBLIC)

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool:
        return action == WATCH and prefix.startswith(PUBLIC)
