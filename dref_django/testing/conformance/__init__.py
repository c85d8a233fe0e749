"""The contract of a back end as a test suite, for this project's own back ends and for anybody else's.

    import pytest
    from dref_django.testing.conformance import BackendConformance

    @pytest.fixture(scope="module")
    def backend():
        backend = MyBackend(Params(key_prefix=secrets.token_hex(8), options={...}))
        yield backend
        backend.close()

    class TestMyBackend(BackendConformance):
        pass

`backend` starts on an empty key prefix; one object may serve the whole module, since every test uses names of its own.
A second fixture, `peer`, may give another object on the same truth (another process's view); it is `backend` itself
unless the subclass overrides it. Every test of a command runs twice, through `execute` and through `aexecute`. What a
back end declares (`ordered_notices`, `fifo_waiters`) is what it is held to. This package needs pytest.
"""

from __future__ import annotations

from .batches import BatchContract, OpIdContract
from .contract import NOW, Client, Contract
from .entries import EntryContract
from .feeds import FeedContract, LoopContract, WakeContract
from .leases import LeaseContract
from .listener import Listener
from .scans import NameContract, ScanContract

__all__ = ["NOW", "BackendConformance", "Client", "Contract", "Listener"]


class BackendConformance(
    EntryContract,
    BatchContract,
    OpIdContract,
    NameContract,
    ScanContract,
    LeaseContract,
    FeedContract,
    WakeContract,
    LoopContract,
):
    """Every promise of `dref_django.backends.base.Backend`, as tests. Subclass it with a fixture `backend`."""
