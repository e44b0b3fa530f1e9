"""Tests of live reads in a browser over HTTP/2: more streams than HTTP/1.1 allows connections."""

from __future__ import annotations

import json
from typing import Any

from tests.browser.pages import BrowserTestCase, stream, url
from tests.service.black_box import Foreground
from tests.service.pem import cached_pem, endpoint

#: Number of streams of each kind; a browser opens six connections of HTTP/1.1 to a server.
MANY = 8

# The page creates streams, follows them in two ways, and records the received messages by stream.
FOLLOW = """
async ([root, many]) => {
  const told = (window.told = {});
  const names = [];
  for (const kind of ["events", "fetch"])
    for (let number = 0; number < many; number++) names.push(`${kind}-${number}`);
  for (const name of names) {
    told[name] = [];
    const headers = { "Content-Type": "application/json" };
    const made = await fetch(root + name, { method: "PUT", headers });
    if (!made.ok) throw new Error(`${name}: ${made.status}`);
  }
  const opened = names.map((name) => {
    const target = `${root}${name}?offset=-1&live=sse`;
    if (name.startsWith("events"))
      return new Promise((open) => {
        const source = new EventSource(target);
        source.addEventListener("data", (event) => told[name].push(...JSON.parse(event.data)));
        source.addEventListener("control", open, { once: true });
      });
    return new Promise(async (open) => {
      const answer = await fetch(target);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      open();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        text += value;
        const found = [...text.matchAll(/^data:(\\[.*\\])$/gm)];
        told[name] = found.flatMap((line) => JSON.parse(line[1]));
      }
    });
  });
  await Promise.all(opened);
  for (const name of names) {
    const headers = { "Content-Type": "application/json" };
    await fetch(root + name, { method: "POST", headers, body: JSON.stringify({ to: name }) });
  }
  return names;
}
"""
PROTOCOLS = """
() => [...new Set(performance.getEntriesByType("resource")
  .filter((entry) => entry.name.includes("/v1/stream/")).map((entry) => entry.nextHopProtocol))]
"""


class ManyStreamsTests(BrowserTestCase):
    """EventSource and fetch on many streams."""

    def follow(self, *options: str) -> None:
        """Follow sixteen streams in one page, and check that each receives its appends."""
        cached_pem("browser").write(self.directory)
        listen = ("--listen", endpoint(self.directory), "--console", *options)
        with Foreground(self.directory, "durable-streams", *listen) as server:
            page = self.page(ignore_https_errors=True)
            # A page of the same origin.
            page.goto(f"{url(server.port, 'https')}/-/console")
            names: list[str] = page.evaluate(FOLLOW, [stream(""), MANY])
            self.assertEqual(len(names), 2 * MANY)
            expected = {name: [{"to": name}] for name in names}
            page.wait_for_function(
                "expected => JSON.stringify(window.told) === expected",
                arg=json.dumps(expected, separators=(",", ":")),
            )
            protocols: Any = page.evaluate(PROTOCOLS)
            self.assertEqual(protocols, ["h2"])
            page.close()
            server.stop()
        self.assert_clean(server.log)

    def test_fast_channel(self) -> None:
        """The streams share a connection to the fast server."""
        self.follow()

    def test_twisted_web(self) -> None:
        """The streams share a connection to twisted.web."""
        self.follow("--no-fast-channel")
