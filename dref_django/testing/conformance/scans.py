"""Names of every kind, and finding them again by prefix, page by page."""

from __future__ import annotations

from typing import Final

import pytest

from dref_django.backends import Backend
from dref_django.naming import GROUP_SEPARATOR
from dref_django.protocol import Acquire, Delete, Read, Release, Row, Scan, Status, Write

from .contract import NOW, SECOND, Client, Contract

# A name ends as these say, and each is also a prefix that must match itself and nothing else.
ODD: Final = {
    "space": " a b ",
    "slash": "a/b",
    "backslash": "a\\b",
    "percent": "100%",
    "escape": "%7B%25",
    "underscore": "a_b",
    "star": "a*b",
    "question": "a?b",
    "brackets": "[a-z]b",
    "caret": "^a$",
    "braces": "{a}b",
    "open brace": "}{",
    "empty braces": "{}",
    "quotes": "a'b\"c`",
    "colon": "a:b@c#d|e;f,g",
    "dots": "..a..",
    "umlaut": "größe",
    "decomposed": "gro\u0308\u00dfe",
    "cjk": "値段",
    "emoji": "🎉🏳️‍🌈",
    "right to left": "שלום",
    "no-break space": "a\u00a0b",
    "last of the plane": "a\uffff\ufffd",
    "group": f"group{GROUP_SEPARATOR}member",
    "braces in group": f"{{g}}{GROUP_SEPARATOR}{{m}}",
}


class NameContract(Contract):
    @pytest.mark.parametrize("ending", ODD.values(), ids=ODD)
    def test_odd_names_are_apart_from_their_likes(self, client: Client, name: str, ending: str) -> None:
        odd = f"{name}.{ending}"
        likes = [f"{name}.", f"{odd}x", f"{name}.x{ending}", odd.replace("{", "("), odd.swapcase()]
        others = sorted({each for each in likes if each != odd})
        for each in others:
            client(Write(each, b"other"))
        client(Write(odd, b"value"))
        assert client(Acquire(odd, "node/1", SECOND)).status is Status.APPLIED
        assert client.data(odd) == b"value"
        assert {client.data(each) for each in others} == {b"other"}
        client(Delete(odd))
        assert {client.data(each) for each in others} == {b"other"}
        assert [info.name for info in client.scan_leases(odd)] == [odd]

    @pytest.mark.parametrize("letter", ["x", "ß", "値", "🎉", "{"])
    def test_names_have_up_to_200_characters(self, client: Client, name: str, letter: str) -> None:
        long = (name + letter * 200)[:200]
        client(Write(long, b"long"))
        client(Write(long[:-1], b"shorter"))
        assert client.data(long) == b"long"
        assert client.data(long[:-1]) == b"shorter"
        assert [row.name for row in client.scan(long)] == [long]

    def test_entries_and_leases_of_one_name_are_apart(self, client: Client, name: str) -> None:
        client(Acquire(name, "node/1", SECOND))
        assert client(Read(name)).version == 0
        client(Write(name, 1))
        client(Release(name, "node/1"))
        assert client.data(name) == 1
        assert client.scan_leases(name) == []


class ScanContract(Contract):
    @pytest.mark.parametrize("ending", ODD.values(), ids=ODD)
    def test_prefix_matches_itself_to_the_letter(self, client: Client, name: str, ending: str) -> None:
        prefix = f"{name}.{ending}"
        inside = [prefix, f"{prefix} ", f"{prefix}1", f"{prefix}{ending}", f"{prefix}\U0010ffff"]
        outside = [f"{name}.", f"{name}.{ending[:-1]}~", f"{name}.0{ending}", name, f"{name}.{ending[1:]}0"]
        for each in inside:
            client(Write(each, 1))
        for each in outside:
            if not each.startswith(prefix):
                client(Write(each, 1))
        assert [row.name for row in client.scan(prefix)] == sorted(inside)

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
    def test_pages_of_any_size_show_every_entry_once_in_code_point_order(
        self, client: Client, name: str, limit: int
    ) -> None:
        letters = "Zaz~é\ue000\uffee🎉"  # in UTF-16 the last would come before the two before it
        for letter in letters:
            client(Write(f"{name}.{letter}", 1))
        assert [row.name for row in client.scan(f"{name}.", limit=limit)] == [
            f"{name}.{each}" for each in sorted(letters)
        ]

    def test_rows_tell_version_size_and_life(self, client: Client, name: str) -> None:
        client(Write(f"{name}.1", b"12345", ttl=SECOND))
        client(Write(f"{name}.2", 17))
        client(Write(f"{name}.3", b""))
        rows = [
            Row(f"{name}.1", NOW, 5, SECOND - 1000, b"12345"),
            Row(f"{name}.2", NOW, 8, None, 17),
            Row(f"{name}.3", NOW, 0, None, b""),
        ]
        assert client.scan(f"{name}.", values=True, now=NOW + 1000) == rows
        assert client.scan(f"{name}.", now=NOW + 1000) == [row._replace(data=None) for row in rows]

    def test_deleted_and_expired_entries_do_not_show(self, client: Client, name: str) -> None:
        for letter in "abc":
            client(Write(f"{name}.{letter}", 1, ttl=SECOND if letter == "b" else None))
        client(Delete(f"{name}.a"))
        assert [row.name for row in client.scan(name)] == [f"{name}.b", f"{name}.c"]
        assert [row.name for row in client.scan(name, limit=1, now=NOW + SECOND)] == [f"{name}.c"]

    def test_scan_goes_on_after_a_name_that_is_gone(self, client: Client, name: str) -> None:
        for letter in "abcd":
            client(Write(f"{name}.{letter}", 1))
        assert len(client(Scan(name, limit=2)).page) == 2
        client(Delete(f"{name}.b"))
        rest = client(Scan(name, after=f"{name}.b", limit=10))
        assert [row.name for row in rest.page] == [f"{name}.c", f"{name}.d"]
        assert rest.cursor == ""

    def test_cursor_before_the_prefix_starts_at_the_prefix(self, client: Client, name: str) -> None:
        client(Write(f"{name}.a", 1))
        assert [row.name for row in client(Scan(f"{name}.", after=name[:3])).page] == [f"{name}.a"]
        assert client(Scan(f"{name}.", after=f"{name}.zzz")).page == ()

    def test_empty_prefix_is_every_entry(self, client: Client, name: str) -> None:
        client(Write(f"~{name}", 1))
        client(Write(f"!{name}", 1))
        found = [row.name for row in client.scan("", limit=500)]
        assert {f"~{name}", f"!{name}"} <= set(found)
        assert found == sorted(set(found))

    def test_nothing_with_the_prefix_is_an_empty_last_page(self, client: Client, name: str) -> None:
        reply = client(Scan(name))
        assert (reply.status, reply.page, reply.cursor) == (Status.APPLIED, (), "")

    def test_other_back_end_object_sees_the_same_entries(self, client: Client, peer: Backend, name: str) -> None:
        client(Write(name, b"shared"))
        (reply,) = peer.execute([Scan(name, values=True)], now=NOW)
        assert [row.data for row in reply.page if isinstance(row, Row)] == [b"shared"]
