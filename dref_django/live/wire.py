"""The messages, version 1: requests are parsed and checked here, answers are made here. Pure.

Every message is one JSON object with a `type`. docs/live.md tells the whole protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from dref_django.exceptions import InvalidName
from dref_django.naming import GROUP_SEPARATOR
from dref_django.protocol import MAX_NAME_LENGTH, check_name

from .view import to_json

PROTOCOL: Final = 1
SUBPROTOCOL: Final = "dref.v1"
"""What a client offers in `Sec-WebSocket-Protocol`; the next version has another name, and a server may speak both."""

MAX_EPOCH: Final = 200

RESTARTING: Final = 1012
TRY_LATER: Final = 1013
TOO_BIG: Final = 1009
UNSUPPORTED: Final = 4406
UNRESPONSIVE: Final = 4408
TOO_MANY_REQUESTS: Final = 4429
"""Codes with which the server closes a websocket."""

Position: TypeAlias = tuple[str, int]
"""(epoch, version) of a value that a client holds."""
RequestId: TypeAlias = int | str | None


@dataclass(frozen=True, slots=True)
class Watch:
    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    resume: Mapping[str, Position] = field(default_factory=dict)
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Unwatch:
    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Resync:
    """The client does not trust what it holds of these names: it wants their snapshots."""

    names: tuple[str, ...]
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Pong:
    ping: int


@dataclass(frozen=True, slots=True)
class Increment:
    name: str
    amount: int
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Set:
    """`text` is the JSON of the new value."""

    name: str
    text: str
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Sets it only if `version` is still the one that is stored; 0: if there is no value."""

    name: str
    text: str
    version: int
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Join:
    """The client is in these rooms until it leaves, or is gone."""

    rooms: tuple[str, ...]
    id: RequestId = None


@dataclass(frozen=True, slots=True)
class Leave:
    rooms: tuple[str, ...]
    id: RequestId = None


Change: TypeAlias = Increment | Set | CompareAndSet
Request: TypeAlias = Watch | Unwatch | Resync | Pong | Change | Join | Leave


class BadRequest(Exception):
    """A message that cannot be understood. `code` and the text go back to the client."""

    def __init__(self, code: str, message: str, request: RequestId = None) -> None:
        super().__init__(message)
        self.code = code
        self.request = request


def parse(text: str) -> Request:
    """The request in a message. Raises `BadRequest`."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest("malformed", f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadRequest("malformed", "a message is a JSON object with a type")
    request = message.get("id")
    if not (request is None or (isinstance(request, str) and len(request) <= 64) or type(request) is int):
        raise BadRequest("malformed", "id is a whole number or a string of up to 64 characters")
    try:
        return _request(message, request)
    except BadRequest as error:
        error.request = request
        raise


def _request(message: dict[str, Any], request: RequestId) -> Request:
    match message.get("type"):
        case "watch":
            names, prefixes = _names(message), _prefixes(message)
            return Watch(names, prefixes, _positions(message), request)
        case "unwatch":
            return Unwatch(_names(message), _prefixes(message), request)
        case "resync":
            return Resync(_names(message), request)
        case "pong":
            ping = message.get("ping")
            if type(ping) is not int:
                raise BadRequest("malformed", "a pong carries the number of its ping")
            return Pong(ping)
        case "increment":
            return Increment(_name(message), _whole(message, "amount", 1), request)
        case "set":
            return Set(_name(message), _value(message), request)
        case "compare_and_set":
            return CompareAndSet(_name(message), _value(message), _whole(message, "version", None), request)
        case "join":
            return Join(_names(message, "rooms"), request)
        case "leave":
            return Leave(_names(message, "rooms"), request)
        case other:
            raise BadRequest("unknown-type", f"version {PROTOCOL} has no message of type {str(other)[:40]!r}")


def _strings(message: dict[str, Any], key: str) -> list[str]:
    given = message.get(key, [])
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise BadRequest("malformed", f"{key} is a list of strings")
    return given


def _names(message: dict[str, Any], key: str = "names") -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_strings(message, key)))
    for name in names:
        _check(name)
    return names


def _name(message: dict[str, Any]) -> str:
    name = message.get("name")
    if not isinstance(name, str):
        raise BadRequest("malformed", "name is a string")
    _check(name)
    return name


def _whole(message: dict[str, Any], key: str, default: int | None) -> int:
    number = message.get(key, default)
    if type(number) is not int:
        raise BadRequest("malformed", f"{key} is a whole number")
    return number


def _value(message: dict[str, Any]) -> str:
    if "value" not in message:
        raise BadRequest("malformed", "there is no value")
    try:
        return to_json(message["value"])
    except (ValueError, RecursionError) as error:
        raise BadRequest("malformed", f"value is not JSON: {error}") from error


def _prefixes(message: dict[str, Any]) -> tuple[str, ...]:
    prefixes = tuple(dict.fromkeys(_strings(message, "prefixes")))
    for prefix in prefixes:
        if prefix:
            _check(prefix.removesuffix(GROUP_SEPARATOR))
    return prefixes


def _check(name: str) -> None:
    try:
        for part in name.split(GROUP_SEPARATOR, 1):
            check_name(part)
    except InvalidName as error:
        raise BadRequest("invalid-name", str(error)) from error


def _positions(message: dict[str, Any]) -> dict[str, Position]:
    given = message.get("resume", {})
    if not isinstance(given, dict):
        raise BadRequest("malformed", "resume is an object of name to [epoch, version]")
    positions: dict[str, Position] = {}
    for name, position in given.items():
        match position:
            case [str(epoch), int(version)] if len(epoch) <= MAX_EPOCH and len(name) <= 2 * MAX_NAME_LENGTH + 1:
                positions[name] = (epoch, version)
            case _:
                raise BadRequest("malformed", f"resume has no [epoch, version] for {name[:40]!r}")
    return positions


# --- answers ------------------------------------------------------------------------------------------------------


def hello(heartbeat: float) -> str:
    return to_json({"type": "hello", "protocol": PROTOCOL, "heartbeat": heartbeat})


def watching(names: list[str], prefixes: list[str], request: RequestId) -> str:
    return _answer({"type": "watching", "names": names, "prefixes": prefixes}, request)


def unwatched(names: list[str], prefixes: list[str], request: RequestId) -> str:
    return _answer({"type": "unwatched", "names": names, "prefixes": prefixes}, request)


def written(name: str, about: Mapping[str, object], request: RequestId) -> str:
    return _answer({"type": "written", "name": name, **about}, request)


def joined(rooms: list[str], request: RequestId) -> str:
    return _answer({"type": "joined", "rooms": rooms}, request)


def left(rooms: list[str], request: RequestId) -> str:
    return _answer({"type": "left", "rooms": rooms}, request)


def error(code: str, message: str, request: RequestId = None, **about: list[str]) -> str:
    return _answer({"type": "error", "code": code, "message": message, **about}, request)


def ping(number: int, *, stale: bool) -> str:
    message: dict[str, object] = {"type": "ping", "ping": number}
    if stale:
        message["stale"] = True
    return to_json(message)


def snapshot(name: str, position: Position, text: str, *, deleted: bool) -> str:
    message = {"type": "snapshot", "name": name, "epoch": position[0], "version": position[1], "text": text}
    return to_json({**message, "deleted": True} if deleted else message)


def splice(name: str, base: int, version: int, change: tuple[int, int, str], size: int, *, deleted: bool) -> str:
    start, end, insert = change
    message: dict[str, object] = {"type": "splice", "name": name, "version": version, "base": base}
    message |= {"start": start, "end": end, "insert": insert, "size": size}
    return to_json({**message, "deleted": True} if deleted else message)


def current(name: str, position: Position) -> str:
    return to_json({"type": "current", "name": name, "epoch": position[0], "version": position[1]})


def _answer(message: dict[str, object], request: RequestId) -> str:
    return to_json(message if request is None else {**message, "id": request})
