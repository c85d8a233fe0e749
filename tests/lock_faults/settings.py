"""Settings of the processes that these tests start: the suite's, with the back end that the test says."""

import json
import os

from tests.settings import *  # noqa: F403

DREF_BACKEND = json.loads(os.environ["DREF_LOCK_BACKEND"])
