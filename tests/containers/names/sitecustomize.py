"""A name server for processes that are started with this directory on PYTHONPATH: DREF_TEST_NAMES is a file with
{name: [address, ...]} in JSON, read again at each lookup. What it does not know goes to the real one."""

import json
import os
import socket
from pathlib import Path
from typing import Any

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> list[Any]:
    addresses = json.loads(Path(os.environ["DREF_TEST_NAMES"]).read_text()).get(host, [host])
    return [info for address in addresses for info in _getaddrinfo(address, *arguments, **more)]


if "DREF_TEST_NAMES" in os.environ:
    socket.getaddrinfo = getaddrinfo
