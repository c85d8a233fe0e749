"""The types that the tests of typed values store, of every kind, and a schema of a ref for them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Annotated, NamedTuple, NewType, NotRequired, Optional, TypedDict

import msgspec

from dref_django.codecs import Codec, Schema, get_codec

LIMIT = 1_000_000
MSGPACK = get_codec("msgpack")
JSON = get_codec("json")


def schema(type_: object | None, codec: Codec = MSGPACK, limit: int = LIMIT) -> Schema:
    return Schema("feature-flags", type_, codec, limit)


def encoded(made: Schema, value: object, base: bytes | int | None = None) -> bytes:
    data = made.encode(value, base)
    assert isinstance(data, bytes)
    return data


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    MARS = (6.42e23, 3.39e6)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


UserId = NewType("UserId", int)


@dataclass(frozen=True)
class Price:
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Item:
    name: str
    price: Price | None = None
    tags: list[str] = field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict):
    verbose: bool
    depth: NotRequired[int]


@dataclass
class Node:
    label: str
    children: list[Node] = field(default_factory=list)
    parent: Optional[Node] = None  # noqa: UP045 -- the spelling is what is tested


@dataclass
class Derived:
    width: int
    area: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.area = self.width**2


@dataclass
class Picky:
    percent: int

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError("percent must be 0 to 100")


class Shape(msgspec.Struct, tag=True):
    name: str


class Circle(msgspec.Struct, tag=True, frozen=True):
    name: str
    radius: float = 1.0


class Square(Shape):
    side: Annotated[int, msgspec.Meta(ge=0)] = 1


class Album(msgspec.Struct, rename="camel"):
    album_title: str
    released: date | None = None
    labels: set[str] = msgspec.field(default_factory=set)
    covers: dict[str, bytes] = msgspec.field(default_factory=dict)


class Unknown:
    """What no codec can store."""
