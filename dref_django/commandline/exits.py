"""Exit codes of `manage.py dref`. From 69 on they are those of BSD's sysexits.h, where few commands have their own."""

from __future__ import annotations

from typing import Final

OK: Final = 0
NO: Final = 1
"""The answer is no: nothing is stored, nobody leads, it was changed meanwhile, something is wrong with the set-up."""
USAGE: Final = 2
"""The arguments make no sense, or the value does not fit the ref."""
UNAVAILABLE: Final = 69
"""The back end cannot be reached. Nothing was changed."""
OUTCOME_UNKNOWN: Final = 70
"""It cannot be proven whether the change was applied: look before doing it again."""
BUSY: Final = 75
"""The lock was not free, or the election not won, in time."""
LOST: Final = 76
"""`run`: the lease was lost, and the command was ended for it."""
NOT_FOUND: Final = 127
"""`run`: there is no such command; as in a shell."""
NOT_EXECUTABLE: Final = 126
