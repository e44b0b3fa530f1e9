"""Tests of `durable_streams_tw.http.http1.factory`: limits, handover and draining."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IProtocolNegotiationFactory, ITCPTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from durable_streams_tw.http import limits
from durable_streams_tw.http.connection_limiter import ConnectionLimiter, RejectedConnection
from durable_streams_tw.http.settings import Settings
from tests.http.http1.connection_case import FactoryClient, Http1TestCase, RecordingTransport, ok
from tests.http.malformed.builders import HOST, get, post, sized
from tests.http.server_fixture import parse

HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


class CountTests(Http1TestCase):
    """Limits on connections."""

    settings = Settings(max_connections=3, max_connections_per_address=2)

    def open_from(self, host: str | None) -> FactoryClient:
        """Open a connection from this address."""
        transport = RecordingTransport()
        peer: Any = UNIXAddress(None) if host is None else IPv4Address("TCP", host, 5)
        transport.peerAddr = peer
        caller = FactoryClient(self.factory, transport)
        self.callers.append(caller)
        return caller

    def test_all(self) -> None:
        """The total is limited; a closed connection makes room for another."""
        callers = [self.open_from(f"10.0.0.{number}") for number in range(4)]
        gone = [caller.transport.disconnected for caller in callers]
        self.assertEqual((gone, len(self.factory.connections)), ([False] * 3 + [True], 3))
        callers[0].leave()
        self.assertFalse(self.open_from("10.0.0.9").transport.disconnected)

    def test_each(self) -> None:
        """The connections of one address are limited."""
        callers = [self.open_from("10.0.0.1") for _ in range(3)]
        self.assertEqual(
            [caller.transport.disconnected for caller in callers], [False, False, True]
        )
        self.assertFalse(self.open_from("10.0.0.2").transport.disconnected)
        callers[0].leave()
        callers[1].leave()
        self.assertFalse(self.open_from("10.0.0.1").transport.disconnected)

    def test_no_address(self) -> None:
        """Clients of a UNIX socket have no address and count in total only."""
        callers = [self.open_from(None) for _ in range(3)]
        self.assertFalse(any(caller.transport.disconnected for caller in callers))

    def test_handed_over_count(self) -> None:
        """A connection that was handed over counts until it closes."""
        caller = self.open_from("10.0.0.1")
        caller.send(HEALTH)
        self.assertEqual(len(self.factory.connections), 1)
        caller.leave()
        self.assertEqual(len(self.factory.connections), 0)


class HandOverTests(Http1TestCase):
    """Requests that are not for streams."""

    def test_all_bytes(self) -> None:
        """After a request that is not for a stream, the site serves the whole connection."""
        self.handler.at_once = ok(b"stream")
        client = self.connect()
        client.send(sized() + HEALTH + get())
        client.send(get()[:7])
        client.send(get()[7:])
        self.assertEqual(client.statuses(), [200, 404, 200, 200])
        self.assertEqual([request.path for request in self.handler.requests], [b"s"] * 3)

    def test_after_a_response(self) -> None:
        """The connection is handed over after the responses to earlier requests."""
        client = self.connect()
        client.send(get() + HEALTH[:20])
        client.send(HEALTH[20:] + HEALTH)
        self.assertEqual(client.transport.value(), b"")
        self.pending_response().callback(ok(b"first"))
        self.assertEqual(client.statuses(), [200, 404, 404])

    def test_reading_goes_on(self) -> None:
        """Reading that the engine has paused resumes on handover."""
        client = self.connect()
        client.send(get() + HEALTH + b"x" * (limits.READ_AHEAD + 1))
        self.assertTrue(client.transport.paused)
        self.pending_response().callback(ok())
        self.assertFalse(client.transport.paused)

    def test_disconnect(self) -> None:
        """A lost connection is reported to the site."""
        client = self.connect()
        client.send(HEALTH)
        self.assertEqual(len(self.site.connections), 1)
        client.leave()
        self.assertEqual(len(self.site.connections), 0)

    def test_half_closed(self) -> None:
        """twisted.web closes a half-closed connection."""
        client = self.connect()
        client.send(HEALTH)
        client.protocol.readConnectionLost()
        self.assertTrue(client.transport.disconnecting)
        self.wait(limits.LINGER + 2)
        self.assertTrue(client.transport.disconnected)

    def test_own_timeouts(self) -> None:
        """Timeouts of the engine end with the handover."""
        client = self.connect()
        client.send(HEALTH[:5])
        self.wait(5)
        client.send(HEALTH[5:])
        self.wait(limits.HEAD_TIMEOUT + 5)
        self.assertFalse(client.transport.disconnecting)
        self.assertEqual(client.statuses(), [404])

    def test_protocols(self) -> None:
        """ALPN offers the protocols of the site."""
        verifyObject(IProtocolNegotiationFactory, self.factory)
        protocols = self.factory.acceptableProtocols()
        self.assertEqual(protocols, [b"h2", b"http/1.1"])


class StopTests(Http1TestCase):
    """Draining when the server stops."""

    def test_no_connections(self) -> None:
        """Draining without connections ends at once."""
        self.assertIsNone(self.successResultOf(self.factory.drain()))

    def test_idle(self) -> None:
        """Idle connections and those with incomplete requests are closed."""
        callers = [self.connect() for _ in range(3)]
        callers[1].send(get()[:9])
        callers[2].send(post(b"Content-Length: 9", body=b"x"))
        done = self.factory.drain()
        self.assertTrue(all(caller.transport.disconnecting for caller in callers))
        self.assertNoResult(done)
        for caller in callers:
            caller.leave()
        self.clock.advance(1)
        self.successResultOf(done)

    def test_busy(self) -> None:
        """A request that is executed gets its response; queued ones are not executed."""
        client = self.connect()
        client.send(get() + get())
        done = self.factory.drain()
        self.pending_response().callback(ok(b"done"))
        (answer,) = client.answers()
        self.assertEqual((answer.body, answer.header["connection"]), (b"done", "close"))
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(len(self.handler.requests), 1)
        client.leave()
        self.clock.advance(1)
        self.successResultOf(done)

    def test_no_new_connections(self) -> None:
        """New connections are rejected."""
        first = self.connect()
        first.send(get())
        self.factory.drain()
        self.assertTrue(self.connect().transport.disconnected)

    def test_too_long(self) -> None:
        """Connections that take too long are reset."""
        client = self.connect()
        client.send(get())
        done = self.factory.drain()
        self.wait(limits.STOP_GRACE + 1)
        self.assertTrue(client.transport.disconnected)
        client.leave()
        self.successResultOf(done)

    def test_handed_over(self) -> None:
        """Connections that were handed over are reset too."""
        client = self.connect()
        client.send(HEALTH)
        done = self.factory.drain()
        self.wait(1)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        self.wait(1)
        self.successResultOf(done)


class PlainTCP(RecordingTransport):
    """Transport that provides ITCPTransport."""

    def loseWriteConnection(self) -> None:
        """Record the half-close."""


class RejectedTests(SynchronousTestCase):
    """Connections above the limits."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.room = ConnectionLimiter(Settings(max_connections=2, max_connections_per_address=1))

    def open_from(self, host: str) -> Any:
        """Open a connection from this address that is rejected, over plain TCP."""
        transport: Any = PlainTCP()
        alsoProvides(transport, ITCPTransport)
        transport.peerAddr = IPv4Address("TCP", host, 5)
        protocol = RejectedConnection(self.room, self.clock)
        protocol.makeConnection(transport)
        transport.protocol = protocol
        return transport

    def test_one_address(self) -> None:
        """A client above its own limit gets 429 with Retry-After."""
        self.room.add(IPv4Address("TCP", "10.0.0.1", 5))
        (answer,) = parse(self.open_from("10.0.0.1").value())
        self.assertEqual((answer.status, answer.header["retry-after"]), (429, "5"))
        self.assertTrue(answer.complete)

    def test_all(self) -> None:
        """A client above the total limit gets 503 with Retry-After."""
        (answer,) = parse(self.open_from("10.0.0.2").value())
        self.assertEqual((answer.status, answer.header["retry-after"]), (503, "5"))

    def test_not_for_long(self) -> None:
        """A client that does not close is reset after `REJECTED_LINGER`."""
        transport = self.open_from("10.0.0.1")
        self.assertFalse(transport.disconnected)
        self.clock.advance(limits.REJECTED_LINGER)
        self.assertTrue(transport.disconnected)
        transport.protocol.connectionLost()
        self.assertEqual(self.room.rejecting, 0)

    def test_not_many(self) -> None:
        """Above `MAX_REJECTED` connections are reset without a response."""
        flood = [self.open_from("10.0.0.1") for _ in range(limits.MAX_REJECTED + 3)]
        self.assertEqual([bool(one.value()) for one in flood[-4:]], [True, False, False, False])
        for one in flood:
            one.protocol.connectionLost()
        self.assertEqual(self.room.rejecting, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
