"""Nested epoll object that reads from many connections in one event of the reactor.

For each event Twisted's reactor sets up a logging context, dispatches on the kind of the event and
checks that the descriptor is still registered, which costs as much as reading and parsing a small
request. So connections of the HTTP/1.1 engine are registered with an epoll object of their own,
and that object with the reactor: one event of the reactor reads all connections that are ready.
Writing stays with the reactor.
"""

from __future__ import annotations

import select
from functools import partial
from typing import Any, Final, cast

from twisted.internet import error, main, tcp
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.http.limits import READER_BUFFER
from durable_streams_tw.protocol.limits import MIB
from durable_streams_tw.reactor_turn import turn_of

# Connections that are read before the reactor handles its other events.
_MAX_EVENTS: Final = 256

_log = Logger()


class PolledServer(tcp.Server):
    """TCP connection of a server that a `NestedEpoll` reads from."""

    # Most bytes of one send. Each send wakes the client and takes a turn of the reactor; with
    # Twisted's default of 128 KiB a large response takes eight times as many.
    SEND_LIMIT = MIB

    # Unsent bytes at which the producer is paused.
    bufferSize = READER_BUFFER

    def __init__(self, epoll: NestedEpoll, *accepted: Any) -> None:
        self._epoll = epoll
        tcp.Server.__init__(self, *accepted)

    def doRead(self) -> Any:
        """Read like the base class, with one call less. Return why the connection has ended."""
        try:
            data = self.socket.recv(READER_BUFFER)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def startReading(self) -> None:
        """Register with the nested epoll object."""
        self._epoll.add(self)

    def stopReading(self) -> None:
        """Unregister from the nested epoll object."""
        self._epoll.remove(self)

    def lose(self, why: BaseException) -> None:
        """Close the connection, or its reading side, for the reason that reading failed."""
        self.stopReading()
        if isinstance(why, error.ConnectionDone):
            # Twisted calls connectionLost of protocols that cannot be half-closed.
            self.readConnectionLost(Failure(why))
        else:
            self.connectionLost(Failure(why))


@implementer(IReadDescriptor)
class NestedEpoll:
    """Set of connections behind one epoll object, which a reactor reads from while it has any."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._turn = turn_of(reactor)
        self._epoll_object = select.epoll()
        self._watched: dict[int, PolledServer] = {}

    def attach(self, port: Any) -> bool:
        """Read from the connections that a port accepts from now on.

        Returns False for a port that is not plain TCP.
        """
        if not isinstance(port, tcp.Port) or port.transport is not tcp.Server:
            return False
        # tcp.Port calls this factory with the arguments of tcp.Server.
        port.transport = cast("type[tcp.Server]", partial(PolledServer, self))
        return True

    # -- connections ----------------------------------------------------------------------------

    def add(self, connection: PolledServer) -> None:
        """Start reading from a connection."""
        watched = self._watched
        number = connection.fileno()
        if number in watched:
            return
        self._epoll_object.register(number, select.EPOLLIN)
        if not watched:
            self._reactor.addReader(self)
        watched[number] = connection

    def remove(self, connection: PolledServer) -> None:
        """Stop reading from a connection."""
        watched = self._watched
        number = connection.fileno()
        if watched.get(number) is not connection:
            return
        del watched[number]
        self._epoll_object.unregister(number)
        if not watched:
            self._reactor.removeReader(self)

    # -- IReadDescriptor, for the reactor -------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor of the epoll object."""
        return self._epoll_object.fileno()

    def logPrefix(self) -> str:
        """Return the prefix of legacy log events of its connections."""
        return "HTTP/1.1"

    def doRead(self) -> None:
        """Read from all connections that are ready."""
        self._turn.run(self._read_ready)

    def _read_ready(self) -> None:
        watched = self._watched
        for number, event in self._epoll_object.poll(0, _MAX_EVENTS):
            connection = watched.get(number)
            if connection is None:
                # Closed by the handler of an earlier event in this loop.
                continue
            why: BaseException | None = main.CONNECTION_DONE
            try:
                if event & select.EPOLLIN:
                    why = connection.doRead()
            except Exception as bug:  # noqa: BLE001 - it must not end other connections
                _log.failure("Error on an HTTP/1.1 connection, which is closed")
                why = bug
            if why is not None:
                self._lose(connection, why)

    def _lose(self, connection: PolledServer, why: BaseException) -> None:
        try:
            connection.lose(why)
        except Exception:  # noqa: BLE001
            _log.failure("Error while closing an HTTP/1.1 connection")

    def connectionLost(self, reason: Failure) -> None:
        """Close all connections: the reactor stops."""
        for connection in list(self._watched.values()):
            self._lose(connection, reason.value or error.ConnectionLost())


def nested_poll(reactor: Any) -> NestedEpoll | None:
    """Return a `NestedEpoll` for a reactor, None if the platform or the reactor has no epoll."""
    if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor):
        return NestedEpoll(reactor)
    return None
