"""Program that serves each kind of request once and prints the modules imported while serving.

python late_imports.py DIRECTORY
"""

from __future__ import annotations

import json
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.internet import reactor as installed

from durable_streams_tw.service.make_service import Options, makeService

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
called = threading.Event()


class Receiver(BaseHTTPRequestHandler):
    """Webhook receiver that responds "done" at once."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"done": true}')
        called.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def ask(port: int, hook: int) -> None:
    """Send one request of each kind."""
    client = HTTPConnection("127.0.0.1", port, timeout=60)

    def send(method: str, path: str, body: Any = None, header: dict[str, str] = JSON) -> None:
        client.request(method, path, body, header)
        client.getresponse().read()

    send("GET", "/-/live")
    before = set(sys.modules)
    large = json.dumps([{"a": "x" * 1000}] * 2000)
    config = {
        "type": "webhook",
        "pattern": "w/**",
        "webhook": {"url": f"http://localhost:{hook}/"},
    }
    send("PUT", "/v1/stream/a", "[]")
    send("POST", "/v1/stream/a", large)
    send("GET", "/v1/stream/a?offset=-1", None, {"Accept-Encoding": "gzip"})
    send("PUT", "/v1/stream/fork", None, {"Stream-Forked-From": "/v1/stream/a"})
    send("PUT", "/v1/stream/__ds/subscriptions/s", json.dumps(config))
    send("PUT", "/v1/stream/w/1", "x", TEXT)
    assert called.wait(60)
    for path in (
        *("metrics", "ready", "streams", "streams?sort=size", "console", "console/main.js"),
        *("bytes?stream=a", "changes?stream=a&seen=", "subscriptions"),
    ):
        send("GET", f"/-/{path}")
    send("GET", "/-/metrics", None, {"Accept": "application/openmetrics-text"})
    send("GET", "/v1/stream/__ds/jwks.json")
    send("GET", "/v1/stream/__ds/subscriptions/s")
    send("GET", "/v1/stream/missing")
    send("PATCH", "/v1/stream/a")
    send("DELETE", "/v1/stream/a")
    sys.stdout.write(json.dumps(sorted(set(sys.modules) - before)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until all requests have responses."""
    reactor: Any = installed
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    options = Options()
    options.parseOptions(
        ["--listen=tcp:0:interface=127.0.0.1", "--console", f"--data-dir={sys.argv[1]}"]
    )
    service = makeService(options)
    service.privilegedStartService()
    service.startService()
    (port,) = [
        reader.getHost().port for reader in reactor.getReaders() if hasattr(reader, "getHost")
    ]

    def drive() -> None:
        try:
            ask(port, receiver.server_port)
        finally:
            reactor.callFromThread(reactor.stop)

    reactor.callLater(0, threading.Thread(target=drive, daemon=True).start)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
