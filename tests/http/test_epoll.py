"""Tests of `durable_streams_tw.http.epoll`: connections of a nested epoll behave like others."""

from __future__ import annotations

import os
import socket
import struct
from functools import partial
from typing import Any

from twisted.internet import error, tcp, unix
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorFDSet
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from durable_streams_tw.http import epoll as module
from durable_streams_tw.http.epoll import NestedEpoll, PolledServer, nested_poll
from durable_streams_tw.http.socket_writer import SocketWriter


@implementer(IReactorFDSet)
class FakeReactor(Clock):
    """Reactor that records registrations and does no I/O."""

    def __init__(self) -> None:
        Clock.__init__(self)
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard
        self.addWriter = self.writers.add
        self.removeWriter = self.writers.discard

    def getReaders(self) -> list[Any]:
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        return list(self.writers)

    def removeAll(self) -> list[Any]:
        raise NotImplementedError


class RecordingProtocol(Protocol):
    """Protocol that records received bytes and calls `act`."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended: list[object] = []

    def act(self) -> None:
        """React to received bytes."""

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self.act()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.append(type(reason.value))


@implementer(IHalfCloseableProtocol)
class HalfCloseProtocol(RecordingProtocol):
    """Protocol that can write after its client has half-closed."""

    half = False

    def readConnectionLost(self) -> None:
        self.half = True

    def writeConnectionLost(self) -> None:
        pass


class NestedPollCase(SynchronousTestCase):
    """Test case with real sockets and a fake reactor."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        nest = nested_poll(self.reactor)
        if nest is None:
            raise SkipTest("this system has no epoll")
        self.nested: NestedEpoll = nest

    def connect(
        self, protocol: Any, number: int | None = None
    ) -> tuple[PolledServer, socket.socket]:
        """Return a connection, with this descriptor number if given, and the client's socket."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            accepted, address = listening.accept()
        if number is not None:
            # The descriptor is free, unless one of the new sockets has it.
            if client.fileno() == number:
                given, client = client, client.dup()
                given.close()
            os.dup2(accepted.detach(), number)
            accepted = socket.socket(fileno=number)
        self.addCleanup(client.close)
        server = PolledServer(self.nested, accepted, protocol, address, None, 0, self.reactor)
        protocol.makeConnection(server)
        self.addCleanup(_close, server)
        return server, client


class NestedPollTests(NestedPollCase):
    """Connections in one nested epoll."""

    def test_several(self) -> None:
        """One event reads all ready connections, and only these."""
        connections = [(protocol := RecordingProtocol(), *self.connect(protocol)) for _ in range(3)]
        self.assertEqual(self.reactor.readers, {self.nested})
        for number, (_, _, client) in enumerate(connections[:2]):
            client.sendall(b"%d" % number)
        self.nested.doRead()
        self.assertEqual([each[0].received for each in connections], [[b"0"], [b"1"], []])
        self.nested.doRead()
        self.assertEqual([each[0].received for each in connections], [[b"0"], [b"1"], []])

    def test_the_reactor_watches_while_there_are_any(self) -> None:
        first, second = self.connect(RecordingProtocol())[0], self.connect(RecordingProtocol())[0]
        first.stopReading()
        self.assertEqual(self.reactor.readers, {self.nested})
        second.stopReading()
        second.stopReading()
        self.assertEqual(self.reactor.readers, set())
        first.startReading()
        first.startReading()
        self.assertEqual(self.reactor.readers, {self.nested})

    def test_pauses(self) -> None:
        """Bytes that arrive during a pause are read after it."""
        protocol = RecordingProtocol()
        server, client = self.connect(protocol)
        server.pauseProducing()
        client.sendall(b"later")
        self.nested.doRead()
        self.assertEqual(protocol.received, [])
        server.resumeProducing()
        self.nested.doRead()
        self.assertEqual(protocol.received, [b"later"])

    def test_exception(self) -> None:
        """An exception closes its connection and is logged; others are read."""
        buggy, well = RecordingProtocol(), RecordingProtocol()
        buggy.act = self.fail_to_act  # type: ignore[method-assign]
        for protocol in (buggy, well):
            self.connect(protocol)[1].sendall(b"x")
        self.nested.doRead()
        self.assertEqual((buggy.ended, well.ended), ([ZeroDivisionError], []))
        self.assertEqual(well.received, [b"x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def fail_to_act(self) -> None:
        raise ZeroDivisionError

    def test_a_bug_at_the_end(self) -> None:
        buggy, well = RecordingProtocol(), RecordingProtocol()
        self.patch(buggy, "connectionLost", lambda _: self.fail_to_act())
        self.connect(buggy)[1].close()
        self.connect(well)[1].sendall(b"x")
        self.nested.doRead()
        self.assertEqual(well.received, [b"x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_disconnect(self) -> None:
        """A half-close is reported to protocols that support it; for others the connection ends."""
        whole, half = RecordingProtocol(), HalfCloseProtocol()
        self.connect(whole)[1].close()
        server, client = self.connect(half)
        client.shutdown(socket.SHUT_WR)
        self.nested.doRead()
        self.assertEqual(whole.ended, [error.ConnectionDone])
        self.assertEqual((half.half, half.ended), (True, []))
        # The protocol is not called again, and can still write.
        self.nested.doRead()
        self.assertEqual(self.reactor.readers, set())
        server.writeSomeData(b"bye")
        self.assertEqual(client.recv(10), b"bye")

    def test_the_last_bytes_come_first(self) -> None:
        protocol = RecordingProtocol()
        _, client = self.connect(protocol)
        client.sendall(b"last")
        client.close()
        self.nested.doRead()
        self.assertEqual((protocol.received, protocol.ended), ([b"last"], []))
        self.nested.doRead()
        self.assertEqual((protocol.received, protocol.ended), ([b"last"], [error.ConnectionDone]))

    def test_reset(self) -> None:
        for protocol in (RecordingProtocol(), HalfCloseProtocol()):
            _, client = self.connect(protocol)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.nested.doRead()
            self.assertEqual(protocol.ended, [error.ConnectionLost])

    def test_one_ends_another(self) -> None:
        """A ready connection that another one closes is not read."""
        protocols = [RecordingProtocol(), RecordingProtocol()]
        ends = [self.connect(protocol) for protocol in protocols]
        for mine, theirs in ((0, 1), (1, 0)):
            gone = Failure(error.ConnectionAborted())
            end = partial(ends[theirs][0].connectionLost, gone)
            protocols[mine].act = end  # type: ignore[method-assign]
        for _, client in ends:
            client.sendall(b"x")
        self.nested.doRead()
        self.assertEqual(sorted(len(each.received) for each in protocols), [0, 1])
        self.assertEqual(sorted(len(each.ended) for each in protocols), [0, 1])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_reused_descriptor(self) -> None:
        """A new connection with the descriptor of a closed one is read."""
        first, second = RecordingProtocol(), RecordingProtocol()
        server, _ = self.connect(first)
        number = server.fileno()
        server.connectionLost(Failure(error.ConnectionDone()))
        client = self.connect(second, number)[1]
        server.stopReading()
        client.sendall(b"mine")
        self.nested.doRead()
        self.assertEqual((first.received, second.received), ([], [b"mine"]))
        self.assertEqual(self.reactor.readers, {self.nested})

    def test_fairness(self) -> None:
        """One event reads at most `_MAX_EVENTS` connections, and busy ones do not starve others."""
        self.patch(module, "_MAX_EVENTS", 1)
        protocols = [RecordingProtocol() for _ in range(3)]
        clients = [self.connect(protocol)[1] for protocol in protocols]
        for _ in range(3):
            for client in clients:
                client.sendall(b"x")
            self.nested.doRead()
        self.assertEqual([len(protocol.received) for protocol in protocols], [1, 1, 1])

    def test_the_reactor_ends(self) -> None:
        protocols = [RecordingProtocol(), HalfCloseProtocol()]
        for protocol in protocols:
            self.connect(protocol)
        self.nested.connectionLost(Failure(error.ConnectionLost()))
        self.assertEqual([each.ended for each in protocols], [[error.ConnectionLost]] * 2)
        self.assertEqual(self.reactor.readers, set())

    def test_aborted(self) -> None:
        """No bytes are read after an abort."""
        protocol = RecordingProtocol()
        server, client = self.connect(protocol)
        client.sendall(b"x")
        server.abortConnection()
        self.nested.doRead()
        self.reactor.advance(0)
        self.assertEqual((protocol.received, protocol.ended), ([], [error.ConnectionAborted]))

    def test_eager_writes(self) -> None:
        """Writes are sent at once, as on other connections."""
        server, client = self.connect(RecordingProtocol())
        outlet = SocketWriter(server)
        self.assertFalse(outlet.secure)
        outlet.send(b"now")
        self.assertEqual(client.recv(10), b"now")
        self.assertEqual(self.reactor.writers, set())

    def test_log_prefix(self) -> None:
        self.assertEqual(self.nested.logPrefix(), "HTTP/1.1")


class PortTests(NestedPollCase):
    """Ports."""

    def test_accepted(self) -> None:
        """Connections that a port accepts are read through the nested epoll."""
        protocols: list[RecordingProtocol] = []

        def build(_: object) -> RecordingProtocol:
            protocols.append(RecordingProtocol())
            return protocols[-1]

        factory = ServerFactory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign, assignment]
        port: Any = tcp.Port(0, factory, interface="127.0.0.1", reactor=self.reactor)
        self.assertTrue(self.nested.attach(port))
        self.assertFalse(self.nested.attach(port))
        port.startListening()
        self.addCleanup(port.connectionLost, Failure(error.ConnectionDone()))
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(client.close)
        port.doRead()
        client.sendall(b"hello")
        self.nested.doRead()
        (protocol,) = protocols
        self.assertEqual(protocol.received, [b"hello"])
        self.assertIsInstance(protocol.transport, PolledServer)
        client.close()
        self.nested.doRead()
        self.assertEqual(protocol.ended, [error.ConnectionDone])

    def test_other_ports(self) -> None:
        """Ports with other kinds of connections are not attached."""
        self.assertFalse(self.nested.attach(unix.Port(b"x", ServerFactory(), reactor=self.reactor)))
        self.assertFalse(self.nested.attach(object()))

    def test_other_reactors(self) -> None:
        """A reactor that does not watch descriptors has no nested epoll."""
        self.assertIsNone(nested_poll(Clock()))


del NestedPollCase


def _close(server: PolledServer) -> None:
    if not server.disconnected:
        server.connectionLost(Failure(error.ConnectionDone()))
