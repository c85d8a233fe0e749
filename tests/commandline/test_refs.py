"""list, get, set, add and watch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dref_django import Counter, DRef, Election
from tests.commandline.conftest import dref

pytestmark = pytest.mark.usefixtures("any_backend")


def anything(name: str) -> DRef[Any]:
    return DRef(name, None)


class TestList:
    def test_names_under_a_prefix_in_order(self) -> None:
        for name in ("shop.b", "shop.a", "other"):
            Counter(name).set(1)
        assert [record["name"] for record in dref("list", "shop.", "--json").records] == ["shop.a", "shop.b"]
        table = dref("list", "--values").out.splitlines()
        assert table[0].split() == ["NAME", "CHANGED", "(UTC)", "SIZE", "TTL", "VALUE"]
        assert [line.split()[0] for line in table[1:]] == ["other", "shop.a", "shop.b"]

    def test_what_is_known_without_the_value(self) -> None:
        anything("mood").set({"happy": 1}, ttl=60)
        (record,) = dref("list", "--json").records
        assert "value" not in record
        assert 50 < record["ttl"] <= 60
        assert record["size"] == 8
        assert abs(datetime.now(UTC) - datetime.fromisoformat(record["changed"])) < timedelta(seconds=60)

    def test_own_records_only_on_request(self) -> None:
        with Election("boss").lead():
            assert dref("list", "--json").out == ""
            (record,) = dref("list", "--all", "--json").records
        assert (record["group"], record["name"]) == ("dref.election", "boss")

    def test_limit(self) -> None:
        for number in range(5):
            Counter(f"n{number}").set(number)
        assert len(dref("list", "--limit", "3", "--json").records) == 3


class TestGet:
    def test_value_as_json(self) -> None:
        anything("mood").set({"happy": [1, True, None]})
        assert json.loads(dref("get", "mood").out) == {"happy": [1, True, None]}
        (record,) = dref("get", "mood", "--json").records
        assert (record["value"], record["type"]) == ({"happy": [1, True, None]}, "dict")

    def test_absent_is_code_1(self) -> None:
        outcome = dref("get", "nothing")
        assert (outcome.code, outcome.out) == (1, "")
        assert "'nothing' has no value" in outcome.err

    def test_of_a_group(self) -> None:
        Counter("visits", group="shop").set(3)
        assert dref("get", "visits", "--group", "shop").out == "3\n"

    def test_declared_codec_reads_it_and_the_wrong_one_says_so(self) -> None:
        declared: DRef[Any] = DRef("coded.odd", {}, codec="json")
        declared.set({"a": 1})
        assert json.loads(dref("get", "coded.odd").out) == {"a": 1}
        del declared
        outcome = dref("get", "coded.odd")
        assert outcome.code == 1
        assert "not readable as msgpack" in outcome.err


class TestSet:
    def test_json_and_text(self) -> None:
        assert dref("set", "mood", '{"happy": 1}').code == 0
        assert dref("set", "title", "--text", "[not json").code == 0
        assert anything("mood").get() == {"happy": 1}
        assert anything("title").get() == "[not json"

    def test_through_the_declared_type(self) -> None:
        due: DRef[datetime] = DRef("typed.due", type=datetime)
        assert dref("set", "typed.due", '"2026-01-02T03:04:05+00:00"').code == 0
        assert due.get() == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        outcome = dref("set", "typed.due", "5")
        assert outcome.code == 2
        assert due.get() == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def test_what_is_no_json_is_code_2(self) -> None:
        outcome = dref("set", "mood", "happy")
        assert outcome.code == 2
        assert "not JSON" in outcome.err

    def test_time_to_live(self) -> None:
        assert dref("set", "mood", "1", "--ttl", "60").code == 0
        (record,) = dref("get", "mood", "--json").records
        assert 50 < record["ttl"] <= 60
        assert dref("set", "mood", "1", "--ttl", "-1").code != 0

    def test_only_from_the_named_version(self) -> None:
        visits = Counter("visits")
        visits.set(1)
        seen = visits.version()
        visits.set(2)
        outcome = dref("set", "visits", "9", "--if-version", str(seen), "--json")
        assert outcome.code == 1
        assert outcome.records[0]["value"] == visits.get() == 2
        assert dref("set", "visits", "9", "--if-version", str(visits.version())).code == 0
        assert visits.get() == 9

    def test_only_if_absent(self) -> None:
        assert dref("set", "mood", "1", "--if-absent").code == 0
        assert dref("set", "mood", "2", "--if-absent").code == 1
        assert DRef("mood", 0).get() == 1


class TestAdd:
    def test_prints_the_sum(self) -> None:
        assert dref("add", "visits", "5").out == "5\n"
        assert dref("add", "visits", "--json").records == [{"name": "visits", "group": None, "value": 6}]
        assert dref("add", "visits", "-10").out == "-4\n"

    def test_other_than_integers_are_left_alone(self) -> None:
        anything("mood").set("happy")
        assert dref("add", "mood").code == 2
        assert anything("mood").get() == "happy"


class TestWatch:
    def test_begins_with_what_is(self) -> None:
        Counter("visits").set(3)
        (record,) = dref("watch", "visits", "--count", "1", "--json").records
        assert (record["name"], record["value"], record["deleted"]) == ("visits", 3, False)
        line = dref("watch", "vis*", "--count", "1").out
        assert line.split()[1:] == ["visits", "3"]

    def test_ends_when_nothing_changes_for_the_timeout(self) -> None:
        assert dref("watch", "no.such.*", "--timeout", "0.05").code == 0
