"""A command for `dref run`: writes its token to the end of a file, again and again, until it is told to end.

`python job.py FILE polite` ends at SIGTERM; `stubborn` ignores it.
"""

import os
import signal
import sys
import time

_, path, manner = sys.argv
if manner == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.write(file, f"{os.environ['DREF_TOKEN']}\n".encode())
    time.sleep(0.005)
