"""Tests of the access log with both HTTP servers over in-memory transports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.telemetry.access_log import AccessLog
from durable_streams_tw.telemetry.health import Live
from tests.http.server_fixture import MORNING, Client

TEXT = {"Content-Type": "text/plain"}


class AccessLogTests(SynchronousTestCase):
    """Events of requests."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.start(trust_proxy=False)

    def start(self, *, trust_proxy: bool) -> None:
        """Start a server with an access log, with both kinds of HTTP/1.1 connections."""
        access_log = AccessLog(self.clock.seconds, trust_proxy=trust_proxy)
        self.streams = DurableStreams(
            reactor=self.clock,
            settings=Settings(trust_proxy=trust_proxy),
            wrap_handler=access_log.around,
            begin_web_request=access_log.begin_web_request,
        )
        self.streams.startService()
        self.addCleanup(self.streams.stopService)
        tree = OperatorTree()
        tree.putChild(b"live", Live())
        factory: Any = self.streams.http_factory(operators=tree)
        self.servers: list[Any] = [factory, self.streams.site(operators=tree)]

    def connect(self, server: Any) -> Client:
        """Open a connection."""
        client = Client(server)
        self.addCleanup(client.leave)
        return client

    def logged(self, events: Sequence[LogEvent]) -> list[tuple[Any, ...]]:
        """Return method, target, status and size of the accesses among events."""
        found = []
        for event in events:
            if "milliseconds" in event:
                self.assertEqual(event["log_level"], LogLevel.info)
                found.append((event["method"], event["target"], event["status"], event["size"]))
        return found

    def test_requests(self) -> None:
        """Each request for a stream gets one event with method, target, status and size."""
        for server in self.servers:
            client = self.connect(server)
            with capturedLogs() as events:
                client.ask("PUT", "/v1/stream/a%20b", TEXT, b"abc")
                client.ask("GET", "/v1/stream/a%20b?offset=-1")
                client.ask("HEAD", "/v1/stream/a%20b")
                client.ask("DELETE", "/v1/stream/a%20b")
                missing = client.ask("GET", "/v1/stream/a%20b")
            self.assertEqual(
                self.logged(events),
                [
                    ("PUT", "/v1/stream/a%20b", 201, 0),
                    ("GET", "/v1/stream/a%20b?offset=-1", 200, 3),
                    ("HEAD", "/v1/stream/a%20b", 200, 0),
                    ("DELETE", "/v1/stream/a%20b", 204, 0),
                    ("GET", "/v1/stream/a%20b", 404, len(missing.body)),
                ],
            )

    def test_other_resources(self) -> None:
        """Requests for operator resources and for missing paths get one event each."""
        for server in self.servers:
            client = self.connect(server)
            with capturedLogs() as events:
                sizes = [
                    len(client.ask("GET", path).body) for path in ("/-/live", "/-/x", "/", "/other")
                ]
            self.assertEqual(
                self.logged(events),
                [
                    ("GET", "/-/live", 200, sizes[0]),
                    ("GET", "/-/x", 404, sizes[1]),
                    ("GET", "/", 200, sizes[2]),
                    ("GET", "/other", 404, sizes[3]),
                ],
            )

    def test_waiting(self) -> None:
        """A long-poll is logged with its response and its time, or with 499 if the client left."""
        for server in self.servers:
            self.connect(server).ask("PUT", "/v1/stream/w", TEXT)
            waiting, leaving = self.connect(server), self.connect(server)
            with capturedLogs() as events:
                for client in (waiting, leaving):
                    client.request("GET", "/v1/stream/w?offset=now&live=long-poll")
                self.clock.advance(2)
                leaving.leave()
                self.connect(server).ask("POST", "/v1/stream/w", TEXT, b"hello")
                self.clock.advance(0)
            accesses = [event for event in events if "milliseconds" in event]
            by_status = {event["status"]: event for event in accesses}
            self.assertEqual(sorted(by_status), [200, 204, 499])
            self.assertEqual(by_status[200]["milliseconds"], 2000.0)
            self.assertEqual(by_status[200]["size"], 5)
            self.connect(server).ask("DELETE", "/v1/stream/w")

    def test_live(self) -> None:
        """An SSE response is logged when it starts, without a size."""
        for server in self.servers:
            self.connect(server).ask("PUT", "/v1/stream/s", TEXT)
            with capturedLogs() as events:
                self.connect(server).request("GET", "/v1/stream/s?offset=-1&live=sse")
            self.assertEqual(
                self.logged(events), [("GET", "/v1/stream/s?offset=-1&live=sse", 200, "-")]
            )

    def test_refused_by_head(self) -> None:
        """A request that is refused before its body arrives is logged once."""
        for server in self.servers:
            client = self.connect(server)
            with capturedLogs() as events:
                client.send(
                    b"PATCH /v1/stream/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                    b"Content-Length: 10\r\n\r\n"
                )
            ((method, target, status, _),) = self.logged(events)
            self.assertEqual((method, target, status), ("PATCH", "/v1/stream/a", 405))

    def test_malformed(self) -> None:
        """A request that cannot be parsed is logged without method and target."""
        client = self.connect(self.servers[0])
        with capturedLogs() as events:
            client.send(b"GET /v1/stream/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        ((method, target, status, _),) = self.logged(events)
        self.assertEqual((method, target, status), ("-", "-", 400))

    def test_client(self) -> None:
        """The client is the peer; behind a trusted proxy the last entry of X-Forwarded-For."""
        forwarded = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7"}
        for trust_proxy, expected in ((False, "192.168.1.1"), (True, "198.51.100.7")):
            self.start(trust_proxy=trust_proxy)
            for server in self.servers:
                with capturedLogs() as events:
                    self.connect(server).ask("GET", "/v1/stream/x", forwarded)
                (client,) = [event["client"] for event in events if "milliseconds" in event]
                self.assertEqual(client, expected)
