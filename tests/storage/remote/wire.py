"""Connections between a remote store and its server in memory, with back-pressure."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.storage.remote.server import StoreServer

BUFFER = 65_536
"""Bytes in the buffer of a transport above which it pauses its producer, and most bytes of one
read, as of Twisted's sockets."""


class End:
    """Transport of one end: what is written waits until `deliver`."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.protocol: Any = None
        self.other: End
        self.connected = True
        self.producer: Any = None
        self.paused = False
        self.reads = True
        """Whether the process at the other end reads."""
        self.delivered = 0
        self._closing = False

    def write(self, data: bytes) -> None:
        if self.connected and not self._closing:
            self.buffer += data
            if len(self.buffer) > BUFFER and not self.paused and self.producer is not None:
                self.paused = True
                self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming, "a pull producer was registered"
        self.producer = producer

    def loseConnection(self) -> None:
        self._closing = True

    def abortConnection(self) -> None:
        self.buffer.clear()
        self._closing = True

    def deliver(self) -> bool:
        """Deliver at most one read; return whether anything happened."""
        if not self.connected:
            return False
        if self.buffer and self.reads and self.other.connected:
            data = bytes(self.buffer[:BUFFER])
            del self.buffer[: len(data)]
            self.delivered += len(data)
            self.other.protocol.dataReceived(data)
        elif self.paused and not self.buffer:
            self.paused = False
            self.producer.resumeProducing()
        elif self._closing and (not self.buffer or not self.other.connected):
            self.close()
        else:
            return False
        return True

    def close(self) -> None:
        """End the connection at both ends."""
        for end in (self, self.other):
            if end.connected:
                end.connected = False
                end.protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
class Wire:
    """Endpoint of a server that is there while ``server`` is not None; ``clock`` runs both ends."""

    def __init__(self, server: StoreServer | None, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.attempts = 0
        self.fronts: list[End] = []
        self.owners: list[End] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts += 1
        if self.server is None:
            return fail(ConnectError("nothing listens"))
        front, owner = End(), End()
        front.other, owner.other = owner, front
        front.protocol = factory.buildProtocol(None)
        owner.protocol = self.server.buildProtocol(None)
        self.fronts.append(front)
        self.owners.append(owner)
        owner.protocol.makeConnection(owner)
        front.protocol.makeConnection(front)
        return succeed(front.protocol)

    def turn(self) -> bool:
        """Run one reactor turn of all processes; return whether anything was delivered."""
        self.clock.advance(0)
        moved = [end.deliver() for end in self.fronts + self.owners]
        return any(moved)

    def settle(self) -> None:
        """Run turns until nothing is on its way."""
        while self.turn() or any(call.getTime() <= self.clock.seconds() for call in self._due()):
            pass

    def _due(self) -> list[Any]:
        return list(self.clock.getDelayedCalls())

    def kill_server(self) -> None:
        """End the server and its connections, with all that is on its way."""
        self.server = None
        for end in self.fronts:
            end.close()
