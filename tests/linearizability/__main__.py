"""python -m tests.linearizability DIRECTORY: does the checker agree with every verdict of a corpus?

Exits with 1 when it differs on any log, or when the corpus has no verdicts at all.
"""

import sys
from pathlib import Path

from .corpus import verify


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tests.linearizability DIRECTORY", file=sys.stderr)
        return 2
    found = verify(Path(sys.argv[1]))
    print(f"{len(found.agreed)} agree, {len(found.differing)} differ, {len(found.without_verdict)} without a verdict")
    for name in found.differing:
        print(f"differs: {name}")
    return 1 if found.differing or not found.agreed else 0


if __name__ == "__main__":
    sys.exit(main())
