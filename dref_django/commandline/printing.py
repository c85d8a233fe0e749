"""How answers are printed: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.management.base import OutputWrapper

from dref_django.catalog import StoredRef
from dref_django.exceptions import DRefError
from dref_django.inspection import LockInfo
from dref_django.live.view import to_json, view_of

WIDEST: Final = 60
"""Characters of one column's cell in a table."""


def write_json(out: OutputWrapper, record: Mapping[str, Any]) -> None:
    out.write(json.dumps(record, default=_plain, ensure_ascii=False))


def write_table(out: OutputWrapper, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Every row at once: for pages, not for all that is stored."""
    shown = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *shown, strict=True)]
    for row in (heads, *shown):
        out.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown_value(ref: StoredRef) -> str:
    """One line: JSON where the value is one, else how Python writes it."""
    try:
        value = ref.value()
    except DRefError as error:
        return f"<{error}>"
    return to_json_or_repr(value)


def to_json_or_repr(value: Any) -> str:
    try:
        return to_json(view_of(value))
    except DRefError:
        return repr(value)


def json_value(value: Any) -> Any:
    try:
        return view_of(value)
    except DRefError:
        return repr(value)


def ref_record(ref: StoredRef) -> dict[str, Any]:
    """What `--json` says of a ref; `value` only where it was read."""
    record: dict[str, Any] = {
        "name": ref.name.rpartition("\x1f")[2],
        "group": ref.group or None,
        "type": ref.type,
        "version": ref.version,
        "size": ref.size,
        "ttl": ref.left,
        "changed": ref.changed,
    }
    if ref.data is not None:
        try:
            record["value"] = json_value(ref.value())
        except DRefError as error:
            record["error"] = str(error)
    return record


def lock_record(info: LockInfo) -> dict[str, Any]:
    return {
        "kind": info.kind,
        "name": info.name.replace("\x1f", "/"),
        "held": info.held,
        "host": info.host,
        "pid": info.pid,
        "thread": info.thread,
        "since": info.since,
        "left": info.left,
        "waiters": info.waiters,
        "token": info.token,
        "meta": info.meta,
    }


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def _cell(cell: Any) -> str:
    text = "" if cell is None else f"{cell:%Y-%m-%d %H:%M:%S}" if isinstance(cell, datetime) else str(cell)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
