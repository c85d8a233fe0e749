"""Curves of the node of this machine: role, term, and how far behind it is."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Final

import msgpack

from .calls import Answer, Ask, Question

if TYPE_CHECKING:
    from .attachment import Attachment

TIMEOUT: Final = 0.5
"""Seconds that the node gets: it is asked within the machine, and a scrape must not hang on it."""


def gauges(attachment: Attachment) -> dict[str, float]:
    """Nothing when the node does not answer. `raft_lag`: entries that the slowest voter lacks, known to the leader."""
    try:
        answer, body = attachment.caller.put(Question(Ask.STATUS)).result(TIMEOUT)
    except (concurrent.futures.TimeoutError, RuntimeError):  # the latter: it has just been stopped
        return {}
    if answer is not Answer.DONE:
        return {}
    status = msgpack.unpackb(body)
    leads = status["role"] == "leader"
    found = {
        "raft_leads": float(leads),
        "raft_knows_leader": float(bool(status["leader"])),
        "raft_term": status["term"],
        "raft_voters": len(status["voters"]),
        "raft_commit_index": status["commit"],
        "raft_unapplied": status["commit"] - status["applied"],
        "raft_refused": sum(status["refused"].values()),
        "raft_sent_bytes": status["sent_bytes"],
    }
    if leads:
        found["raft_lag"] = max((status["last"] - peer["match"] for peer in status["peers"].values()), default=0)
    return found
