"""Settings: every shape they may have, and a sentence that says what to do for those they may not."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dref_django import Counter, backends, conf
from dref_django.backends import Backend, Params
from dref_django.backends.base import DEFAULT_LOCK_TIMEOUT, DEFAULT_MAX_VALUE_SIZE, DEFAULT_TIMEOUT
from dref_django.backends.memory import MemoryBackend

MEMORY = conf.SHORT_NAMES["memory"]


class OwnBackend(MemoryBackend):
    """Found by its dotted path."""


def no_backend(params: Params) -> str:
    return params.alias


def configured(**settings: Any) -> conf.Configuration:
    with override_settings(**{"DREF_BACKEND": None, "DREF_BACKENDS": None, **settings}):
        return conf.configuration(settings.pop("alias", "default"))


class TestShapes:
    def test_unset_is_memory(self) -> None:
        assert configured() == conf.Configuration(MEMORY, Params())
        with override_settings(DREF_BACKEND=None):
            assert not conf.is_configured()

    @pytest.mark.parametrize("value", ["memory", {"BACKEND": "memory"}, MEMORY, {"BACKEND": MEMORY, "OPTIONS": {}}])
    def test_short_name_dotted_path_and_dict_mean_the_same(self, value: Any) -> None:
        assert configured(DREF_BACKEND=value) == conf.Configuration(MEMORY, Params())

    @pytest.mark.parametrize("name", conf.SHORT_NAMES)
    def test_every_short_name_can_be_imported(self, name: str) -> None:
        module, _, class_name = conf.SHORT_NAMES[name].rpartition(".")
        assert issubclass(getattr(__import__(module, fromlist=[class_name]), class_name), Backend)

    def test_dict_gives_every_parameter(self) -> None:
        value = {
            "BACKEND": "memory",
            "KEY_PREFIX": "shop",
            "TIMEOUT": 1.5,
            "MAX_VALUE_SIZE": 10,
            "LOCK_TIMEOUT": 0,
            "HEARTBEAT": 1,
            "CODEC": "json",
            "OPTIONS": {"X": 1},
        }
        assert configured(DREF_BACKEND=value).params == Params("default", "shop", 1.5, 10, 0, 1, "json", {"X": 1})

    def test_what_is_left_out_has_its_default(self) -> None:
        params = configured(DREF_BACKEND={"BACKEND": "memory", "KEY_PREFIX": "shop"}).params
        assert (params.timeout, params.max_value_size, params.lock_timeout) == (
            DEFAULT_TIMEOUT,
            DEFAULT_MAX_VALUE_SIZE,
            DEFAULT_LOCK_TIMEOUT,
        )

    def test_several_back_ends_have_aliases(self) -> None:
        several = {"default": "memory", "fast": {"BACKEND": "memory", "KEY_PREFIX": "f"}}
        with override_settings(DREF_BACKEND=None, DREF_BACKENDS=several):
            assert conf.aliases() == ["default", "fast"]
            assert conf.configuration("fast").params == Params("fast", "f")
            assert backends.get_backend("fast") is not backends.get_backend("default")

    def test_default_may_stand_in_the_other_setting(self) -> None:
        with override_settings(DREF_BACKEND="memory", DREF_BACKENDS={"fast": "memory"}):
            assert conf.aliases() == ["default", "fast"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"DREF_BACKEND": "rediss"}, "there is no back end 'rediss'; there are memory, redis, postgres"),
            ({"DREF_BACKEND": 5}, "must be one of memory, redis, postgres, raft, a dotted path, or a dict"),
            ({"DREF_BACKEND": {"KEY_PREFIX": "x"}}, "or a dict with the key 'BACKEND'"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "URL": "x"}}, "unknown keys 'URL'.* go into 'OPTIONS'"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "TIMEOUT": "5"}}, r"\['TIMEOUT'\] must be a number of seconds"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "TIMEOUT": 0}}, "0.001 or more"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "TIMEOUT": True}}, "must be a number"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "TIMEOUT": float("nan")}}, "must be a number"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "TIMEOUT": float("inf")}}, "must be a number"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "LOCK_TIMEOUT": -1}}, "0.0 or more"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "MAX_VALUE_SIZE": 0}}, "a number of bytes, 1 or more"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "MAX_VALUE_SIZE": 1.5}}, "a number of bytes"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "HEARTBEAT": 0}}, "0.05 or more"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "OPTIONS": []}}, r"\['OPTIONS'\] must be a Mapping"),
            ({"DREF_BACKEND": {"BACKEND": "memory", "KEY_PREFIX": 5}}, r"\['KEY_PREFIX'\] must be a str"),
            ({"DREF_BACKENDS": "memory"}, "must be a dict of alias to back end"),
            ({"DREF_BACKENDS": {"fast": "memory"}}, "needs an alias 'default'"),
            ({"DREF_BACKEND": "memory", "DREF_BACKENDS": {"default": "memory"}}, "both set; remove one"),
        ],
    )
    def test_mistake_is_told_in_a_sentence(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=sentence):
            configured(**settings)

    def test_unknown_alias_names_those_there_are(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="using='fats': DREF_BACKENDS has no such alias; it has default"):
            Counter("n", using="fats").get()

    @pytest.mark.parametrize("path", ["no.such.module.Backend", "dref_django.backends.memory.NoSuchClass"])
    def test_path_that_leads_nowhere_is_told(self, path: str) -> None:
        with override_settings(DREF_BACKEND=path), pytest.raises(ImproperlyConfigured, match="cannot be imported"):
            Counter("n").get()

    def test_path_to_something_else_is_told(self) -> None:
        with (
            override_settings(DREF_BACKEND=f"{__name__}.no_backend"),
            pytest.raises(ImproperlyConfigured, match="is no subclass of"),
        ):
            Counter("n").get()


class TestFollowing:
    def test_own_back_end_is_found_by_its_path(self) -> None:
        with override_settings(DREF_BACKEND=f"{__name__}.OwnBackend"):
            assert type(backends.get_backend()) is OwnBackend

    def test_changed_settings_take_effect_at_once(self) -> None:
        counter = Counter("n")
        with override_settings(DREF_BACKEND={"BACKEND": "memory", "KEY_PREFIX": "one"}):
            counter.increment()
            assert counter.peek() == 1
            with override_settings(DREF_BACKEND={"BACKEND": "memory", "KEY_PREFIX": "two"}):
                assert counter.get() == counter.peek() == 0
                assert backends.get_backend().params.key_prefix == "two"

    def test_unrelated_settings_leave_the_back_end_alone(self) -> None:
        before = backends.get_backend()
        with override_settings(LANGUAGE_CODE="de"):
            assert backends.get_backend() is before

    def test_one_object_serves_an_alias(self) -> None:
        assert backends.get_backend() is backends.get_backend("default")

    def test_discarded_back_ends_are_told_of_and_closed(self) -> None:
        discarded: list[Backend] = []
        closed: list[Backend] = []

        class Closing(MemoryBackend):
            def close(self) -> None:
                closed.append(self)

        backends.on_discard(discarded.append)
        try:
            mine = Closing(Params())
            before = backends.install("default", mine)
            backends.reset()
            assert mine in discarded
            assert closed == [mine]
            backends.install("default", before)
        finally:
            backends._discarded.remove(discarded.append)
