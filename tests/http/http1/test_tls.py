"""Tests of HTTP/1.1 over TLS in memory, and of HTTP/2 chosen by ALPN."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test.iosim import IOPump, connect, makeFakeClient, makeFakeServer
from zope.interface import implementer

from durable_streams_tw.protocol import limits
from tests.http.http1.connection_case import Http1TestCase, ok
from tests.http.malformed.builders import HOST, get, sized
from tests.http.server_fixture import parse

HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
SETTINGS_FRAME = b"\0\0\0\x04\0\0\0\0\0"


@lru_cache
def certificate() -> PrivateCertificate:
    """Return the server's certificate, which is generated once."""
    key: Any = KeyPair.generate(size=2048)
    made: PrivateCertificate = key.selfSignedCert(1, CN="localhost")
    return made


class Reader(Protocol):
    """Client that records received bytes."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        """Record bytes."""
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        """Record the end."""
        self.lost = True


@implementer(IProtocolNegotiationFactory)
class Readers(ClientFactory):
    """Factory of a client that offers these protocols."""

    noisy = False

    def __init__(self, reader: Reader, protocols: list[bytes]) -> None:
        self._reader = reader
        self._protocols = protocols

    def buildProtocol(self, address: object) -> Reader:
        """Return the client."""
        return self._reader

    def acceptableProtocols(self) -> list[bytes]:
        """Return the offered protocols."""
        return self._protocols


class TlsTests(Http1TestCase):
    """Server behind TLS."""

    def shake(self, *protocols: bytes) -> tuple[Reader, IOPump]:
        """Connect a client and complete the handshake."""
        reader = Reader()
        self.wire_clock = Clock()
        server = TLSMemoryBIOFactory(
            certificate().options(), False, self.factory, self.wire_clock
        ).buildProtocol(None)
        client = TLSMemoryBIOFactory(
            CertificateOptions(), True, Readers(reader, list(protocols)), self.wire_clock
        ).buildProtocol(None)
        pump = connect(server, makeFakeServer(server), client, makeFakeClient(client))
        self.pump(pump)
        return reader, pump

    def pump(self, pump: IOPump) -> None:
        """Transfer bytes until there are none."""
        for _ in range(5):
            self.clock.advance(0)
            self.wire_clock.advance(0)
            pump.flush()

    def end(self, reader: Reader, pump: IOPump) -> None:
        """Close the client."""
        reader.transport.loseConnection()
        self.pump(pump)
        self.assertTrue(reader.lost)

    def test_requests(self) -> None:
        """Requests get responses with https URLs."""
        self.handler.at_once = ok(b"sealed")
        reader, pump = self.shake(b"http/1.1")
        reader.transport.write(sized() + get())
        self.pump(pump)
        self.assertEqual([answer.body for answer in parse(reader.received)], [b"sealed"] * 2)
        self.assertEqual(self.handler.requests[0].url, b"https://a/v1/stream/s")
        self.end(reader, pump)

    def test_stopped_while_idle(self) -> None:
        """When an idle connection ends, the server does not wait for the client's close_notify."""
        self.handler.at_once = ok(b"sealed")
        for send in (b"", sized()):
            self.factory.context.stopping = False
            reader, pump = self.shake(b"http/1.1")
            reader.transport.write(send)
            self.pump(pump)
            done = self.factory.drain()
            self.assertTrue(pump.serverIO.disconnecting)
            self.pump(pump)
            self.assertTrue(reader.lost)
            self.clock.advance(1)
            self.successResultOf(done)

    def test_handed_over_and_stopped(self) -> None:
        """A connection of twisted.web ends without waiting for the client's close_notify too."""
        reader, pump = self.shake(b"http/1.1")
        reader.transport.write(HEALTH)
        self.pump(pump)
        self.assertTrue(reader.received)
        done = self.factory.drain()
        self.assertTrue(pump.serverIO.disconnecting)
        self.pump(pump)
        self.assertTrue(reader.lost)
        self.clock.advance(1)
        self.successResultOf(done)

    def test_last(self) -> None:
        """The last response is complete before the connection ends, also a large one."""
        self.handler.at_once = ok(b"x" * limits.MIB)
        reader, pump = self.shake(b"http/1.1")
        reader.transport.write(get(b"Connection: close"))
        self.pump(pump)
        (answer,) = parse(reader.received)
        self.assertEqual((len(answer.body), answer.complete), (limits.MIB, True))
        self.assertTrue(reader.lost)

    def test_refused(self) -> None:
        """A refusal is complete before the connection ends."""
        reader, pump = self.shake(b"http/1.1")
        reader.transport.write(b"nonsense\r\n\r\n" + b"x" * 100_000)
        self.pump(pump)
        self.assertEqual([answer.status for answer in parse(reader.received)], [400])
        self.assertTrue(reader.lost)

    def test_without_alpn(self) -> None:
        """Clients without ALPN get HTTP/1.1."""
        self.handler.at_once = ok(b"sealed")
        reader, pump = self.shake()
        reader.transport.write(get())
        self.pump(pump)
        self.assertEqual([answer.body for answer in parse(reader.received)], [b"sealed"])
        self.end(reader, pump)

    def test_http2(self) -> None:
        """A client that chose HTTP/2 gets an HTTP/2 connection."""
        reader, pump = self.shake(b"h2", b"http/1.1")
        reader.transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME)
        self.pump(pump)
        # The server's own settings come first: a frame of type 4 on stream 0.
        self.assertEqual(reader.received[3:4] + reader.received[5:9], b"\x04" + b"\0" * 4)
        self.assertEqual((len(self.factory.connections), len(self.site.http2.connections)), (1, 1))
        self.end(reader, pump)

    def test_handed_over(self) -> None:
        """Requests outside the streams reach the site over TLS."""
        self.handler.at_once = ok(b"sealed")
        reader, pump = self.shake(b"http/1.1")
        reader.transport.write(get() + HEALTH + get())
        self.pump(pump)
        self.assertEqual([answer.status for answer in parse(reader.received)], [200, 404, 200])
        self.end(reader, pump)

    def test_no_plaintext(self) -> None:
        """No byte of a response is sent unencrypted."""
        self.handler.at_once = ok(b"a secret")
        reader, pump = self.shake(b"http/1.1")
        seen: list[bytes] = []
        write = pump.serverIO.write

        def overhear(data: bytes) -> None:
            seen.append(data)
            write(data)

        pump.serverIO.write = overhear
        reader.transport.write(get())
        self.pump(pump)
        self.assertIn(b"a secret", reader.received)
        self.assertTrue(seen)
        self.assertNotIn(b"secret", b"".join(seen))
        self.end(reader, pump)
