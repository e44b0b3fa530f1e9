"""Tests of `durable_streams_tw.http.socket_writer` with real transports and a manual reactor.

The sockets are real; no test waits for an event.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from durable_streams_tw.http import limits
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.socket_writer import SocketWriter
from tests.http.http1.connection_case import FakeHandler, ok
from tests.http.http1.test_tls import certificate
from tests.http.malformed.builders import get, post
from tests.http.malformed.servers import site_of
from tests.http.server_fixture import MORNING, Answer, parse

#: Approximate capacity of a socket's buffers.
BUFFER = 32 * limits.KIB


@implementer(IReactorFDSet)
class ManualReactor(Clock):
    """Reactor that reads and writes when called."""

    def __init__(self) -> None:
        Clock.__init__(self)
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """Register for reading."""
        self.readers.add(reader)

    def addWriter(self, writer: Any) -> None:
        """Register for writing."""
        self.writers.add(writer)

    def removeReader(self, reader: Any) -> None:
        """Unregister from reading."""
        self.readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        """Unregister from writing."""
        self.writers.discard(writer)

    def removeAll(self) -> list[Any]:
        """Unregister everything."""
        return []

    def getReaders(self) -> list[Any]:
        """Descriptors registered for reading."""
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        """Descriptors registered for writing."""
        return list(self.writers)

    def turn(self) -> None:
        """Run one turn."""
        for descriptor in list(self.writers):
            self._done(descriptor, descriptor.doWrite(), False)
        for descriptor in list(self.readers):
            self._done(descriptor, descriptor.doRead(), True)
        self.advance(0)

    def _done(self, descriptor: Any, why: Any, reading: bool) -> None:
        if why:
            self.readers.discard(descriptor)
            if reading and isinstance(why, ConnectionDone):
                descriptor.readConnectionLost(Failure(why))
            else:
                self.writers.discard(descriptor)
                descriptor.connectionLost(Failure(why))


class TcpTestCase(SynchronousTestCase):
    """Server behind a real TCP transport."""

    def setUp(self) -> None:
        self.reactor = ManualReactor()
        self.reactor.rightNow = MORNING
        self.handler = FakeHandler()
        self.factory = Http1Factory(
            self.handler, site_of(self.handler, self.reactor), self.reactor, b"/v1/stream/"
        )
        # Small buffers, inherited by accepted sockets, so that few bytes fill them.
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.client = socket.socket()
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.client.connect(listening.getsockname())
        accepted, peer = listening.accept()
        listening.close()
        self.client.setblocking(False)
        self.channel: Any = self.factory.buildProtocol(IPv4Address("TCP", *peer))
        port: Any = None
        self.transport: Any = tcp.Server(accepted, self.channel, peer, port, 1, self.reactor)
        self.channel.makeConnection(self.transport)
        self.received = b""

    def tearDown(self) -> None:
        """A factory without connections holds nothing."""
        self.client.close()
        self.transport.abortConnection()
        self.reactor.turn()
        self.assertEqual((len(self.factory.connections), self.factory.bodies.held), (0, 0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def send(self, data: bytes) -> None:
        """Send from the client, and let the server read."""
        self.client.sendall(data)
        self.transport.doRead()

    def read(self, most: int = 1 << 20) -> bool:
        """Read at the client; return False at the end."""
        try:
            data = self.client.recv(most)
        except BlockingIOError:
            return True
        self.received += data
        return data != b""

    def read_all(self, turns: int = 400) -> None:
        """Run turns until the connection ends, or up to a limit."""
        for _ in range(turns):
            self.reactor.turn()
            if not self.read():
                break

    def answers(self) -> list[Answer]:
        """Bytes that the client has received."""
        return parse(self.received)


class FailingSocket:
    """Socket whose sends fail with an error of the system."""

    def __init__(self, whole: socket.socket, number: int) -> None:
        self._whole = whole
        self._number = number

    def send(self, data: object) -> int:
        raise OSError(self._number, "failing")

    sendmsg = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


class EagerTests(TcpTestCase):
    """Sends that do not wait for the reactor."""

    def test_at_once(self) -> None:
        """A response arrives before the next turn and registers nothing."""
        self.handler.at_once = ok(b"hello")
        self.send(get() * 3)
        self.read()
        self.assertEqual([answer.body for answer in self.answers()], [b"hello"] * 3)
        self.assertEqual(self.reactor.writers, set())

    def test_the_rest(self) -> None:
        """Bytes that the socket refuses are left to the transport, in order."""
        body = bytes(range(256)) * 4 * 1_000
        self.handler.at_once = ok(body)
        self.client.sendall(get() * 3)
        self.transport.doRead()
        self.assertEqual(self.reactor.writers, {self.transport})
        # The transport is full: no further request is executed, and nothing is read.
        self.assertEqual(len(self.handler.requests), 1)
        self.assertEqual(self.reactor.readers, set())
        self.read_all(2_000)
        self.assertEqual([answer.body == body for answer in self.answers()], [True] * 3)
        self.assertEqual(self.reactor.readers, {self.transport})

    def test_small_before_large(self) -> None:
        """Gathered bytes go before a large body, without joining them."""
        bodies = [b"1", b"2" * limits.MIB, b"3"]
        self.send(get() * 3)
        for body in bodies:
            self.handler.waiting.pop(0).callback(ok(body))
            self.read_all(600)
        self.read_all(600)
        self.assertEqual([answer.body for answer in self.answers()], bodies)

    def test_after_buffered_bytes(self) -> None:
        """No send overtakes buffered bytes."""
        self.handler.at_once = ok(b"x" * limits.MIB)
        self.send(get())
        self.assertTrue(self.transport._isSendBufferFull())
        writer = self.channel._writer
        writer.send(b"behind")
        self.read_all(2_000)
        self.assertTrue(self.received.endswith(b"xbehind"))
        self.assertEqual(writer.unsent, 0)

    def test_client_gone(self) -> None:
        """A send to a disconnected client closes the connection."""
        self.send(get() + get())
        linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.client.close()
        self.handler.waiting.pop(0).callback(ok(b"1"))
        if self.handler.waiting:
            self.handler.waiting.pop(0).callback(ok(b"2"))
        self.reactor.advance(0)
        self.assertEqual(len(self.factory.connections), 0)

    def test_full(self) -> None:
        """Bytes for which the socket has no room are left to the transport."""
        whole = self.transport.socket
        for number in (errno.EAGAIN, errno.ENOBUFS):
            for send, data in (("send", b"abc"), ("send_parts", (b"d", b"", b"ef"))):
                self.transport.socket = FailingSocket(whole, number)
                getattr(SocketWriter(self.transport), send)(data)
                self.transport.socket = whole
                self.read_all(2)
        self.assertEqual(self.received, b"abcdef" * 2)

    def test_send_fails(self) -> None:
        """A send that fails otherwise resets the connection, and sends nothing more."""
        for send, data in (("send", b"abc"), ("send_parts", (b"abc",))):
            self.transport.socket = FailingSocket(self.transport.socket, errno.EPIPE)
            getattr(SocketWriter(self.transport), send)(data)
            self.reactor.turn()
            self.assertEqual(len(self.factory.connections), 0)
            self.tearDown()
            self.setUp()

    def test_slow_reader_that_reads(self) -> None:
        """A slow reader is kept, one that has stopped is disconnected."""
        self.handler.at_once = ok(b"x" * 2 * limits.MIB)
        self.send(get())
        for _ in range(8):
            self.reactor.pump([1.0] * int(limits.SEND_TIMEOUT - 10))
            for _ in range(12):
                self.read(8 * limits.KIB)
                self.reactor.turn()
        self.assertEqual(len(self.factory.connections), 1)
        self.reactor.pump([1.0] * int(2 * limits.SEND_TIMEOUT + 2))
        self.assertEqual(len(self.factory.connections), 0)


class UnreadTests(TcpTestCase):
    """Unread bytes of all connections share a limit."""

    def test_within(self) -> None:
        """Unread bytes count until they are read."""
        self.handler.at_once = ok(b"x" * 2 * limits.MIB)
        self.send(get())
        self.assertEqual(self.factory.unread.held, self.channel._writer.unsent)
        self.assertGreater(self.factory.unread.held, limits.MIB)
        self.read_all(2_000)
        self.assertEqual((self.factory.unread.held, len(self.factory.connections)), (0, 1))

    def test_beyond(self) -> None:
        """A connection that leaves too much unread is reset."""
        self.factory.unread.limit = limits.MIB
        self.handler.at_once = ok(b"x" * 2 * limits.MIB)
        self.send(get())
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual((self.factory.unread.held, len(self.factory.connections)), (0, 0))


class StartTlsTests(TcpTestCase):
    """A transport that starts TLS keeps its class, its socket and its methods."""

    def assert_sealed(self, writer: SocketWriter) -> None:
        """No byte reaches the client unencrypted."""
        writer.send(b"a secret")
        writer.send_parts([b"another ", b"secret"])
        self.reactor.turn()
        self.read()
        self.assertNotIn(b"secret", self.received)

    def test_before(self) -> None:
        """TLS was started before the writer is made."""
        self.transport.startTLS(certificate().options())
        self.assert_sealed(SocketWriter(self.transport))

    def test_afterwards(self) -> None:
        """TLS starts while the writer is in use."""
        writer = SocketWriter(self.transport)
        writer.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        self.transport.startTLS(certificate().options())
        self.assert_sealed(writer)
        self.assertTrue(self.received.startswith(b"HTTP/1.1 101 "))


class EndTests(TcpTestCase):
    """Closing connections."""

    def test_lingers(self) -> None:
        """A client that is refused within its request can still read why."""
        self.send(post(b"Content-Length: 99999999999", body=b"x" * 1_000))
        for _ in range(20):
            self.client.sendall(b"x" * 10_000)
            self.reactor.turn()
        self.read_all()
        (answer,) = self.answers()
        self.assertEqual((answer.status, answer.complete), (413, True))
        self.assertEqual(len(self.factory.connections), 1)
        self.client.close()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(self.factory.connections), 0)

    def test_reads_no_more(self) -> None:
        """A refused upload is not read to its end: the client has time for the response."""
        self.send(post(b"Content-Length: 99999999999"))
        for _ in range(limits.LINGER_BYTES // 10_000 + 200):
            try:
                self.client.send(b"x" * 10_000)
            except BlockingIOError:
                break
            self.reactor.turn()
        self.assertNotIn(self.transport, self.reactor.readers)
        self.read_all(3)
        (answer,) = self.answers()
        self.assertEqual((answer.status, answer.complete), (413, True))
        self.assertEqual(len(self.factory.connections), 1)
        self.reactor.pump([1.0] * int(limits.LINGER + 2))
        self.assertEqual(len(self.factory.connections), 0)

    def test_lingers_not_for_ever(self) -> None:
        """A client that keeps sending is reset after a while."""
        self.send(b"nonsense\r\n\r\n")
        for _ in range(int(limits.LINGER) - 1):
            self.client.send(b"x")
            self.reactor.turn()
            self.reactor.advance(1)
        self.assertEqual(len(self.factory.connections), 1)
        self.reactor.pump([1.0] * 3)
        self.assertEqual(len(self.factory.connections), 0)

    def test_last_answer(self) -> None:
        """The last response is read to its end, however long that takes."""
        body = b"x" * 2 * limits.MIB
        self.handler.at_once = ok(body)
        self.send(get(b"Connection: close"))
        for _ in range(4):
            self.reactor.turn()
            self.reactor.pump([1.0] * int(limits.LINGER + 10))
            for _ in range(10):
                self.read()
                self.reactor.turn()
        self.read_all(2_000)
        (answer,) = self.answers()
        self.assertEqual(answer.body == body, True)
        self.assertEqual(len(self.factory.connections), 0)

    def test_client_ends(self) -> None:
        """A client that closes is noticed at once."""
        self.client.close()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(self.factory.connections), 0)

    def test_client_ends_its_side(self) -> None:
        """A half-closed client gets its responses."""
        self.client.sendall(get() + get())
        self.client.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(self.factory.connections), 1)
        self.handler.at_once = ok(b"2")
        self.handler.waiting.pop(0).callback(ok(b"1"))
        self.read_all()
        self.assertEqual([answer.body for answer in self.answers()], [b"1", b"2"])
        self.reactor.turn()
        self.assertEqual(len(self.factory.connections), 0)

    def test_closed_while_paused(self) -> None:
        """A connection that closes while reading is paused is still drained."""
        self.send(get() * (limits.MAX_PIPELINE + 2) + b"nonsense\r\n\r\n")
        self.assertEqual(self.reactor.readers, set())
        self.handler.at_once = ok()
        self.handler.waiting.pop(0).callback(ok())
        self.read_all(10)
        self.assertEqual(self.answers()[-1].status, 400)
        self.assertEqual(self.reactor.readers, {self.transport})


class SocketWriterTests(SynchronousTestCase):
    """State of a transport as its writer reports it."""

    def test_unknown(self) -> None:
        """A transport that is not TCP is written to."""
        transport = StringTransport()
        writer = SocketWriter(transport)
        writer.send(b"hello")
        self.assertEqual(transport.value(), b"hello")
        self.assertEqual((writer.unsent, writer.secure), (0, False))

    def test_local_address(self) -> None:
        """Addresses are formatted for URLs."""
        for address, written in (
            (IPv4Address("TCP", "10.0.0.1", 80), b"10.0.0.1:80"),
            (IPv4Address("TCP", "::1", 4437), b"[::1]:4437"),
            (object(), b"localhost"),
        ):
            transport: Any = StringTransport(hostAddress=address)
            self.assertEqual(SocketWriter(transport).local_address(), written)
