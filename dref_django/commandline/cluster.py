"""`manage.py dref cluster`: the members of the embedded cluster, and changes of them."""

from __future__ import annotations

import argparse
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from dref_django.backends.raft.calls import Ask, Question
from dref_django.backends.raft.diagnosis import Refused, ask, leader_status, members, node_statuses
from dref_django.backends.raft.recovery import NotRecovered, recover
from dref_django.backends.raft.storage import StorageError

from . import exits
from .arguments import add_json, add_using
from .printing import write_json, write_table
from .raft import raft_backend

HELP = "Shows the members of the Raft cluster; adds, promotes and removes one, hands leadership over, recovers."
WARNING: Final = """\
This gives up everything that only the other members have. Do it when a majority of the voters is lost for good, with
every node stopped, on the one node with the longest log (`last` in `manage.py dref cluster --json` of each). It becomes
a cluster of one; writes that were acknowledged but never reached it are gone. Delete DATA_DIR of all other nodes before
they start again: an old majority beside the new one is two clusters. Say --yes to go on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        default="members",
        choices=("members", "add", "promote", "remove", "transfer", "recover"),
        help="add a node as a learner, promote a learner to a voter, remove a member, transfer leadership "
        "(to a node, or to the one with the longest log), recover from a lost majority (default: %(default)s)",
    )
    parser.add_argument("node", nargs="?", default="", help="the node's id, as the list of members shows it")
    parser.add_argument("--yes", action="store_true", help="recover: do it")
    add_using(parser)
    add_json(parser)


def handle(options: dict[str, Any], out: OutputWrapper, err: OutputWrapper) -> int:
    backend = raft_backend(options["using"])
    action, node = options["action"], options["node"]
    if action == "recover":
        if not options["yes"]:
            err.write(WARNING)
            return exits.USAGE
        try:
            out.write(recover(backend.options))
        except (NotRecovered, StorageError) as error:
            raise CommandError(str(error)) from error
        return exits.OK
    if action != "members":
        if not node and action != "transfer":
            raise CommandError(f"cluster {action} needs the id of a node; `manage.py dref cluster` lists them.")
        try:
            ask(backend, Question(Ask.CHANGE, (action, node)))
        except Refused as error:
            raise CommandError(f"cluster {action} {node}: {error}.") from error
        out.write(f"Done: {action} {node}".rstrip())
        return exits.OK
    status = leader_status(backend)
    rows = members(status, {status["node"]: status} | node_statuses(backend, status["addresses"]))
    if options["json"]:
        for row in rows:
            write_json(out, row)
    else:
        heads = ("node", "address", "role", "term", "lag", "silent", "state", "refused")
        shown = [{**row, "lag": _count(row["lag"]), "refused": _counts(row["refused"])} for row in rows]
        write_table(out, [head.upper() for head in heads], [[row[head] for head in heads] for row in shown])
    return exits.OK


def _count(known: int | None) -> str:
    return "?" if known is None else str(known)


def _counts(refused: dict[str, int] | None) -> str:
    if refused is None:
        return "?"
    return ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items())) or "0"
