"""Tests of `durable_streams_tw.service.proxy_protocol`."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.limits import PROXY_HEADER_TIMEOUT
from durable_streams_tw.service.listening import _endpoint
from durable_streams_tw.service.proxy_protocol import HeaderFactory, ProxyEndpoint
from tests.http.server_fixture import MORNING, at_once, parse

PROXY = IPv4Address("TCP", "10.0.0.1", 5000)
V1 = b"PROXY TCP4 %s 10.0.0.9 1234 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\x0a\x00\x00\x09\x04\xd2\x01\xbb"
REQUEST = b"GET /v1/stream/a HTTP/1.1\r\nHost: a\r\n\r\n"


class ProxyProtocolTests(SynchronousTestCase):
    """HTTP/1.1 engine behind a proxy, with one request per minute for each client."""

    fast = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        settings = Settings(rate=Rate(1, 60.0), max_connections_per_address=2)
        self.streams = DurableStreams(settings=settings, reactor=self.clock, in_thread=at_once)
        self.streams.startService()
        self.site: Any = self.streams.http_factory() if self.fast else self.streams.site()
        self.factory = HeaderFactory(self.site, self.clock)

    def connect(self, *pieces: bytes) -> StringTransport:
        """Open a connection and send these pieces."""
        transport = StringTransport(peerAddress=PROXY)
        protocol = self.factory.buildProtocol(PROXY)
        protocol.makeConnection(transport)
        for piece in pieces:
            protocol.dataReceived(piece)
        self.clock.advance(0)
        self.protocol: Any = protocol
        return transport

    def status(self, transport: StringTransport) -> int:
        (answer,) = parse(transport.value())
        return answer.status

    def test_rates(self) -> None:
        """Rate limits apply to the address in the header."""
        for host, status in (
            (b"203.0.113.1", 404),
            (b"203.0.113.2", 404),
            (b"203.0.113.1", 429),
            (b"203.0.113.3", 404),
        ):
            self.assertEqual(self.status(self.connect(V1 % host, REQUEST)), status, host)

    def test_connections_per_address(self) -> None:
        """Limits on connections apply to the address in the header."""
        for host in (b"203.0.113.1", b"203.0.113.1", b"203.0.113.2"):
            self.assertFalse(self.connect(V1 % host).disconnected, host)
        self.assertTrue(self.connect(V1 % b"203.0.113.1").disconnected)

    def test_pieces(self) -> None:
        """Headers of both versions are read in any pieces, with the request after them."""
        for header in (V1 % b"203.0.113.7", V2):
            for pieces in (
                [header + REQUEST],
                [header, REQUEST],
                [bytes([byte]) for byte in header + REQUEST],
            ):
                self.setUp()
                self.assertEqual(self.status(self.connect(*pieces)), 404)
                self.assertEqual(self.protocol.getPeer().host, "203.0.113.7")

    def test_no_header(self) -> None:
        """Connections without a valid header are closed, silent ones after a timeout."""
        transport = self.connect(REQUEST)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(transport.value(), b"")
        for pieces in ([], [b"PROXY "]):
            transport = self.connect(*pieces)
            self.clock.advance(PROXY_HEADER_TIMEOUT)
            self.assertTrue(transport.disconnected)

    def test_ended_before(self) -> None:
        """A connection that ends before its header leaves no state."""
        self.connect(b"PROXY ")
        self.protocol.connectionLost()
        self.assertEqual(self.factory.protocols, {})
        self.successResultOf(self.streams.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endpoint(self) -> None:
        """The endpoint ``--listen haproxy:tcp:...`` is parsed."""
        reactor: Any = Clock()
        endpoint = _endpoint(reactor, "haproxy:tcp:4437:interface=127.0.0.1")
        assert isinstance(endpoint, ProxyEndpoint)
        inner: Any = endpoint.endpoint
        self.assertEqual((inner._port, inner._interface), (4437, "127.0.0.1"))


class SiteProxyProtocolTests(ProxyProtocolTests):
    """PROXY protocol headers before the twisted.web site."""

    fast = False
