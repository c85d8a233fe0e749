"""dref.js by itself on a page, with a websocket that the tests speak for."""

import json
from typing import Any

from tests.browser.chrome import Page

FAKE = """
window.sockets = [];
window.delays = [];
window.said = [];
window.WebSocket = class {
  constructor(url, protocol) {
    Object.assign(this, { url: String(url), protocol, readyState: 1, sent: [] });
    sockets.push(this);
  }
  send(text) { this.sent.push(text); }
  close() { this.closed = true; }
};
// The waits before a reconnection are noted; they, and those that a test names, are passed over.
window.hurried = ["connect"];
const later = window.setTimeout;
window.setTimeout = (call, ms, ...more) => {
  if (call.name === "connect") delays.push(ms);
  return later(call, hurried.includes(call.name) ? 0 : ms, ...more);
};
window.passed = 0; // milliseconds, by which the page's clock is ahead
const now = performance.now.bind(performance);
performance.now = () => now() + passed;
"""


class Module:
    """A fresh dref.js on a page of its own."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.run = page.evaluate
        self.run(f"(() => {{ {FAKE} }})()")
        self.run("import('/static/dref_django/dref.js').then((module) => { window.dref = module; })")

    def watch(self, name: str, key: str = "") -> None:
        """Notes what the callback is told in `said`."""
        self.run(
            f"void (window['stop{key}'] = dref.watch({json.dumps(name)},"
            f" (value, change) => said.push([{json.dumps(key or name)}, value, change])))"
        )

    @property
    def said(self) -> list[Any]:
        return [[key, value] for key, value, *_ in self.run("said")]

    def sockets(self, count: int) -> None:
        self._page.wait_for(f"sockets.length === {count}")

    def hear(self, type_: str, **message: Any) -> None:
        text = json.dumps({"type": type_, **message})
        self.run(f"sockets.at(-1).onmessage({{ data: {json.dumps(text)} }})")

    def snapshot(self, name: str, text: str, version: int = 1) -> None:
        self.hear("snapshot", name=name, epoch="e", version=version, text=text)

    def drop(self, code: int = 1006) -> None:
        self.run(f"sockets.at(-1).onclose({{ code: {code} }})")

    def call(self, expression: str) -> None:
        """Starts it; what becomes of its promise is noted in `said`."""
        self.run(
            f"void {expression}.then((value) => said.push(['done', value ?? null]),"
            " (error) => said.push([error.name, error.code ?? null]))"
        )

    def pass_(self, seconds: float) -> None:
        self.run(f"window.passed += {seconds * 1000}")

    def greet(self) -> None:
        self.hear("hello", protocol=1, heartbeat=20)

    def show(self, html: str) -> None:
        """Puts elements on the page."""
        self.run(f"document.body.innerHTML = {json.dumps(html)}")

    def text(self, selector: str) -> str:
        return self._page.text(selector)

    def wait_for(self, condition: str) -> None:
        self._page.wait_for(condition)

    def sent(self) -> list[dict[str, Any]]:
        """What the current socket was sent since the last look."""
        return [json.loads(text) for text in self.run("sockets.at(-1).sent.splice(0)")]

    def greeted(self, *names: str) -> None:
        """Watches these, connected."""
        for name in names:
            self.watch(name)
        self.sockets(1)
        self.greet()
