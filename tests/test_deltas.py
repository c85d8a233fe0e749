"""Splices: whatever the two byte strings, applying the splice gives the new one, and it is small when it can be."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dref_django.codecs import MsgpackCodec
from dref_django.deltas import SPLICE_OVERHEAD, apply_splice, make_splice
from dref_django.protocol import Splice

few_bytes = st.binary(max_size=64) | st.text("ab", max_size=80).map(str.encode)


@given(old=few_bytes, new=few_bytes)
@example(old=b"a" * 60, new=b"a" * 61)
@example(old=b"a" * 61, new=b"a" * 60)
@example(old=b"", new=b"a" * 60)
@example(old=b"a" * 60, new=b"")
def test_applying_the_splice_gives_the_new_bytes(old: bytes, new: bytes) -> None:
    splice = make_splice(old, new)
    if splice is not None:
        assert apply_splice(old, splice) == new


@given(old=few_bytes, new=few_bytes)
@example(old=b"x" * SPLICE_OVERHEAD + b"a", new=b"x" * SPLICE_OVERHEAD + b"b")
@example(old=b"x" * SPLICE_OVERHEAD + b"xa", new=b"x" * SPLICE_OVERHEAD + b"xb")
def test_a_splice_is_made_exactly_when_it_saves_more_than_its_overhead(old: bytes, new: bytes) -> None:
    splice = make_splice(old, new)
    if splice is not None:
        assert len(splice.replacement) + SPLICE_OVERHEAD < len(new)
    else:
        shared = _shared(old, new)
        assert len(new) - shared + SPLICE_OVERHEAD >= len(new)


def _shared(old: bytes, new: bytes) -> int:
    """Bytes of common prefix and, behind it, suffix, counted one by one."""
    limit = min(len(old), len(new))
    start = 0
    while start < limit and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < limit - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return start + tail


@given(
    before=st.binary(max_size=200),
    old_middle=st.binary(max_size=20),
    new_middle=st.binary(max_size=20),
    after=st.binary(min_size=40, max_size=200),
)
def test_a_splice_carries_no_more_than_what_changed(
    before: bytes, old_middle: bytes, new_middle: bytes, after: bytes
) -> None:
    splice = make_splice(before + old_middle + after, before + new_middle + after)
    assert splice is not None
    assert len(splice.replacement) <= len(new_middle)
    assert splice.end - splice.start <= len(old_middle) + len(new_middle)


def test_equal_values_need_an_empty_splice() -> None:
    value = b"x" * 100
    splice = make_splice(value, value)
    assert splice == Splice(100, 100, b"")
    assert apply_splice(value, splice) == value


def test_one_changed_field_of_100_kb_costs_only_its_own_bytes() -> None:
    codec = MsgpackCodec()
    value = {f"field-{number}": "x" * 90 for number in range(1000)}
    old = codec.encode(value)
    new = codec.encode({**value, "field-500": "y" * 90})
    splice = make_splice(old, new)
    assert len(old) > 100_000
    assert splice is not None
    assert len(splice.replacement) == 90
    assert apply_splice(old, splice) == new


def test_short_values_are_sent_whole() -> None:
    assert make_splice(b"same", b"same") is None


@pytest.mark.parametrize("splice", [Splice(-1, 2, b""), Splice(3, 2, b""), Splice(0, 5, b"")])
def test_a_splice_that_does_not_fit_is_refused(splice: Splice) -> None:
    with pytest.raises(ValueError, match="does not fit a value of 4 bytes"):
        apply_splice(b"four", splice)
