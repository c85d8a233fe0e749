"""Text forms of the scalars that no wire format has: exact, ASCII, and standard where a standard exists.

- datetime, date, time: ISO 8601 as Python writes it. A time zone with an IANA key carries it behind, as in RFC 9557:
  `2024-10-27T02:30:00+01:00[Europe/Berlin]`. `fold=1` is carried as `[_fold=1]`.
- timedelta: an ISO 8601 duration in seconds, `PT90.5S`, `-PT0.000001S`.
- Decimal: as `str()` writes it: `1.50`, `-0`, `1E+3`, `NaN`, `-Infinity`.
- UUID: the hyphenated form. bytes: base64 with padding (RFC 4648).

What is lost, by design: the name of a fixed-offset zone, and the class of a time zone that is neither a `timezone` nor
a `ZoneInfo` with a key: its offset stays. A host that does not know the key reads the offset alone; where its rules
give that local time another offset, the instant wins over the local time.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

_DURATION: Final = re.compile(r"(-?)PT(\d+)(?:\.(\d{1,6}))?S", re.ASCII)
_FOLD: Final = "[_fold=1]"


def datetime_to_text(value: datetime) -> str:
    return value.isoformat() + _suffix(value)


def datetime_from_text(text: str) -> datetime:
    if "[" not in text:
        return datetime.fromisoformat(text)
    text, key, fold = _split(text)
    value = datetime.fromisoformat(text)
    zone = _zone(key)
    if zone is None or value.tzinfo is None:
        return value.replace(fold=fold)
    local = value.replace(tzinfo=zone, fold=fold)
    if local.utcoffset() == value.utcoffset():
        return local
    return value.astimezone(zone)


def time_to_text(value: time) -> str:
    return value.isoformat() + _suffix(value)


def time_from_text(text: str) -> time:
    if "[" not in text:
        return time.fromisoformat(text)
    text, key, fold = _split(text)
    value = time.fromisoformat(text).replace(fold=fold)
    zone = _zone(key)
    if zone is not None:
        return value.replace(tzinfo=zone)
    if key and value.tzinfo is None:
        raise ValueError(f"the time zone {key!r} is not known on this host")
    return value


def duration_to_text(value: timedelta) -> str:
    micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    seconds, micros_left = divmod(abs(micros), 1_000_000)
    fraction = f".{micros_left:06}".rstrip("0") if micros_left else ""
    return f"{'-' if micros < 0 else ''}PT{seconds}{fraction}S"


def duration_from_text(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration in seconds: {text[:60]!r}")
    sign, seconds, fraction = match.groups()
    value = timedelta(seconds=int(seconds), microseconds=int((fraction or "0").ljust(6, "0")))
    return -value if sign else value


def decimal_from_text(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError as error:
        raise ValueError(f"not a decimal number: {text[:60]!r}") from error


def bytes_to_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def bytes_from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def zone_objection(value: object) -> str | None:
    """Why the time zone of a datetime or time would not come back, None when it would."""
    if not isinstance(value, datetime | time) or value.tzinfo is None or value.tzinfo is UTC:
        return None
    offset = value.utcoffset()
    if offset is None and _key(value) is None:
        return f"cannot store a time zone without offset or key: {type(value.tzinfo).__qualname__}"
    if offset is not None and offset.microseconds:
        return f"cannot store a UTC offset with a fraction of a second: {offset}"
    return None


TEXT: Final[dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    datetime: (datetime_to_text, datetime_from_text),
    date: (date.isoformat, date.fromisoformat),
    time: (time_to_text, time_from_text),
    timedelta: (duration_to_text, duration_from_text),
    Decimal: (str, decimal_from_text),
    UUID: (str, UUID),
    bytes: (bytes_to_text, bytes_from_text),
}
"""How each scalar is written and read as text. Reading raises ValueError on text that is none."""


def _key(value: datetime | time) -> str | None:
    return value.tzinfo.key if type(value.tzinfo) is ZoneInfo else None


def _suffix(value: datetime | time) -> str:
    key = _key(value)
    return (f"[{key}]" if key else "") + (_FOLD if value.fold else "")


def _split(text: str) -> tuple[str, str, int]:
    plain, _, rest = text.partition("[")
    tags = rest.removesuffix("]").split("][")
    key = next((tag.removeprefix("!") for tag in tags if "=" not in tag), "")
    return plain, key, int("_fold=1" in tags)


def _zone(key: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(key) if key else None
    except (LookupError, ValueError, OSError):
        return None
