"""`manage.py dref ...` in this process, on a back end of the test's own."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command

from dref_django.commandline import probes


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def dref(*arguments: str) -> Outcome:
    """What the command prints, and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command("dref", *arguments, stdout=out, stderr=err)
    except CommandError as error:
        code = error.returncode
        err.write(str(error))
    except SystemExit as ended:
        code = int(ended.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """That this machine is busy is no illness of the server."""
    monkeypatch.setattr(probes, "SLOW_AFTER", 60.0)
