"""The README's Python examples run, in order, in one namespace, on the memory back end."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from dref_django import backends, conf
from dref_django.backends.base import Params
from dref_django.backends.memory import MemoryBackend
from tests.examples import ROOT, run_examples


@pytest.fixture
def memory() -> Iterator[None]:
    backends.install(conf.DEFAULT_ALIAS, MemoryBackend(Params()))
    yield
    backends.install(conf.DEFAULT_ALIAS, None)


@pytest.mark.django_db
@pytest.mark.usefixtures("memory")
def test_every_example_of_the_readme_runs() -> None:
    assert run_examples("README.md") > 8


def test_every_setting_check_and_public_name_is_in_the_docs() -> None:
    import dref_django
    from dref_django.conf import _KEYS

    docs = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    code = "\n".join(path.read_text() for path in (ROOT / "dref_django").rglob("*.py"))
    ids = set(re.findall(r"\bdref\.[EWI]\d{3}\b", code))
    missing = [name for name in {*dref_django.__all__, *_KEYS, *ids} if not re.search(rf"\b{re.escape(name)}\b", docs)]
    assert not missing
