"""An isolated back end for the duration of a test."""

from __future__ import annotations

import functools
import inspect
import secrets
import unittest
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, overload

from dref_django import backends, conf
from dref_django.backends import Backend
from dref_django.clock import SYSTEM, Clock
from dref_django.protocol import Break, Delete, LeaseInfo, Row, Scan, ScanLeases

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
BackendSetting: TypeAlias = str | Mapping[str, Any]

SETTINGS: Final = "settings"


class isolate:  # noqa: N801 -- reads as a verb wherever it is used
    """Gives every alias a back end of its own, empty, and puts the old ones back at the end.

        with isolate(): ...                          # also inside TestCase, and in coroutines

        @isolate()                                   # functions, coroutine functions, test classes
        class VisitsTests(TestCase): ...

    - `backend`: "memory"; "settings" for the back end of the settings under a key prefix that nobody else has, cleaned
      afterwards; or anything that DREF_BACKEND may be.
    - `clock`: a `ManualClock`, so that values and leases run out without sleeping. Default: real time.

    TIMEOUT, CODEC and the other common settings of each alias stay as they are. Callbacks that are registered follow
    to the isolated back ends and back; streams that were open end. Refs and locks belong to the process, not to a
    thread: two isolated tests at once need two processes. On a class it surrounds each test with its setUp and
    tearDown; what setUpClass or setUpTestData do is outside.
    """

    def __init__(self, backend: BackendSetting = "memory", *, clock: Clock | None = None) -> None:
        self.backend = backend
        self.clock = SYSTEM if clock is None else clock
        self._entered: list[dict[str, tuple[Backend, Backend | None]]] = []

    def __enter__(self) -> isolate:
        made = {alias: self._make(alias) for alias in conf.aliases()}
        self._entered.append({alias: (ours, backends.install(alias, ours)) for alias, ours in made.items()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for alias, (ours, before) in self._entered.pop().items():
            backends.install(alias, before)
            try:
                if self.backend != "memory":
                    clear(ours)
            finally:
                ours.close()

    def _make(self, alias: str) -> Backend:
        configuration = conf.configuration(alias)
        prefix = f"{configuration.params.key_prefix}-{secrets.token_hex(8)}"
        if self.backend != SETTINGS:
            other = conf.parse(alias, self.backend)
            common = configuration.params if isinstance(self.backend, str) else other.params
            configuration = conf.Configuration(other.path, replace(common, options=other.params.options))
        made = backends.make_backend(configuration._replace(params=replace(configuration.params, key_prefix=prefix)))
        made.clock = self.clock
        return made

    @overload
    def __call__(self, decorated: C) -> C: ...
    @overload
    def __call__(self, decorated: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, decorated: Any) -> Any:
        if isinstance(decorated, type):
            return self._isolate_class(decorated)
        if inspect.iscoroutinefunction(decorated):

            @functools.wraps(decorated)
            async def isolated_coroutine(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await decorated(*args, **kwargs)

            return isolated_coroutine

        @functools.wraps(decorated)
        def isolated(*args: Any, **kwargs: Any) -> Any:
            with self:
                return decorated(*args, **kwargs)

        return isolated

    def _isolate_class(self, decorated: type) -> type:
        if issubclass(decorated, unittest.TestCase):
            decorated.run = self(decorated.run)  # type: ignore[method-assign]
            return decorated
        for name, method in list(vars(decorated).items()):
            if name.startswith("test") and inspect.isfunction(method):
                setattr(decorated, name, self(method))
        return decorated


class IsolatedRefsMixin:
    """Isolates each test of a `unittest` or Django test case, setUp and tearDown included.

    class VisitsTests(IsolatedRefsMixin, TestCase): ...
    """

    refs_backend: BackendSetting = "memory"
    """As the argument of `isolate`."""
    refs_clock: Clock | None = None

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        with isolate(self.refs_backend, clock=self.refs_clock):
            return super().run(result)  # type: ignore[misc,no-any-return]


def clear(backend: Backend) -> None:
    """Deletes every entry and frees every lease under the back end's key prefix.

    What a server keeps of deleted names for a while (an hour) it collects by itself.
    """
    for row in _pages(backend, Scan):
        backend.execute([Delete(row.name)])
    for row in _pages(backend, ScanLeases):
        backend.execute([Break(row.name)])


def _pages(backend: Backend, scan: type[Scan] | type[ScanLeases]) -> list[Row | LeaseInfo]:
    rows: list[Row | LeaseInfo] = []
    after = ""
    while True:
        (page,) = backend.execute([scan("", after)])
        rows += page.page
        if not (after := page.cursor):
            return rows
