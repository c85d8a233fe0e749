"""Names become keys that no two names share."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from dref_django.backends.redis.keys import Keys, escape, escape_glob, unescape

# Full of what the escapes are about, so that near collisions are tried.
TEXT = st.text(alphabet=st.sampled_from("ab{}%:!7BD25é"), min_size=1, max_size=8)
NAMES = st.one_of(TEXT, st.tuples(TEXT, TEXT).map("\x1f".join), st.text(min_size=1, max_size=20))
KEYS = Keys("shop", 0)


@given(NAMES.filter(lambda name: name.count("\x1f") < 2), NAMES.filter(lambda name: name.count("\x1f") < 2))
def test_no_two_names_share_a_key(first: str, second: str) -> None:
    keys = {KEYS.entry(first), KEYS.lease(first), KEYS.entry(second), KEYS.lease(second)}
    assert len(keys) == (2 if first == second else 4)
    assert not keys & {KEYS.layout, KEYS.names, KEYS.leases}


@given(TEXT)
def test_name_that_looks_escaped_has_another_key(name: str) -> None:
    if escape(name) != name:
        assert KEYS.entry(escape(name)) != KEYS.entry(name)


@given(TEXT, TEXT, TEXT, TEXT)
def test_no_two_prefixes_share_a_key_or_a_channel(prefix: str, name: str, other_prefix: str, other_name: str) -> None:
    one, other = Keys(prefix, 0), Keys(other_prefix, 0)
    if prefix != other_prefix:
        assert one.entry(name) != other.entry(other_name)
        assert one.channel(name) != other.channel(other_name)


@given(TEXT.filter(lambda name: "\x1f" not in name))
def test_entry_and_lease_share_the_slot_of_their_tag(name: str) -> None:
    assert key_slot(KEYS.entry(name)) == key_slot(KEYS.lease(name)) == key_slot(KEYS.tag(name).encode())


@given(TEXT, TEXT, TEXT)
def test_names_of_a_group_share_a_slot(group: str, first: str, second: str) -> None:
    one, other = f"{group}\x1f{first}", f"{group}\x1f{second}"
    assert key_slot(KEYS.entry(one)) == key_slot(KEYS.entry(other)) == key_slot(KEYS.lease(other))
    assert KEYS.tag(one) == KEYS.tag(other)


@given(NAMES.filter(lambda name: name.count("\x1f") < 2))
def test_name_is_found_again_in_its_key(name: str) -> None:
    assert KEYS.name(KEYS.entry(name)) == name.encode()
    assert KEYS.name(KEYS.lease(name), b"!") == name.encode()
    assert KEYS.name(KEYS.entry(name), b"!") is None
    assert KEYS.name(KEYS.lease(name)) is None


def test_keys_that_name_nothing_are_passed_over() -> None:
    for key in (KEYS.layout, KEYS.names, KEYS.leases, b"other", b"{shop:open", b"{other:a}"):
        assert KEYS.name(key) is None


def test_key_as_documented() -> None:
    assert KEYS.entry("site.visits") == b"{shop:site.visits}"
    assert KEYS.lease("site.visits") == b"{shop:site.visits}!"
    assert KEYS.entry("cart\x1ftotal") == b"{shop:cart}:total"
    assert KEYS.entry("100%{a}") == b"{shop:100%25%7Ba%7D}"
    assert Keys("my shop:eu", 3).entry("a") == b"{my%20shop%3Aeu:a}"
    assert Keys("my shop:eu", 3).channel("a") == b"my%20shop%3Aeu@3:a"


@given(st.text(alphabet="%257BDab", max_size=10))
def test_unescape_takes_nothing_else_apart(text: str) -> None:
    assert unescape(text.replace("%", "%25").encode()) == text.encode()


@given(st.text(alphabet="a*?[]\\^-", max_size=8))
def test_escaped_glob_has_no_open_special(text: str) -> None:
    assert not re.search(r"(?<!\\)(?:\\\\)*[*?\[\]]", escape_glob(text))
