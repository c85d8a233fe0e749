"""A linearizability checker for tests; it knows nothing of the code under test.

`history` records what clients did, `models` says what one object may do, `checker` decides whether the two agree, and
`python -m tests.linearizability DIRECTORY` holds the checker to histories whose verdicts are known.
"""

from .checker import CheckTimedOut, Result, check
from .history import Operation, Recorder, dump, load, parse_jepsen
from .models import Ref, Register

__all__ = [
    "CheckTimedOut",
    "Operation",
    "Recorder",
    "Ref",
    "Register",
    "Result",
    "check",
    "dump",
    "load",
    "parse_jepsen",
]
