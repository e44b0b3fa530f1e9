"""POST request to verified addresses.

1. The connection goes to one of the addresses; TLS and the Host header use the host name.
2. No redirects, proxies, cookies or persistent connections.
3. Received bytes are counted on arrival, headers included, and never decompressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import treq
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from durable_streams_tw.outgoing.agent import IdentityAgent, WholeBody
from durable_streams_tw.subscriptions.limits import MAX_WEBHOOK_RESPONSE
from durable_streams_tw.subscriptions.ssrf_guard import Address, Target
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse, WebhookUnreachable

# Allowance for TLS frames, certificates and chunk sizes.
_MAX_RECEIVED: Final = MAX_WEBHOOK_RESPONSE + 48 * 1024


async def post(
    reactor: Any,
    target: Target,
    addresses: Sequence[Address],
    url: str,
    body: bytes,
    header: Mapping[str, str],
) -> WebhookResponse:
    """Send a body and return the response.

    Raises any error. On error or cancellation all connections are aborted.
    """
    endpoints = _Endpoints(reactor, target, addresses)
    pool = HTTPConnectionPool(reactor, persistent=False)
    agent = Agent.usingEndpointFactory(reactor, endpoints, pool)
    try:
        response = await HTTPClient(IdentityAgent(agent, undecoded=True)).post(
            url,
            data=WholeBody(body),
            headers=Headers({name: [value] for name, value in header.items()}),
            allow_redirects=False,
            reactor=reactor,
        )
        return WebhookResponse(response.code, await treq.content(response))
    except BaseException:
        endpoints.abort()
        raise


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoints:
    """Endpoint factory that connects to the first reachable address of the verified ones."""

    def __init__(self, reactor: Any, target: Target, addresses: Sequence[Address]) -> None:
        self._reactor = reactor
        self._target = target
        self._addresses = addresses
        self._connections: list[Any] = []

    def abort(self) -> None:
        """Abort all open connections."""
        for connection in self._connections:
            connection.transport.abortConnection()

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        assert uri.port == self._target.port, "one client calls one target"
        endpoint: IStreamClientEndpoint = self
        return endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        metering: Any = WrappingFactory(factory)
        metering.noisy = False
        metering.protocol = _Meter
        return ensureDeferred(self._connect(metering))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        reason: Exception = WebhookUnreachable("the host name has no address")
        for address in self._addresses:
            try:
                wrapper: Any = await self._endpoint(address).connect(factory)
            except (CancelledError, ConnectingCancelledError):
                raise
            except Exception as error:  # noqa: BLE001 - try the next address
                reason = error
            else:
                self._connections.append(wrapper)
                protocol: IProtocol = wrapper.wrappedProtocol
                return protocol
        raise reason

    def _endpoint(self, address: Address) -> IStreamClientEndpoint:
        kind = TCP4ClientEndpoint if isinstance(address, IPv4Address) else TCP6ClientEndpoint
        plain: IStreamClientEndpoint = kind(self._reactor, str(address), self._target.port)
        if not self._target.secure:
            return plain
        from twisted.internet.ssl import optionsForClientTLS

        secure: IStreamClientEndpoint = wrapClientTLS(optionsForClientTLS(self._target.host), plain)
        return secure


class _Meter(ProtocolWrapper):
    """Connection that is aborted after `_MAX_RECEIVED` bytes."""

    _received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        transport: Any = self.transport
        if self._received > _MAX_RECEIVED:
            transport.abortConnection()
        else:
            ProtocolWrapper.dataReceived(self, data)
