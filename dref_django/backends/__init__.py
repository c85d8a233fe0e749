"""From the setting to the back end: one object an alias and process, made at first use.

`generation` changes whenever the back ends in use are discarded (`override_settings`, tests, a fork): what was bound
to them binds again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib import import_module

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from dref_django import conf

from .base import DEFAULT_ALIAS, Backend, Params

__all__ = ["Backend", "Params", "generation", "get_backend", "in_use", "install", "make_backend", "on_discard", "reset"]

generation = 0

_mutex = threading.RLock()
_backends: dict[str, Backend] = {}
_discarded: list[Callable[[Backend], None]] = []


def get_backend(alias: str = DEFAULT_ALIAS) -> Backend:
    """The back end of an alias. Raises ImproperlyConfigured when the settings are wrong; connects to nothing."""
    backend = _backends.get(alias)
    if backend is not None:
        return backend
    with _mutex:
        if alias not in _backends:
            _backends[alias] = make_backend(conf.configuration(alias))
        return _backends[alias]


def in_use() -> list[tuple[str, Backend]]:
    """Alias and back end of those that this process has made so far."""
    return list(_backends.items())


def make_backend(configuration: conf.Configuration) -> Backend:
    """A new back end after these settings, bound to no alias."""
    module, _, name = configuration.path.rpartition(".")
    try:
        factory = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"The back end {configuration.path!r} of alias {configuration.params.alias!r} cannot be imported: {error}"
        ) from error
    backend = factory(configuration.params)
    if not isinstance(backend, Backend):
        raise ImproperlyConfigured(f"{configuration.path!r} is no subclass of dref_django.backends.base.Backend.")
    return backend


def install(alias: str, backend: Backend | None) -> Backend | None:
    """Puts `backend` in the place of an alias (None: what the settings say) and returns what was there, unclosed.

    For tests; see `dref_django.testing`.
    """
    global generation
    with _mutex:
        before = _backends.pop(alias, None)
        if backend is not None:
            _backends[alias] = backend
        generation += 1
    if before is not None:
        for callback in _discarded:
            callback(before)
    return before


def on_discard(callback: Callable[[Backend], None]) -> None:
    """Calls back with every back end that leaves use, before it is closed."""
    _discarded.append(callback)


def reset() -> None:
    """Closes every back end; the next use makes them anew from the settings."""
    for alias in list(_backends):
        if (backend := install(alias, None)) is not None:
            backend.close()


def _settings_changed(*, setting: str, **_: object) -> None:
    if setting in conf.SETTINGS:
        reset()


def _after_fork() -> None:
    global generation, _mutex
    _mutex = threading.RLock()
    generation += 1
    for backend in _backends.values():
        backend.after_fork()


setting_changed.connect(_settings_changed, dispatch_uid="dref_django.backends")
os.register_at_fork(after_in_child=_after_fork)
