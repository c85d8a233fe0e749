"""Settings of the processes of a crowd: the suite's, with the back end that the crowd shares."""

import os

from tests.settings import *  # noqa: F403

_options = {"redis": {"URL": os.environ.get("DREF_TEST_REDIS_URL")}, "postgres": {"DATABASE_ALIAS": "pg"}}
_kind = os.environ["DREF_CROWD_BACKEND"]
DREF_BACKEND = {  # type: ignore[assignment]
    "BACKEND": _kind,
    "KEY_PREFIX": os.environ["DREF_CROWD_PREFIX"],
    "OPTIONS": _options[_kind],
}
