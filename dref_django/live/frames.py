"""What pages are told of a name: a frame a version, made once a process."""

from __future__ import annotations

import logging
from functools import cached_property
from itertools import count
from typing import Any, Final

from dref_django.deltas import make_splice
from dref_django.exceptions import DRefError
from dref_django.hub import Raw
from dref_django.refs import DRef, ref_for

from . import wire
from .view import to_json, view_of

logger = logging.getLogger("dref_django")

_serials: Final = count(1)


class Frame:
    """What pages are told of one version of one name. Made once, never changed."""

    def __init__(self, raw: Raw, text: bytes | None, problem: str, before: Frame | None) -> None:
        self.serial = next(_serials)
        self.name = raw.name
        self.position = (raw.epoch, raw.version)
        self.deleted = raw.data is None
        self.text = text
        self.problem = problem
        """Why there is no text: the stored value does not fit the ref's type, or has no view."""
        self.follows = 0
        """Serial of the frame that `splice` continues; 0: none, it takes the snapshot."""
        self.splice = ""
        if before is None or before.position[0] != raw.epoch:
            return
        if before.text is not None and text is not None:
            self._continue(before, before.text, text)

    def _continue(self, before: Frame, old: bytes, new: bytes) -> None:
        cut = make_splice(old, new)
        if cut is None:
            return
        change = (cut.start, cut.end, cut.replacement.decode("ascii"))
        base, version = before.position[1], self.position[1]
        self.splice = wire.splice(self.name, base, version, change, len(new), deleted=self.deleted)
        self.follows = before.serial

    @cached_property
    def whole(self) -> str:
        """The message for a client that cannot use the splice."""
        if self.text is None:
            return wire.error("invalid-value", self.problem, names=[self.name])
        return wire.snapshot(self.name, self.position, self.text.decode("ascii"), deleted=self.deleted)


class Entry:
    """One name that somebody watches, by itself or under a prefix."""

    __slots__ = ("_ref", "frame", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frame: Frame | None = None
        self._ref: DRef[Any] | None = None

    def take(self, raw: Raw, alias: str) -> bool:
        """On the encoder thread. Returns whether there is something new to send."""
        before = self.frame
        if before is not None and before.position == (raw.epoch, raw.version):
            return False
        text, problem = None, ""
        try:
            self._ref = ref_for(self.name, alias)  # kept: an undeclared one would be made anew for every change
            text = to_json(view_of(self._ref._decode(self.name, raw.data))).encode("ascii")
        except DRefError as error:
            problem = str(error)
        except Exception:
            logger.exception("dref: %r cannot be shown on a page", self.name)
            problem = "the value cannot be shown; the server's log says why"
        self.frame = Frame(raw, text, problem, before)
        return True
