"""Tests of EventSource in a browser: it reconnects by itself and loses no message."""

from __future__ import annotations

import json
from typing import Any

from tests.browser.pages import BrowserTestCase, stream, url
from tests.service.black_box import Foreground

FOLLOW = """
async (target) => {
  const seen = (window.seen = { messages: [], opened: 0, state: 0 });
  await fetch(target, { method: "PUT", headers: { "Content-Type": "application/json" } });
  const source = new EventSource(`${target}?offset=-1&live=sse`);
  source.addEventListener("data", (event) => seen.messages.push(...JSON.parse(event.data)));
  source.addEventListener("open", () => seen.opened++);
  source.addEventListener("error", () => (seen.state = source.readyState));
  await new Promise((told) => source.addEventListener("control", told, { once: true }));
}
"""
APPEND = """
async ([target, message, closed]) => {
  const headers = { "Content-Type": "application/json" };
  if (closed) headers["Stream-Closed"] = "true";
  await fetch(target, { method: "POST", headers, body: JSON.stringify(message) });
}
"""
OPENED = "opened => window.seen.opened >= opened"
ENDED = "() => window.seen.state === EventSource.CLOSED"


class EventSourceTests(BrowserTestCase):
    """EventSource on connections that the server ends, and on a stream that is closed."""

    def follow(self, *options: str) -> None:
        """Append before and after each reconnection, close the stream, and check the received
        messages.
        """
        options = ("--console", "--sse-reconnect-interval", "1s", *options)
        with Foreground(self.directory, "durable-streams", *options) as server:
            page = self.page()
            page.goto(f"{url(server.port)}/-/console")
            target = stream("events")
            page.evaluate(FOLLOW, target)
            for number in range(3):
                page.evaluate(APPEND, [target, {"number": number}, False])
                page.wait_for_function(OPENED, arg=number + 2)
            page.evaluate(APPEND, [target, {"number": 3}, True])
            page.wait_for_function(ENDED)
            seen: Any = page.evaluate("() => window.seen")
            self.assertEqual(
                json.dumps(seen["messages"]), json.dumps([{"number": n} for n in range(4)])
            )
            page.close()
            server.stop()
        self.assert_clean(server.log)

    def test_fast_channel(self) -> None:
        """EventSource works with the HTTP/1.1 engine."""
        self.follow()

    def test_twisted_web(self) -> None:
        """EventSource works with twisted.web."""
        self.follow("--no-fast-channel")
