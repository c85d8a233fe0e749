"""Who may what: anybody may watch the refs of the demo and who is there, click, and switch the shop; nothing else."""

from __future__ import annotations

from typing import Any

from dref_django.live.policy import COMPARE_AND_SET, INCREMENT, JOIN, PRESENCE, WATCH, Policy

PUBLIC = "demo."
ROOM = "demo"
WRITING = "demo.writing"
"""Where a page is while somebody writes a message on it."""
CHANGES = {(INCREMENT, "demo.clicks"), (COMPARE_AND_SET, "demo.maintenance")}


class DemoPolicy(Policy):
    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        if action == PRESENCE:
            return ref_name in {ROOM, WRITING}
        if action == JOIN:
            return ref_name == WRITING
        if (action, ref_name) in CHANGES:
            return True
        return action == WATCH and ref_name.startswith(PUBLIC)

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool:
        return action == WATCH and prefix.startswith(PUBLIC)
