"""A process with a node of a cluster and next to nothing else of a project; it ends with its input.

It takes a snapshot every moment, so that what is done to it meets one now and then.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from unittest.mock import patch

from django.conf import settings

from tests.settings import SECRET_KEY

settings.configure(SECRET_KEY=SECRET_KEY)

from dref_django.backends import Params  # noqa: E402
from dref_django.backends.raft import driver  # noqa: E402
from dref_django.backends.raft.backend import RaftBackend  # noqa: E402


class LogLines(logging.Handler):
    """What the library logs, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        line = {"event": "log", "level": record.levelname, "message": record.getMessage()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main() -> None:
    logger = logging.getLogger("dref_django")
    logger.addHandler(LogLines())
    logger.propagate = False
    options = json.loads(os.environ["DREF_FAULT_BACKEND"])["OPTIONS"]
    backend = RaftBackend(Params("node", options=options))
    with patch.multiple(driver, SNAPSHOT_REQUESTS=50, KEPT_REQUESTS=10):
        backend.attach()
        sys.stdin.read()
        backend.close()


if __name__ == "__main__":
    main()
