"""How long after a write in one process does a page of another show it?

The demo runs on each back end in turn, a headless Chromium has the page of its first process open, and its last process
is asked over a websocket to increment a counter. The time is from the sending of that message until the browser has
painted the frame with the new text; both clocks are this machine's. A frame lasts 16.7 ms, so that some 8 ms of each
figure are waiting for the next one.

Needs chromium, as `make browser` does.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from example_project.demo import PROCESSES, Demo
from tests.browser.chrome import Chrome, Page

WRITES: Final = 150
WARM_UP: Final = 20
PAUSE: Final = 0.06
"""Seconds between two writes, and up to half as long again, so that they do not fall in with the frames."""
REF: Final = "demo.clicks"
TIMEOUT: Final = 30.0
LIVE: Final = "document.documentElement.dataset.drefStatus === 'connected'"
NOTE: Final = """
(() => {
  const shown = document.querySelector("#clicks");
  const painted = new MessageChannel();  // what a frame's callback posts comes after that frame was painted
  window.seen = {};
  painted.port1.onmessage = ({ data }) => (seen[data] ??= (performance.timeOrigin + performance.now()) / 1000);
  new MutationObserver(() => requestAnimationFrame(() => {
    painted.port2.postMessage(Number(shown.textContent.replaceAll(",", "")));
  })).observe(shown, { childList: true, characterData: true, subtree: true });
})()
"""
"""Notes at which moment each value was on the screen, in seconds since 1970."""


def main() -> None:
    samples = {}
    with Chrome() as chrome, tempfile.TemporaryDirectory() as directory:
        for backend, processes in sorted(PROCESSES.items()):
            with Demo(backend, log=Path(directory, backend)) as demo, chrome.page() as page:
                where = "the same process" if processes == 1 else "another process"
                samples[f"{backend}, page of {where}"] = measured(demo, page)
    harness.percentiles("write to pixel", samples)


def measured(demo: Demo, page: Page) -> list[float]:
    """Seconds from each write until the page had painted its value."""
    from websockets.sync.client import connect
    from websockets.typing import Origin

    page.open(demo.addresses[0])
    page.wait_for(LIVE)
    page.evaluate(NOTE)
    address = demo.addresses[-1]
    sent: dict[int, float] = {}
    with connect(address.replace("http", "ws", 1) + "dref/ws/", origin=Origin(address.removesuffix("/"))) as socket:
        for _ in range(WRITES):
            before = time.time()
            sent[increment(socket)] = before
            time.sleep(PAUSE * random.uniform(1, 1.5))
    page.wait_for(f"window.seen[{max(sent)}]")
    seen = page.evaluate("window.seen")
    return [seen[str(value)] - before for value, before in list(sent.items())[WARM_UP:] if str(value) in seen]


def increment(socket: Any) -> int:
    """Returns the sum."""
    socket.send(json.dumps({"type": "increment", "name": REF, "id": 1}))
    while True:
        message = json.loads(socket.recv(timeout=TIMEOUT))
        if message["type"] == "error":
            raise RuntimeError(message["message"])
        if message["type"] == "written":
            return int(message["value"])


if __name__ == "__main__":
    main()
