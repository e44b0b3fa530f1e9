"""Tests of `durable_streams_tw.storage.remote.frames` over real UNIX sockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import unix
from twisted.internet.address import UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.limits import MAX_MESSAGE
from durable_streams_tw.storage.remote import messages
from durable_streams_tw.storage.remote.frames import FrameConnection
from tests.http.test_socket_writer import ManualReactor


class RecordingConnection(FrameConnection):
    """Connection that records the sizes of the messages that it receives."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor, messages.decode_responses, MAX_MESSAGE)
        self.sizes: list[int] = []

    def messages_received(self, received: list[Any]) -> None:
        """Record the messages of one frame."""
        self.sizes += [len(message.result) for message in received]


class FrameSocketTests(SynchronousTestCase):
    """Two connected ends."""

    def setUp(self) -> None:
        self.reactor = ManualReactor()
        port: Any = None
        self.ends: list[RecordingConnection] = []
        for one in socket.socketpair():
            one.setblocking(False)
            end = RecordingConnection(self.reactor)
            transport = unix.Server(one, end, UNIXAddress(None), port, 1, self.reactor)
            transport.startReading()
            end.makeConnection(transport)
            self.ends.append(end)

    def tearDown(self) -> None:
        """A lost connection leaves nothing in the reactor."""
        self.ends[0].transport.abortConnection()
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual((self.reactor.readers, self.reactor.writers), (set(), set()))

    def test_at_once(self) -> None:
        """A frame is in the socket at the end of the turn, and registers no writer."""
        here, there = self.ends
        here.send(messages.BytesReply(1, b"x" * 1000))
        self.reactor.advance(0)
        self.assertEqual(self.reactor.writers, set())
        there.transport.doRead()
        self.assertEqual(there.sizes, [1000])

    def test_full_socket(self) -> None:
        """Frames that the socket refuses follow in order once the peer reads."""
        here, there = self.ends
        sizes = [200_000 + number for number in range(20)]
        for size in sizes:
            here.send(messages.BytesReply(1, b"x" * size), size)
        self.reactor.advance(0)
        self.assertEqual(self.reactor.writers, {here.transport})
        for _ in range(1000):
            self.reactor.turn()
        self.assertEqual(there.sizes, sizes)
        self.assertEqual(self.reactor.writers, set())

    def test_peer_gone(self) -> None:
        """A frame for a peer that has ended closes the connection."""
        here, there = self.ends
        there.transport.abortConnection()
        self.reactor.advance(0)
        here.send(messages.BytesReply(1, b"x"))
        for _ in range(3):
            self.reactor.turn()
        here.send(messages.BytesReply(2, b"x"))
        self.assertFalse(here.transport.connected)
