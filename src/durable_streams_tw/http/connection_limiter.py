"""How many connections there may be, in all and from one address."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES

from durable_streams_tw.http.limits import MAX_REJECTED, REJECTED_LINGER
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import responses


class ConnectionLimiter:
    """Counts the connections of one factory."""

    _log = Logger()

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_connections
        self._limit_each = settings.max_connections_per_address
        self._addresses: Counter[str] = Counter()
        self._full = False
        self.count = 0
        # How many are being told that there is no room.
        self.leaving = 0

    def has_room_for(self, address: Any) -> bool:
        """Whether one more may come from there. Clients without a host are not told apart."""
        full = 0 < self._limit <= self.count
        if full and not self._full:
            self._log.warn("{count} connections: more are turned away", count=self.count)
        self._full = full
        return not full and not self.is_crowded(address)

    def is_crowded(self, address: Any) -> bool:
        """Whether there are as many from this address as there may be."""
        host = getattr(address, "host", None)
        return host is not None and 0 < self._limit_each <= self._addresses[host]

    def enter(self, address: Any) -> None:
        """One has come."""
        self.count += 1
        host = getattr(address, "host", None)
        if host is not None:
            self._addresses[host] += 1

    def leave(self, address: Any) -> None:
        """One has gone."""
        self.count -= 1
        host = getattr(address, "host", None)
        if host is not None:
            self._addresses[host] -= 1
            if not self._addresses[host]:
                del self._addresses[host]


class RejectedConnection(Protocol):
    """A connection that there is no room for.

    In place of no protocol at all, which factories that wrap others cannot bear. With a ``room``
    the client is told why, once it has come over plain TCP, where that costs next to nothing; but
    only few at a time, for whoever is turned away still holds a socket while he listens.
    """

    def __init__(
        self, room: ConnectionLimiter | None = None, clock: IReactorTime | None = None
    ) -> None:
        self._room = room
        self._clock = clock
        self._patience: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """A client has come."""
        transport: Any = self.transport
        room, clock = self._room, self._clock
        if (
            room is None
            or clock is None
            or room.leaving >= MAX_REJECTED
            or not ITCPTransport.providedBy(transport)
            or ISSLTransport.providedBy(transport)
        ):
            transport.abortConnection()
            return
        room.leaving += 1
        transport.write(_CROWDED if room.is_crowded(transport.getPeer()) else _FULL)
        transport.loseWriteConnection()
        # What is still on its way from there is dropped for a while: closing at once would reset
        # the connection, and could take the answer with it.
        self._patience = clock.callLater(REJECTED_LINGER, transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It has gone."""
        if self._patience is not None and self._room is not None:
            self._room.leaving -= 1
            if self._patience.active():
                self._patience.cancel()
            self._patience = None


def _answer(refusal: Refusal) -> bytes:
    """A refusal as bytes that are the same for everybody."""
    answer = responses.refused(refusal)
    status = refusal.problem.status
    lines = [b"HTTP/1.1 %d %b" % (status, RESPONSES.get(status, b"Too Many Requests"))]
    lines += [name + b": " + value for name, value in answer.fields]
    lines += [b"Content-Length: %d" % len(answer.body), b"Connection: close", b"", answer.body]
    return b"\r\n".join(lines)


_LATER: Final = ((b"Retry-After", b"5"),)
_CROWDED: Final = _answer(
    Refusal(Problem.TOO_MANY_REQUESTS, "too many connections from this address", _LATER)
)
_FULL: Final = _answer(Refusal(Problem.OVERLOADED, "too many connections", _LATER))
