"""How many connections there may be, in all and from one address."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from durable_streams_tw.server.settings import Settings


class Room:
    """Counts the connections of one factory."""

    _log = Logger()

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_connections
        self._limit_each = settings.max_connections_per_address
        self._addresses: Counter[str] = Counter()
        self._full = False
        self.count = 0

    def has_room_for(self, address: Any) -> bool:
        """Whether one more may come from there. Clients without a host are not told apart."""
        full = 0 < self._limit <= self.count
        if full and not self._full:
            self._log.warn("{count} connections: more are turned away", count=self.count)
        self._full = full
        host = getattr(address, "host", None)
        crowded = host is not None and 0 < self._limit_each <= self._addresses[host]
        return not full and not crowded

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


class TurnedAway(Protocol):
    """A connection that there is no room for.

    In place of no protocol at all, which factories that wrap others cannot bear.
    """

    def connectionMade(self) -> None:
        """A client has come."""
        transport: Any = self.transport
        transport.abortConnection()
