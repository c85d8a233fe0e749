"""Settings of the processes that these tests start: the suite's, with the back end of the test that started them."""

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DREF_BACKEND = json.loads(os.environ["DREF_TEST_BACKEND"])
if alias := DREF_BACKEND.get("OPTIONS", {}).get("DATABASE_ALIAS"):
    DATABASES[alias] = {**DATABASES["pg"], "NAME": alias}
