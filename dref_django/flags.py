"""Shared booleans."""

from __future__ import annotations

from . import conf
from .on_commit import FlagOnCommit
from .refs import DRef


class Flag(DRef[bool]):
    """A shared boolean."""

    def __init__(
        self,
        name: str | None = None,
        default: bool = False,
        *,
        using: str = conf.DEFAULT_ALIAS,
        group: str | None = None,
        history: int = 0,
    ) -> None:
        super().__init__(name, default, type=bool, using=using, group=group, history=history)

    def toggle(self) -> bool:
        """Turns the flag over, atomically, and returns its new value."""
        return self.update(lambda on: not on)

    async def atoggle(self) -> bool:
        return await self.aupdate(lambda on: not on)

    def on_commit(self, using: str | None = None, *, robust: bool = False) -> FlagOnCommit:
        return FlagOnCommit(self, using, robust)
