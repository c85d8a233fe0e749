"""The example project, where "containers" are addresses of this machine: a node listens on one of them alone."""

import os

from example_project.settings import *  # noqa: F403

DREF_BACKEND = {"BACKEND": "raft", "OPTIONS": {"BIND": os.environ["DREF_TEST_BIND"], "VOTERS": 3}}
