"""The memory back end keeps the contract."""

import pytest

from dref_django.backends import Backend, Params
from dref_django.backends.memory import MemoryBackend
from dref_django.testing.conformance import BackendConformance


@pytest.fixture(scope="module")
def backend() -> Backend:
    return MemoryBackend(Params())


class TestMemory(BackendConformance):
    pass
