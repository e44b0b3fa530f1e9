"""Reading from many connections in one event of the reactor.

The reactor has a way for each event that serves everything there is: it sets up a context for
logging, finds out what the event means, and asks the descriptor whether it is still there. That
costs as much as reading and understanding a small request. So connections of the fast channel
are watched by an epoll object of their own, and the reactor watches that: whatever is ready then
is read in one loop. Everything else, writing above all, stays the reactor's.
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

# Connections that are read before others of the reactor have their turn.
_AT_ONCE: Final = 256

_log = Logger()


class PolledServer(tcp.Server):
    """A TCP connection of a server, whose reading is a `NestedEpoll`'s affair."""

    # What is offered to the socket at a time. Each send wakes the client, and is a turn of the
    # reactor's: an eighth of it, Twisted's own choice, makes eight of each.
    SEND_LIMIT = MIB

    # Beyond it a reader counts as one that does not read, and is sent no more until it has all.
    bufferSize = READER_BUFFER

    def __init__(self, nest: NestedEpoll, *accepted: Any) -> None:
        self._nest = nest
        tcp.Server.__init__(self, *accepted)

    def startReading(self) -> None:
        """Wait for bytes."""
        self._nest.add(self)

    def stopReading(self) -> None:
        """Wait no more."""
        self._nest.remove(self)

    def lose(self, why: BaseException) -> None:
        """End, or half of it, because of what reading came to."""
        self.stopReading()
        if isinstance(why, error.ConnectionDone):
            # A protocol that has no halves is told that all has ended.
            self.readConnectionLost(Failure(why))
        else:
            self.connectionLost(Failure(why))


@implementer(IReadDescriptor)
class NestedEpoll:
    """Watches connections, and is watched by a reactor for as long as there are any."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll = select.epoll()
        self._watched: dict[int, PolledServer] = {}

    def watch(self, port: Any) -> bool:
        """Have the connections of a port from now on; whether it is one that can be had."""
        if not isinstance(port, tcp.Port) or port.transport is not tcp.Server:
            return False
        # Called with what a transport is made of; it need not be a class.
        port.transport = cast("type[tcp.Server]", partial(PolledServer, self))
        return True

    # -- connections ----------------------------------------------------------------------------

    def add(self, connection: PolledServer) -> None:
        """Read from a connection."""
        watched = self._watched
        number = connection.fileno()
        if number in watched:
            return
        self._poll.register(number, select.EPOLLIN)
        if not watched:
            self._reactor.addReader(self)
        watched[number] = connection

    def remove(self, connection: PolledServer) -> None:
        """Read from a connection no more."""
        watched = self._watched
        number = connection.fileno()
        if watched.get(number) is not connection:
            return
        del watched[number]
        self._poll.unregister(number)
        if not watched:
            self._reactor.removeReader(self)

    # -- IReadDescriptor, for the reactor -------------------------------------------------------

    def fileno(self) -> int:
        """The number of the epoll object."""
        return self._poll.fileno()

    def logPrefix(self) -> str:
        """What old log events of its connections are marked with."""
        return "FastChannel"

    def doRead(self) -> None:
        """Read from all connections that have something."""
        watched = self._watched
        for number, event in self._poll.poll(0, _AT_ONCE):
            connection = watched.get(number)
            if connection is None:
                # One before it has ended it.
                continue
            why: BaseException | None = main.CONNECTION_DONE
            try:
                if event & select.EPOLLIN:
                    why = connection.doRead()
            except Exception as bug:  # noqa: BLE001 - one's bug is not the others'
                _log.failure("a connection has met a bug, and ends")
                why = bug
            if why is not None:
                self._lose(connection, why)

    def _lose(self, connection: PolledServer, why: BaseException) -> None:
        try:
            connection.lose(why)
        except Exception:  # noqa: BLE001
            _log.failure("the end of a connection has met a bug")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, and all that it reads with it."""
        for connection in list(self._watched.values()):
            self._lose(connection, reason.value or error.ConnectionLost())


def nested_poll(reactor: Any) -> NestedEpoll | None:
    """What reads the connections of a reactor's ports; None where this cannot be."""
    if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor):
        return NestedEpoll(reactor)
    return None
