"""The examples of docs/transactions.md run on the memory back end."""

from __future__ import annotations

import pytest

from tests.examples import run_examples


@pytest.mark.usefixtures("dref_isolated")
def test_every_example_of_the_page_on_transactions_runs() -> None:
    assert run_examples("docs/transactions.md") == 2
