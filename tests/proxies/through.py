"""Tests of requests and responses through each proxy.

`./check proxies` runs them if the proxies are installed; ``trial tests`` does not.
"""

from __future__ import annotations

import hashlib
import json
import random
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, ClassVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.examples.blocks import blocks
from tests.proxies.proxies import PATIENCE, Caddy, HAProxy, Nginx, Proxy, program
from tests.service.black_box import ROOT, Foreground, new_directory
from tests.tokens import position_of

# Not imported at run time: the shared base class would be collected as a test.
if TYPE_CHECKING:
    _TestCase = SynchronousTestCase
else:
    _TestCase = object

MIB = 1024 * 1024
# Timeout of a wait for an expected event.
LONG_POLL = "2s"


class _Events:
    """SSE response that is being read."""

    def __init__(self, answer: HTTPResponse) -> None:
        self.answer = answer

    def next(self, kind: str) -> str:
        """Return the data of the next event of a type."""
        found, data = "", []
        while True:
            line = self.answer.readline().decode()
            assert line, "the event stream has ended"
            name, _, value = line.rstrip("\n").partition(":")
            if name == "event":
                found = value.strip()
            elif name == "data":
                data.append(value)
            elif line == "\n":
                if found == kind:
                    return "\n".join(data)
                found, data = "", []


class _ProxyTests(_TestCase):
    """Tests with one server and one proxy."""

    kind: ClassVar[type[Proxy]]

    def setUp(self) -> None:
        """Start a server and a proxy before it."""
        for name in (self.kind.name, "curl"):
            if program(name) is None:
                raise SkipTest(f"{name} is not installed")
        self.directory = new_directory(self)
        server = Foreground(
            self.directory,
            "durable-streams",
            "--listen=tcp:0:interface=127.0.0.1",
            "--trust-proxy",
            f"--long-poll-timeout={LONG_POLL}",
        )
        server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        self.proxy = self.kind(self.directory, server.port)
        self.addCleanup(self.proxy.stop)
        self.proxy.start()
        self.context = ssl.create_default_context(cafile=str(self.proxy.certificate))

    @contextmanager
    def send(
        self, method: str, target: str, body: bytes | None = None, **fields: str
    ) -> Iterator[HTTPResponse]:
        """Send a request; return its response, whose body may still arrive."""
        connection = HTTPSConnection(
            "localhost", self.proxy.port, timeout=PATIENCE, context=self.context
        )
        header = {"Content-Type": "text/plain", "Connection": "close"}
        header |= {name.replace("_", "-"): value for name, value in fields.items()}
        try:
            connection.request(method, target, body, header)
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(
        self, method: str, name: str, body: bytes | None = None, **fields: str
    ) -> tuple[HTTPResponse, bytes]:
        """Send a request for a stream and return its complete response."""
        with self.send(method, ROOT + name, body, **fields) as answer:
            return answer, answer.read()

    def status(self, method: str, name: str, body: bytes | None = None, **f: str) -> int:
        """Return the status of a response."""
        return self.ask(method, name, body, **f)[0].status

    def test_writing_and_reading(self) -> None:
        """Headers, statuses and bytes pass unchanged."""
        made, _ = self.ask("PUT", "a")
        self.assertEqual(made.status, 201)
        self.assertEqual(made.getheader("Location"), f"https://localhost:{self.proxy.port}{ROOT}a")
        batch = {"Producer_Id": "p", "Producer_Epoch": "0", "Producer_Seq": "0"}
        self.assertEqual(self.status("POST", "a", b"\x00one", **batch), 200)
        self.assertEqual(self.status("POST", "a", b"\x00one", **batch), 204)
        answer, body = self.ask("GET", "a?offset=-1")
        self.assertEqual((answer.status, body), (200, b"\x00one"))
        self.assertEqual(answer.getheader("Stream-Up-To-Date"), "true")
        tag = answer.getheader("ETag")
        assert tag is not None
        self.assertEqual(self.status("GET", "a?offset=-1", If_None_Match=tag), 304)
        head, _ = self.ask("HEAD", "a")
        offset = head.getheader("Stream-Next-Offset")
        self.assertEqual(position_of(offset or ""), 4)
        refused, body = self.ask("POST", "a", b"[]", Content_Type="application/json")
        self.assertEqual(refused.status, 409)
        self.assertIn("content-type-mismatch", json.loads(body)["type"])
        self.assertEqual(self.status("DELETE", "a"), 204)
        self.assertEqual(self.status("GET", "a"), 404)

    def test_names(self) -> None:
        """Names of streams are not decoded, merged or normalized."""
        for name in ("b/c", "b%20c", "%C3%BC", "b;c=d", "b%252Fd"):
            self.assertEqual(self.status("PUT", name), 201, name)
            self.assertEqual(self.status("HEAD", name), 200, name)
        self.assertEqual(self.status("HEAD", "b/d"), 404)
        self.assertEqual(self.status("PUT", "b//c"), 400)

    def test_operator_resources_are_not_proxied(self) -> None:
        """Operator resources are not reachable through the proxy."""
        for target in ("/-/live", "/-/metrics", "/"):
            with self.send("GET", target) as answer:
                self.assertIn(answer.status, (404, 503))
                self.assertNotIn(b"durable", answer.read())

    def test_forged_headers(self) -> None:
        """Forwarded headers of a client are replaced."""
        made, _ = self.ask("PUT", "a", X_Forwarded_Host="evil.example", X_Forwarded_Proto="http")
        self.assertEqual(made.getheader("Location"), f"https://localhost:{self.proxy.port}{ROOT}a")

    def test_long_poll(self) -> None:
        """A long-poll waits and returns the append."""
        self.ask("PUT", "a")
        answers: list[tuple[int, bytes]] = []

        def wait() -> None:
            answer, body = self.ask("GET", "a?offset=now&live=long-poll")
            answers.append((answer.status, body))

        waiter = threading.Thread(target=wait)
        waiter.start()
        # Whether the long-poll waits already is not visible from outside. If the append came first,
        # the second one ends the wait.
        sent = 0
        while waiter.is_alive() and sent < 100:
            self.ask("POST", "a", b"x")
            sent += 1
        waiter.join(PATIENCE)
        ((status, body),) = answers
        self.assertEqual(status, 200)
        self.assertEqual(body.strip(b"x"), b"")

    def test_long_poll_timeout(self) -> None:
        """A long-poll without an append ends by the server's timeout, not the proxy's."""
        self.ask("PUT", "a")
        answer, _ = self.ask("GET", "a?offset=now&live=long-poll")
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.getheader("Stream-Up-To-Date"), "true")

    def test_events(self) -> None:
        """Each event arrives before the next append, and the response ends as complete."""
        self.ask("PUT", "a")
        with self.send("GET", f"{ROOT}a?offset=-1&live=sse") as answer:
            self.assertEqual(answer.getheader("Content-Type"), "text/event-stream")
            events = _Events(answer)
            events.next("control")
            for number in range(3):
                self.ask("POST", "a", b"%d" % number)
                self.assertEqual(events.next("data"), str(number))
            self.ask("POST", "a", Stream_Closed="true")
            while not (told := json.loads(events.next("control"))).get("streamClosed"):
                self.assertIn("streamNextOffset", told)
            self.assertEqual(answer.read(), b"")
        self.assertEqual(self.status("POST", "a", b"late"), 409)

    def test_events_over_http2(self) -> None:
        """A client with HTTP/2 gets each event before the next append too."""
        self.ask("PUT", "a")
        address = f"https://localhost:{self.proxy.port}{ROOT}a?offset=-1&live=sse"
        trust = ["--cacert", str(self.proxy.certificate)]
        client = subprocess.Popen(
            ["curl", "--http2", "-sSNi", "--max-time", str(PATIENCE), *trust, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        assert client.stdout is not None and client.stderr is not None
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.stderr.close)
        self.assertEqual(client.stdout.readline(), b"HTTP/2 200 \r\n")
        while (line := client.stdout.readline()) != b"event: control\n":
            self.assertNotEqual(line, b"", client.stderr)
        self.ask("POST", "a", b"now")
        while (line := client.stdout.readline()) != b"data:now\n":
            self.assertNotEqual(line, b"")
        self.ask("POST", "a", Stream_Closed="true")
        rest, said = client.communicate(timeout=PATIENCE)
        self.assertIn(b'"streamClosed":true', rest)
        self.assertEqual((client.returncode, said), (0, b""))

    def test_large_bodies(self) -> None:
        """Large bodies pass in both directions, and a refusal arrives before the upload ends."""
        data = random.Random(1).randbytes(60 * MIB)
        self.assertEqual(self.status("PUT", "a"), 201)
        self.assertEqual(self.status("POST", "a", data), 204)
        read, offset = hashlib.sha256(), "-1"
        while True:
            answer, body = self.ask("GET", f"a?offset={offset}")
            self.assertEqual(answer.status, 200)
            read.update(body)
            offset = answer.getheader("Stream-Next-Offset") or ""
            if answer.getheader("Stream-Up-To-Date"):
                break
        self.assertEqual(read.digest(), hashlib.sha256(data).digest())
        with self.send("POST", f"{ROOT}a", None, Content_Length=str(65 * MIB)) as refused:
            self.assertEqual(refused.status, 413)


class NginxTests(_ProxyTests, SynchronousTestCase):
    """Through nginx."""

    kind = Nginx

    def test_page(self) -> None:
        """The page's commands make a certificate, load it, and create a stream with it."""
        create, load = blocks("docs/how-to/reverse-proxies.md", "sh", "/etc/ssl")
        self.run_commands(create.text)
        reload, request = load.text.split("\n", 1)
        self.assertEqual(reload, "nginx -t && systemctl reload nginx")
        self.ask("PUT", "a")
        with self.send("GET", f"{ROOT}a?offset=-1&live=sse") as answer:
            events = _Events(answer)
            events.next("control")
            # The event stream stays with the old process.
            self.proxy.reload()
            request = request.replace("curl -i", "curl -sSi --retry 9 --retry-all-errors")
            said = self.run_commands(request)
            self.assertIn(f"location: https://streams.example:{self.proxy.port}{ROOT}hello", said)
            self.run_commands(request.replace("-X PUT", "-X POST -d one").replace("hello", "a"))
            self.assertEqual(events.next("data"), "one")

    def run_commands(self, script: str) -> str:
        """Run commands of the page with the files and the port of the test; return the output."""
        for documented, ours in {
            "mkdir -p /etc/ssl/streams.example": "",
            "/etc/ssl/streams.example/privkey.pem": str(self.proxy.key),
            "/etc/ssl/streams.example/fullchain.pem": str(self.proxy.certificate),
            "example:443": f"example:{self.proxy.port}",
            "streams.example/v1": f"streams.example:{self.proxy.port}/v1",
        }.items():
            script = script.replace(documented, ours)
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class HAProxyTests(_ProxyTests, SynchronousTestCase):
    """Through HAProxy."""

    kind = HAProxy


class CaddyTests(_ProxyTests, SynchronousTestCase):
    """Through Caddy."""

    kind = Caddy
