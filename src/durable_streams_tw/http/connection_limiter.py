"""Limits on the number of connections, in total and from one address."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from twisted.internet import interfaces
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.clocks import cancel
from durable_streams_tw.http.limits import MAX_REJECTED, REJECTED_LINGER
from durable_streams_tw.http.messages import encode_closing
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import responses


class ConnectionLimiter:
    """Counter of the connections of one factory.

    ``rejecting`` is the number of `RejectedConnection` that are still open. Other processes may
    share the limits: ``elsewhere`` is the number of their connections, of which together there may
    be ``shared_limit`` (0: no limit), and ``elsewhere_by_address`` the number for each client.
    """

    _log = Logger()

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_connections
        self._limit_per_address = settings.max_connections_per_address
        self._addresses: Counter[str] = Counter()
        self._full = False
        self.count = 0
        self.rejecting = 0
        self.shared_limit = 0
        self.elsewhere = 0
        self.elsewhere_by_address: dict[str, int] = {}
        #: Addresses whose number of connections has changed; None if nothing empties the set.
        self.changed: set[str] | None = None

    def accepts(self, address: Any) -> bool:
        """Return whether one more connection is within the limits.

        Addresses without a host, such as those of UNIX sockets, count in total only.
        """
        full = 0 < self._limit <= self.count
        full = full or 0 < self.shared_limit <= self.count + self.elsewhere
        if full and not self._full:
            self._log.warn(
                "Connection limit reached: {count} connections are open, new ones are rejected"
                " (see --max-connections)",
                count=self.count,
            )
        self._full = full
        return not full and not self.address_is_full(address)

    def address_is_full(self, address: Any) -> bool:
        """Return whether the host of an address has as many connections as allowed."""
        host = getattr(address, "host", None)
        if host is None or not self._limit_per_address:
            return False
        elsewhere = self.elsewhere_by_address.get(host, 0)
        return self._limit_per_address <= self._addresses[host] + elsewhere

    def count_of(self, host: str) -> int:
        """Return the number of connections from an address."""
        return self._addresses[host]

    def add(self, address: Any) -> None:
        """Count an opened connection."""
        self.count += 1
        host = getattr(address, "host", None)
        if host is not None:
            self._addresses[host] += 1
            self._note(host)

    def remove(self, address: Any) -> None:
        """Stop counting a connection that was closed."""
        self.count -= 1
        host = getattr(address, "host", None)
        if host is not None:
            self._addresses[host] -= 1
            if not self._addresses[host]:
                del self._addresses[host]
            self._note(host)

    def _note(self, host: str) -> None:
        if self.changed is not None and self._limit_per_address:
            self.changed.add(host)


class RejectedConnection(Protocol):
    """Connection above the limits, which is closed.

    Factories that wrap another one cannot handle ``buildProtocol`` returning None. With a
    ``limiter`` the client gets a 429 or 503 first, over plain TCP only, where that costs one
    write; `MAX_REJECTED` bounds how many sockets are kept open for it.
    """

    def __init__(
        self, limiter: ConnectionLimiter | None = None, clock: interfaces.IReactorTime | None = None
    ) -> None:
        self._limiter = limiter
        self._clock = clock
        self._timeout: interfaces.IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Send the refusal, or reset the connection."""
        transport: Any = self.transport
        limiter, clock = self._limiter, self._clock
        if (
            limiter is None
            or clock is None
            or limiter.rejecting >= MAX_REJECTED
            or not interfaces.ITCPTransport.providedBy(transport)
            or interfaces.ISSLTransport.providedBy(transport)
        ):
            transport.abortConnection()
            return
        limiter.rejecting += 1
        full = limiter.address_is_full(transport.getPeer())
        transport.write(_ADDRESS_FULL if full else _SERVER_FULL)
        transport.loseWriteConnection()
        # Bytes that the client sends meanwhile are discarded: closing at once would reset the
        # connection and could lose the response.
        self._timeout = clock.callLater(REJECTED_LINGER, transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the timeout."""
        if self._timeout is not None and self._limiter is not None:
            self._limiter.rejecting -= 1
            cancel(self._timeout)
            self._timeout = None


def _encode(refusal: Refusal) -> bytes:
    response = responses.refused(refusal)
    return encode_closing(response.status, response.headers, response.body)


_RETRY: Final = ((b"Retry-After", b"5"),)
_ADDRESS_FULL: Final = _encode(
    Refusal(Problem.TOO_MANY_REQUESTS, "too many connections from this address", _RETRY)
)
_SERVER_FULL: Final = _encode(Refusal(Problem.OVERLOADED, "too many connections", _RETRY))
