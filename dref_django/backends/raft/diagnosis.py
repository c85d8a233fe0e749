"""What `manage.py check --deploy` says about the Raft back end, and what `status` tells of the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004

from dref_django.exceptions import DRefError, Unavailable

from .calls import Answer, Ask, Question, pack_question
from .network import CLIENT
from .transport import TransportError, dial

if TYPE_CHECKING:
    from .backend import RaftBackend

NO_LEADER: Final = "dref.E060"
EVEN: Final = "dref.W061"
RETRY: Final = 0.05
"""Seconds between two attempts to ask."""
TIMEOUT: Final = 2.0
"""Seconds that a node gets to say how it is."""


class Refused(DRefError):
    """The cluster refuses a change of its members; the message says why. Nothing was changed."""


def ask(backend: RaftBackend, question: Question) -> Any:
    """The decoded answer, once somebody can give it. Raises `Unavailable` when nobody can in time, and `Refused`."""
    deadline = time.monotonic() + backend.params.timeout
    attachment = backend.attach()
    while (left := deadline - time.monotonic()) > 0:
        try:
            answer, body = attachment.caller.put(question).result(left)
        except TimeoutError:
            break
        if answer is Answer.DONE:
            return msgpack.unpackb(body) if body else None
        if answer is Answer.REFUSED:
            raise Refused(body.decode())
        if answer is Answer.LOST and question.ask is Ask.CHANGE:
            raise Refused("the leader went away meanwhile: look whether the change was made")
        time.sleep(RETRY)
    raise Unavailable(attachment.trouble or "there is no leader, or it does not answer")


def leader_status(backend: RaftBackend) -> dict[str, Any]:
    """What the leader says of itself and of the other members. Raises `Unavailable`."""
    status: dict[str, Any] = ask(backend, Question(Ask.STATUS, ("leader",)))
    return status


def node_statuses(backend: RaftBackend, addresses: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What each node at these addresses says of itself, by node; nothing of those that do not answer in `TIMEOUT`."""

    async def ask_all() -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(_ask_node(backend, address) for address in addresses.values()))
        return [said for said in answers if said is not None]

    return {said["node"]: said for said in asyncio.run(ask_all())}


def members(status: dict[str, Any], said: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a member, from what the leader says of itself and of the others, and from what each `said` of itself.

    `lag` is how many entries of the leader's log a member is known not to have, None while nothing is known.
    """
    rows = []
    for node in [*status["voters"], *status["learners"]]:
        row: dict[str, Any] = {"node": node, "address": status["addresses"].get(node, "")}
        row |= {"term": status["term"], "last": status["last"], "lag": 0}
        row |= {"role": "voter" if node in status["voters"] else "learner", "silent": 0, "state": "up"}
        if node == status["node"]:
            row["role"] = "leader"
        elif (peer := status["peers"].get(node)) is not None:
            match = peer["match"]  # 0: not heard of since this leader was elected
            row |= {"last": match, "lag": status["last"] - match if match else None, "silent": round(peer["silent"], 1)}
            row["state"] = peer["state"]
        row["refused"] = said[node]["refused"] if node in said else None
        rows.append(row)
    return rows


async def _ask_node(backend: RaftBackend, address: str) -> dict[str, Any] | None:
    options = backend.options
    try:
        async with asyncio.timeout(TIMEOUT):
            channel = await dial(address, options.secrets, {"role": CLIENT}, tls=options.dial_tls)
            try:
                channel.send(pack_question(1, Question(Ask.STATUS)))
                *_, body = msgpack.unpackb(await channel.receive())
            finally:
                channel.close()
    except (OSError, EOFError, TransportError):  # a timeout is an OSError
        return None
    said: dict[str, Any] = msgpack.unpackb(body)
    return said


def facts(backend: RaftBackend) -> dict[str, Any]:
    status = leader_status(backend)
    return {
        "leader": status["leader"],
        "term": status["term"],
        "voters": len(status["voters"]),
        "learners": len(status["learners"]),
        "entries": status["last"],
    }


def check(backend: RaftBackend) -> list[CheckMessage]:
    return list(_cluster(backend))


def _cluster(backend: RaftBackend) -> Iterator[CheckMessage]:
    where = f"DREF_BACKENDS[{backend.params.alias!r}]"
    try:
        status = leader_status(backend)
    except DRefError as error:
        yield Error(
            f"{where}: the Raft cluster has no leader that this process can reach: {error}",
            hint="A majority of the voters has to run and to reach each other; `manage.py dref cluster` shows them.",
            id=NO_LEADER,
        )
        return
    voters = len(status["voters"])
    if voters % 2 == 0:
        yield Warning(
            f"{where}: the Raft cluster has {voters} voters, which survive no more losses than {voters - 1}.",
            hint="Run an odd number of nodes: 3 or 5.",
            id=EVEN,
        )
