"""What the core raises at its caller. What peers send never raises: it is answered, or dropped."""

from __future__ import annotations


class RaftError(Exception):
    """The core refuses; nothing has changed."""


class NotLeader(RaftError):
    """Only a leader that is not handing over can do this. `leader` is the one to ask, or None while none is known."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; it is {leader}" if leader else "not the leader; none is known")
        self.leader = leader


class ChangeRefused(RaftError):
    """A change of members that is not possible now; the message says why."""


class TransferRefused(RaftError):
    """Leadership cannot be handed to that node; the message says why."""
