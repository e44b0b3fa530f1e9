"""Tests of `durable_streams_tw.subscriptions.webhook_client`: connections and responses."""

from __future__ import annotations

import gzip
import os
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from durable_streams_tw.outgoing.limits import RESOLVE_TIMEOUT, RESOLVER_CACHE
from durable_streams_tw.outgoing.resolver import Resolver
from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.subscriptions.limits import MAX_WEBHOOK_RESPONSE, WEBHOOK_TIMEOUT
from durable_streams_tw.subscriptions.webhook_client import WebhookClient
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse, WebhookUnreachable
from tests.outgoing.name_service import FakeNameService, ThreadedMemoryReactor
from tests.protocol.refusal_case import RefusalTestCase

URL = "https://worker.example/hooks?x=1"
LOCAL = "http://localhost:3000/hooks"
GOOD = "93.184.216.34"


class FakeTCPTransport(StringTransport):
    """In-memory transport with TCP options."""

    protocol: Any = None

    def setTcpNoDelay(self, _: bool) -> None:
        """Do nothing."""


class FakeConnection:
    """Connection that the reactor was asked for."""

    def __init__(self, attempt: Any) -> None:
        self.host, self.port, self.factory = attempt[:3]
        self.transport = FakeTCPTransport()
        self.protocol: Any = None

    def accept(self) -> None:
        self.protocol = self.factory.buildProtocol(None)
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)

    def refuse(self) -> None:
        self.factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def receive(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def end(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def ended(self) -> bool:
        return self.transport.disconnecting or self.transport.disconnected


class WebhookClientCase(RefusalTestCase):
    """Test case with an in-memory reactor and a fake name service."""

    def setUp(self) -> None:
        self.reactor = ThreadedMemoryReactor()
        self.local = False
        self.names = FakeNameService()
        self.resolver = Resolver(self.reactor, self.names)
        self.caller = WebhookClient(self.reactor, lambda: self.local, self.resolver.resolve)
        self.resolve_to(GOOD)
        self.seen = 0

    def resolve_to(self, *addresses: str) -> None:
        """Set the addresses of all names, and clear the resolver's cache."""
        self.names.known = {"worker.example": list(addresses), "localhost": list(addresses)}
        self.reactor.advance(RESOLVER_CACHE)

    def post(self, url: str = URL, timeout: float = 30.0) -> Deferred[WebhookResponse]:
        header = {"Content-Type": "application/json", "Webhook-Signature": "t=1"}
        posted = self.caller.post(url, b'{"a": 1}', header, timeout)
        self.reactor.advance(0)
        return posted

    def inspect(self, url: str) -> Deferred[None]:
        inspected = self.caller.inspect(url)
        self.reactor.advance(0)
        return inspected

    def connection(self) -> FakeConnection:
        """Return the next requested connection."""
        self.seen += 1
        self.assertEqual(len(self.reactor.tcpClients), self.seen)
        return FakeConnection(self.reactor.tcpClients[-1])

    def assertUnconnected(self) -> None:
        self.assertEqual(len(self.reactor.tcpClients), self.seen)
        self.assertEqual(self.reactor.sslClients, [])

    def assertRejected(self, deferred: Deferred[Any]) -> None:
        refused: Any = self.failureResultOf(deferred, Refused).value
        self.assertEqual(refused.refusal.problem, Problem.WEBHOOK_URL_REJECTED)

    def open_local_request(self) -> tuple[Deferred[WebhookResponse], FakeConnection]:
        """Start a request without TLS and connect it."""
        self.local = True
        self.resolve_to("127.0.0.1")
        posted = self.post(LOCAL)
        connection = self.connection()
        connection.accept()
        return posted, connection


class AddressTests(WebhookClientCase):
    """Addresses of connections."""

    def test_to_the_checked_address(self) -> None:
        """A connection goes to the checked address, with the name as SNI (§12.8)."""
        posted = self.post()
        connection = self.connection()
        self.assertEqual((connection.host, connection.port), (GOOD, 443))
        self.assertEqual(self.names.asked, ["worker.example"])
        connection.accept()
        hello = connection.transport.value()
        self.assertEqual(hello[:1], b"\x16", "a TLS handshake")
        self.assertIn(b"worker.example", hello)
        self.assertNotIn(GOOD.encode(), hello)
        self.assertNoResult(posted)
        posted.cancel()
        self.failureResultOf(posted, CancelledError)

    def test_rebinding(self) -> None:
        """A name that was public at creation and resolves to a private address later is refused."""
        self.successResultOf(self.inspect(URL))
        self.resolve_to("169.254.169.254")
        self.assertRejected(self.post())
        self.assertUnconnected()

    def test_mixed(self) -> None:
        """A name with a public and a private address is refused."""
        self.resolve_to(GOOD, "10.0.0.1")
        self.assertRejected(self.inspect(URL))
        self.assertRejected(self.post())
        self.resolve_to("::ffff:127.0.0.1")
        self.assertRejected(self.post())
        self.assertUnconnected()

    def test_inspection(self) -> None:
        """A URL that resolves to a private address is refused at creation."""
        for url in ("https://127.1/", "https://10.0.0.1/", "http://worker.example/", LOCAL):
            self.assertRejected(self.inspect(url))
        self.assertEqual(self.names.asked, [])
        self.resolve_to("192.168.0.1")
        self.assertRejected(self.inspect(URL))
        # A name without an address may get one later.
        self.resolve_to()
        self.successResultOf(self.inspect(URL))
        # A hanging name server ends only the wait: its lookup cannot be cancelled.
        self.reactor.advance(RESOLVER_CACHE)
        self.names.hanging.add("worker.example")
        inspected = self.inspect(URL)
        self.reactor.advance(RESOLVE_TIMEOUT - 1)
        self.assertNoResult(inspected)
        self.reactor.advance(1)
        self.successResultOf(inspected)

    def test_literal(self) -> None:
        """A literal address needs no lookup."""
        posted = self.post("https://8.8.8.8:8443/")
        connection = self.connection()
        self.assertEqual((connection.host, connection.port), ("8.8.8.8", 8443))
        self.assertEqual(self.names.asked, [])
        posted.cancel()
        self.failureResultOf(posted)

    def test_no_longer_allowed(self) -> None:
        """A loopback webhook is refused once the server is reachable by others."""
        self.resolve_to("127.0.0.1")
        self.assertRejected(self.post(LOCAL))
        self.local = True
        posted = self.post(LOCAL)
        self.assertEqual(self.connection().host, "127.0.0.1")
        posted.cancel()
        self.failureResultOf(posted)
        self.resolve_to("10.0.0.1")
        self.assertRejected(self.post(LOCAL))

    def test_next_address(self) -> None:
        self.resolve_to(GOOD, "8.8.8.8")
        posted = self.post()
        self.connection().refuse()
        second = self.connection()
        self.assertEqual(second.host, "8.8.8.8")
        second.refuse()
        self.failureResultOf(posted, ConnectionRefusedError)

    def test_no_address(self) -> None:
        self.resolve_to()
        self.failureResultOf(self.post(), WebhookUnreachable)

    def test_no_proxy(self) -> None:
        """Proxy variables of the environment are ignored."""
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            self.patch(os, "environ", {**os.environ, name: "http://10.0.0.1:3128"})
        posted, connection = self.open_local_request()
        self.assertEqual((connection.host, connection.port), ("127.0.0.1", 3000))
        self.assertTrue(connection.transport.value().startswith(b"POST /hooks HTTP/1.1\r\n"))
        posted.cancel()
        self.failureResultOf(posted)

    def test_both_families(self) -> None:
        """IPv4 and IPv6 addresses are tried in the resolved order."""
        self.resolve_to("8.8.8.8", "2606:4700::1111")
        posted = self.post()
        self.connection().refuse()
        self.assertEqual(self.connection().host, "2606:4700::1111")
        posted.cancel()
        self.failureResultOf(posted)


class ResponseTests(WebhookClientCase):
    """Requests and responses."""

    def test_request(self) -> None:
        posted, connection = self.open_local_request()
        head, _, body = connection.transport.value().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"POST /hooks HTTP/1.1")
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        self.assertEqual(fields[b"Host"], b"localhost:3000")
        self.assertEqual(fields[b"Webhook-Signature"], b"t=1")
        self.assertEqual(fields[b"Content-Type"], b"application/json")
        self.assertEqual(fields[b"Content-Length"], b"8")
        self.assertEqual(fields[b"Accept-Encoding"], b"identity")
        self.assertEqual(body, b'{"a": 1}')
        connection.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + b'{"done": true}')
        self.assertEqual(self.successResultOf(posted), WebhookResponse(200, b'{"done": true}'))
        self.assertTrue(connection.ended, "connections are not kept")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_redirects_are_not_followed(self) -> None:
        for status in (301, 302, 303, 307, 308):
            posted, connection = self.open_local_request()
            head = f"HTTP/1.1 {status} X\r\nLocation: http://169.254.169.254/\r\n"
            connection.receive(head.encode() + b"Content-Length: 0\r\n\r\n")
            self.assertEqual(self.successResultOf(posted).status, status)
        self.assertUnconnected()

    def test_cookies_are_not_kept(self) -> None:
        posted, connection = self.open_local_request()
        connection.receive(
            b"HTTP/1.1 204 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
        )
        self.successResultOf(posted)
        posted, connection = self.open_local_request()
        self.assertNotIn(b"Cookie", connection.transport.value())
        posted.cancel()
        self.failureResultOf(posted)

    def test_large_answers(self) -> None:
        """Large responses are refused, with any framing."""
        for head in (
            b"Content-Length: 100000000\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n",
            b"\r\n",
            b"X: ",
            b"",
        ):
            posted, connection = self.open_local_request()
            connection.receive(b"HTTP/1.1 200 OK\r\n" + head)
            sent = 0
            piece = b"x: y\r\n" * 1000 if not head else b"x" * 10_000
            while not connection.ended and sent < 10 * MAX_WEBHOOK_RESPONSE:
                connection.receive(piece)
                sent += len(piece)
            self.assertTrue(connection.ended, head)
            self.assertLess(sent, 3 * MAX_WEBHOOK_RESPONSE)
            connection.end()
            self.failureResultOf(posted)

    def test_not_decompressed(self) -> None:
        packed = gzip.compress(b"{" + b" " * 10**7)
        posted, connection = self.open_local_request()
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        connection.receive(head % len(packed) + packed)
        self.assertEqual(self.successResultOf(posted).body, packed)

    def test_timeout(self) -> None:
        """The timeout covers the lookup, the connection, the head and the body."""
        for said in (None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"):
            self.local = True
            self.resolve_to("127.0.0.1")
            posted = self.post(LOCAL, timeout=1000.0)
            connection = self.connection()
            if said is not None:
                connection.accept()
                connection.receive(said)
            self.reactor.advance(WEBHOOK_TIMEOUT - 1)
            self.assertNoResult(posted)
            self.reactor.advance(1)
            self.failureResultOf(posted, TimeoutError)
            if said is not None:
                self.assertTrue(connection.ended)
        posted = self.post(LOCAL, timeout=1.0)
        self.connection().accept()
        self.reactor.advance(1)
        self.failureResultOf(posted, TimeoutError)
        self.reactor.advance(RESOLVER_CACHE)
        self.names.hanging.add("worker.example")
        posted = self.post()
        self.reactor.advance(RESOLVE_TIMEOUT)
        self.failureResultOf(posted, TimeoutError)

    def test_nonsense(self) -> None:
        for said in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"):
            posted, connection = self.open_local_request()
            connection.receive(said)
            self.failureResultOf(posted)
            self.assertTrue(connection.ended)
