"""What the subcommands for the embedded cluster share."""

from __future__ import annotations

import msgpack
from django.core.management.base import CommandError

from dref_django import backends
from dref_django.backends.raft.attachment import Attachment
from dref_django.backends.raft.backend import RaftBackend
from dref_django.backends.raft.calls import Answer, Ask, Question


def raft_backend(alias: str) -> RaftBackend:
    backend = backends.get_backend(alias)
    if not isinstance(backend, RaftBackend):
        raise CommandError(f"The back end {alias!r} is {type(backend).__name__}; this is for raft.")
    return backend


def describe(attachment: Attachment) -> str:
    """What this process does in the cluster, in one line."""
    answer, body = attachment.caller.put(Question(Ask.STATUS)).result(5)
    if answer is not Answer.DONE:
        return f"waiting: {attachment.trouble or 'no process of this machine hosts the node yet'}"
    status = msgpack.unpackb(body)
    part = "hosts" if attachment.hosts else "waits for its turn to host"
    leader = status["leader"] or "nobody yet"
    return f"this process {part} node {status['node']}, a {status['role']} in term {status['term']}; {leader} leads"
