"""A headless Chromium, driven over its DevTools protocol with a websocket client and nothing else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from websockets.sync.client import connect

from tests.processes import kill_family, wait_until
from tests.servers import janitor

START_TIMEOUT: Final = 30.0  # seconds
TIMEOUT: Final = 20.0
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
)


class ChromeError(Exception):
    """Chromium is missing, did not start, or refused a command."""


def find_chromium() -> str:
    found = os.environ.get("CHROMIUM") or next((name for name in NAMES if shutil.which(name)), None)
    if found is None:
        raise ChromeError("These tests need chromium: 'apt-get install chromium', or point CHROMIUM at the program.")
    return found


class Chrome:
    """One browser with an empty profile. `page()` opens a page; as a context manager it starts and ends."""

    def __init__(self) -> None:
        self._program = find_chromium()
        self._last_id = 0
        self._sessions: dict[str, Page] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            profile = self._make_profile(stack)
            self._start(profile, stack)
            # Chromium writes the port that it took, and the path of its endpoint, when it is ready.
            endpoint = profile / "DevToolsActivePort"
            wait_until(lambda: endpoint.exists() and endpoint.read_text().count("\n") == 1, "chromium", START_TIMEOUT)
            port, path = endpoint.read_text().split("\n")
            self._socket = stack.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _make_profile(self, stack: ExitStack) -> Path:
        profile = Path(tempfile.mkdtemp(prefix="dref-chromium-"))
        janitor().watch_directory(profile)
        stack.callback(janitor().forget_directory, profile)
        stack.callback(shutil.rmtree, profile, ignore_errors=True)
        return profile

    def _start(self, profile: Path, stack: ExitStack) -> None:
        command = [self._program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with (profile / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        janitor().watch_process(process.pid)
        stack.callback(janitor().forget_process, process.pid)
        stack.callback(process.wait)
        stack.callback(kill_family, process.pid)

    def page(self, *, scripts: bool = True) -> Page:
        """A page with cookies of its own; without `scripts` as in a browser whose JavaScript is off."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._sessions[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        if not scripts:
            page.call("Emulation.setScriptExecutionDisabled", value=True)
        return page

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Sends one command and returns its result; events that come meanwhile go to their pages."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        deadline = time.monotonic() + TIMEOUT + 5
        while True:
            answer = json.loads(self._socket.recv(timeout=max(deadline - time.monotonic(), 0)))
            if answer.get("id") == self._last_id:
                break
            page = self._sessions.get(answer.get("sessionId", ""))
            if page is not None and "method" in answer:
                page.heard(answer["method"], answer["params"])
        if "error" in answer:
            raise ChromeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result


class Page:
    """One page. What goes wrong on it (exceptions, refused resources, broken policies) gathers in `complaints`."""

    def __init__(self, chrome: Chrome, session: str, target: str) -> None:
        self._chrome = chrome
        self._session = session
        self._target = target
        self.complaints: deque[str] = deque(maxlen=100)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._chrome.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._chrome.call(method, self._session, **params)

    def heard(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Goes there and returns when the document is complete."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise ChromeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str, timeout: float = TIMEOUT) -> None:
        """Returns once the JavaScript condition holds; `TimeoutError` with what the page shows after `timeout` s."""
        deadline = time.monotonic() + timeout

        def holds() -> bool:
            try:
                return bool(self.evaluate(condition))
            except ChromeError:  # between two documents
                return False

        try:
            wait_until(holds, condition, max(deadline - time.monotonic(), 0))
        except TimeoutError as error:
            shown = self.evaluate("document.body.innerText")
            raise TimeoutError(f"{error}; complaints: {list(self.complaints)}; the page shows:\n{shown}") from error

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    def wait_for_text(self, selector: str, text: str, timeout: float = TIMEOUT) -> None:
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && {found}.textContent.trim() === {json.dumps(text)}", timeout)

    def click(self, selector: str) -> None:
        """A real click of the mouse in the middle of the element."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"{element}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, *, width: int, height: int, scheme: str) -> None:
        """The window's size, and whether it is light or dark there."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))
