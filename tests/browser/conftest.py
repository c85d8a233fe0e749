"""One browser for the run, and the demo on each back end, started on first use."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from example_project.demo import PROCESSES, Demo
from tests.browser.chrome import Chrome
from tests.browser.module import Module

GetDemo = Callable[[str], Demo]


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    with Chrome() as started:
        yield started


@pytest.fixture(scope="session")
def get_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GetDemo]:
    started: dict[str, Demo] = {}
    with ExitStack() as stack:

        def get(backend: str) -> Demo:
            if backend not in started:
                log = tmp_path_factory.mktemp(backend) / "log"
                started[backend] = stack.enter_context(Demo(backend, log=log))
            return started[backend]

        yield get


@pytest.fixture(params=sorted(PROCESSES))
def demo(request: pytest.FixtureRequest, get_demo: GetDemo) -> Demo:
    """The demo on each back end in turn: one process on memory, two on the others."""
    return get_demo(request.param)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: where DREF_SCREENSHOTS says, else a directory that pytest keeps for three runs."""
    asked = os.environ.get("DREF_SCREENSHOTS")
    directory = Path(asked) if asked else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def module(chrome: Chrome, get_demo: GetDemo) -> Iterator[Module]:
    with chrome.page() as page:
        page.open(get_demo("memory").addresses[0] + "no/such/page/")  # under the demo's policy, but empty
        yield Module(page)
