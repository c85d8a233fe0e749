"""The Python examples of a page run, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BLOCK: Final = re.compile(r"(<!-- no test: [^>]+ -->\n)?```python\n(.*?)```", re.DOTALL)


def run_examples(page: str) -> int:
    """Runs those of `page` (a path from the project's root) not marked `no test`; returns how many those are."""
    blocks = [code for exempt, code in BLOCK.findall((ROOT / page).read_text()) if not exempt]
    namespace: dict[str, object] = {"__name__": __name__}
    for number, code in enumerate(blocks):
        exec(compile(code, f"{page}, example {number}", "exec", dont_inherit=True), namespace)  # noqa: S102
    return len(blocks)
