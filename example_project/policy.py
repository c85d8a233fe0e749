"""Who may watch: anybody, the refs of the demo and nothing else."""

from __future__ import annotations

from typing import Any

from dref_django.live.policy import WATCH, Policy

PUBLIC = "demo."


class DemoPolicy(Policy):
    def allows(self, user: Any, ref_name: str, action: str) -> bool:
        return action == WATCH and ref_name.startswith(PUBLIC)

    def allows_prefix(self, user: Any, prefix: str, action: str) -> bool:
        return action == WATCH and prefix.startswith(PUBLIC)
