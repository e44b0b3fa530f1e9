"""``haproxy:`` endpoints: the client's address is known before its connection is.

Twisted's own endpoint makes the protocol when the connection comes, with the proxy's address, and
reads the PROXY header afterwards. Limits per address, rates and logs would all see the proxy.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import monotonic_timers
from durable_streams_tw.service.limits import PROXY_HEADER_TIMEOUT

KIND = "haproxy:"

# With so many bytes a header of either version can be told from anything else; the shortest of
# version 1 is a line of fewer.
_ENOUGH = 16


@implementer(IStreamServerEndpoint)
class ProxyEndpoint:
    """An endpoint each of whose connections begins with a PROXY header, of either version.

    A connection without one, or whose header does not come within `PROXY_HEADER_TIMEOUT`, is
    closed.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, reactor: Any) -> None:
        #: The endpoint that the proxy connects to.
        self.endpoint = endpoint
        self._reactor = reactor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; the factory makes a protocol once the client's address is known."""
        listening: Deferred[IListeningPort] = self.endpoint.listen(
            # Only now is it certain by which clock the reactor goes.
            HeaderFactory(protocolFactory, monotonic_timers(self._reactor))
        )
        return listening


def without_proxy(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
    """Return the endpoint that a proxy connects to; any other endpoint as it is."""
    return endpoint.endpoint if isinstance(endpoint, ProxyEndpoint) else endpoint


class _Early(Protocol):
    """Keeps what comes together with the header."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class HeaderProtocol(HAProxyProtocolWrapper):
    """A connection whose protocol is made when its PROXY header has come."""

    factory: Any

    def __init__(self, factory: HeaderFactory) -> None:
        self._early = _Early()
        wrapping: Any = factory
        HAProxyProtocolWrapper.__init__(self, wrapping, self._early)
        self._start = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header."""
        transport: Any = self.transport
        self._timer = self.factory.clock.callLater(PROXY_HEADER_TIMEOUT, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Read the header, or pass bytes on."""
        if self._timer is None:
            self.wrappedProtocol.dataReceived(data)
            return
        if self._parser is None:
            self._start += data
            short_line = self._start.startswith(b"PROXY") and b"\n" in self._start
            if len(self._start) < _ENOUGH and not short_line:
                return
            data, self._start = self._start, b""
        HAProxyProtocolWrapper.dataReceived(self, data)
        if self._proxyInfo is not None:
            self._begin()

    def _begin(self) -> None:
        self._stop_timer()
        protocol = self.factory.wrappedFactory.buildProtocol(self.getPeer())
        if protocol is None:
            transport: Any = self.transport
            transport.loseConnection()
            return
        self.wrappedProtocol = protocol
        protocol.makeConnection(self)
        if self._early.received:
            protocol.dataReceived(self._early.received)
            self._early.received = b""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended, perhaps before its header came."""
        self._stop_timer()
        HAProxyProtocolWrapper.connectionLost(self, reason)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class HeaderFactory(HAProxyWrappingFactory):
    """Makes connections that wait for a PROXY header."""

    noisy = False

    def __init__(self, factory: IProtocolFactory, clock: IReactorTime) -> None:
        make: Any = super().__init__
        make(factory)
        self.clock = clock

    def buildProtocol(self, addr: Any) -> HeaderProtocol:
        """Take a connection of the proxy's."""
        return HeaderProtocol(self)
