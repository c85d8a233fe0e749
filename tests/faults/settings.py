"""Settings of the processes that fault tests start: the suite's, with the back end of the lab that started them."""

import json
import os

from tests.settings import *  # noqa: F403

DREF_BACKEND = json.loads(os.environ["DREF_FAULT_BACKEND"])
