"""Settings of the processes of a crowd: the suite's, with the back end that the crowd shares."""

import json
import os

from tests.settings import *  # noqa: F403

DREF_BACKEND = json.loads(os.environ["DREF_CROWD_BACKEND"])
