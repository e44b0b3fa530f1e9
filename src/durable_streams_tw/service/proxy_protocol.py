"""``haproxy:`` endpoints that read the PROXY header before they create the protocol.

Twisted's endpoint creates the protocol with the address of the proxy and reads the header later,
so limits per address, rate limits and logs would all see the proxy.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import cancel, monotonic_timers
from durable_streams_tw.service.limits import PROXY_HEADER_TIMEOUT

KIND = "haproxy:"

# Bytes that suffice to recognize a header of either version, except a shorter line of version 1.
_ENOUGH = 16


@implementer(interfaces.IStreamServerEndpoint)
class ProxyEndpoint:
    """Endpoint whose connections begin with a PROXY header of version 1 or 2.

    Connections without a header within `PROXY_HEADER_TIMEOUT` are closed.
    """

    def __init__(self, endpoint: interfaces.IStreamServerEndpoint, reactor: Any) -> None:
        #: Endpoint that the proxy connects to.
        self.endpoint = endpoint
        self._reactor = reactor

    def listen(
        self, protocolFactory: interfaces.IProtocolFactory
    ) -> Deferred[interfaces.IListeningPort]:
        """Listen. The factory creates the protocol when the client address is known."""
        listening: Deferred[interfaces.IListeningPort] = self.endpoint.listen(
            # Look up the clock only now: make_monotonic may have replaced it.
            HeaderFactory(protocolFactory, monotonic_timers(self._reactor))
        )
        return listening


def without_proxy(endpoint: interfaces.IStreamServerEndpoint) -> interfaces.IStreamServerEndpoint:
    """Return the endpoint inside a `ProxyEndpoint`, any other endpoint unchanged."""
    return endpoint.endpoint if isinstance(endpoint, ProxyEndpoint) else endpoint


class _Early(Protocol):
    """Buffer of bytes that arrive together with the header."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class HeaderProtocol(HAProxyProtocolWrapper):
    """Connection whose protocol is created after its PROXY header."""

    factory: Any

    def __init__(self, factory: HeaderFactory) -> None:
        self._early = _Early()
        wrapping: Any = factory
        HAProxyProtocolWrapper.__init__(self, wrapping, self._early)
        self._start = b""
        self._timer: interfaces.IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Start the timeout of the header."""
        transport: Any = self.transport
        self._timer = self.factory.clock.callLater(PROXY_HEADER_TIMEOUT, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Parse the header, or pass bytes to the protocol."""
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
        cancel(self._timer)
        self._timer = None
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
        """Stop the timeout and notify the protocol."""
        cancel(self._timer)
        HAProxyProtocolWrapper.connectionLost(self, reason)


class HeaderFactory(HAProxyWrappingFactory):
    """Factory of connections that begin with a PROXY header."""

    noisy = False

    def __init__(
        self, factory: interfaces.IProtocolFactory, clock: interfaces.IReactorTime
    ) -> None:
        make: Any = super().__init__
        make(factory)
        self.clock = clock

    def buildProtocol(self, addr: Any) -> HeaderProtocol:
        """Return a protocol for a connection from the proxy."""
        return HeaderProtocol(self)
