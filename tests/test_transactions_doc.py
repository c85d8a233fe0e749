"""The examples of docs/transactions.md run, in order, in one namespace, on the memory back end."""

from __future__ import annotations

import pytest

from tests.test_readme import BLOCK, ROOT


@pytest.mark.usefixtures("dref_isolated")
def test_every_example_of_the_page_on_transactions_runs() -> None:
    blocks = [code for exempt, code in BLOCK.findall((ROOT / "docs" / "transactions.md").read_text()) if not exempt]
    assert len(blocks) == 2
    namespace: dict[str, object] = {"__name__": __name__}
    for number, code in enumerate(blocks):
        exec(compile(code, f"docs/transactions.md, example {number}", "exec", dont_inherit=True), namespace)  # noqa: S102
