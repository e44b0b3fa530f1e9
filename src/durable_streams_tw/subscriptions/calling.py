"""Calling webhooks: one POST, to an address that was looked at, bounded in time and size.

1. The name is resolved for every call, and each address that it has is judged (`guard`). The
   connection goes to one of those, whatever the name says a moment later; TLS asks for the name,
   and so does the Host field.
2. Nothing is followed: no redirects, no proxies, no cookies, no connections kept.
3. What comes back is counted where it arrives, heads included, and never decompressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import treq
from msgspec import Struct
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from durable_streams_tw.protocol.limits import (
    MAX_HEAD,
    MAX_WEBHOOK_ANSWER,
    RESOLVE_TIMEOUT,
    WEBHOOK_TIMEOUT,
)
from durable_streams_tw.subscriptions import guard
from durable_streams_tw.subscriptions.guard import Address, Target

Resolve = Callable[[str], "Deferred[list[str]]"]
"""The addresses of a name, as text; none where it has none."""

_log: Final = Logger()

# TLS frames, certificates and chunk sizes come on top of what is read.
_MOST_RECEIVED: Final = MAX_WEBHOOK_ANSWER + MAX_HEAD + 32 * 1024


class Answered(Struct, frozen=True):
    """What a webhook has answered."""

    status: int
    body: bytes


class Unreachable(Exception):
    """The webhook's name leads nowhere."""


class TooLarge(Exception):
    """The webhook answers more than anybody would read."""


class Caller:
    """Makes the calls.

    ``reactor`` gives connections and time; ``allow_local`` says whether this machine may be
    called; ``resolve`` stands in for the reactor's resolver.
    """

    def __init__(
        self,
        reactor: Any,
        allow_local: Callable[[], bool],
        resolve: Resolve | None = None,
    ) -> None:
        self._reactor = reactor
        self._allow_local = allow_local
        self._resolve = resolve or self._ask_reactor

    def inspect(self, url: str) -> Deferred[None]:
        """Whether a URL may be called, as far as can be told before a call.

        Fails with `Refused`. A name that cannot be resolved now is looked at later.
        """
        return ensureDeferred(self._inspect(url))

    async def _inspect(self, url: str) -> None:
        target = guard.target_of(url, self._allow_local())
        try:
            await self._addresses(target, RESOLVE_TIMEOUT)
        except TimeoutError as late:
            _log.info("{host} is not resolved yet: {late}", host=target.host, late=late)

    def post(
        self, url: str, body: bytes, header: Mapping[str, str], timeout: float
    ) -> Deferred[Answered]:
        """Send a body. Fails with whatever went wrong, `Refused` where the call is not allowed.

        ``timeout`` (in seconds, at most `WEBHOOK_TIMEOUT`) is for all of it. Cancelling ends
        the connection.
        """
        posted = _cancellable(ensureDeferred(self._post(url, body, header)))
        return posted.addTimeout(min(timeout, WEBHOOK_TIMEOUT), self._reactor)

    async def _post(self, url: str, body: bytes, header: Mapping[str, str]) -> Answered:
        target = guard.target_of(url, self._allow_local())
        addresses = await self._addresses(target, WEBHOOK_TIMEOUT)
        if not addresses:
            raise Unreachable(f"{target.host} has no address")
        endpoints = _Endpoints(self._reactor, target, addresses)
        try:
            answered = await self._exchange(endpoints, url, body, header)
        except BaseException:
            endpoints.abort()
            raise
        if len(answered.body) > MAX_WEBHOOK_ANSWER:
            raise TooLarge(f"the answer of {target.host} has more than {MAX_WEBHOOK_ANSWER} bytes")
        return answered

    async def _exchange(
        self, endpoints: _Endpoints, url: str, body: bytes, header: Mapping[str, str]
    ) -> Answered:
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, pool)
        response = await HTTPClient(AsItComes(agent)).post(
            url,
            data=_Body(body),
            headers=Headers({name: [value] for name, value in header.items()}),
            allow_redirects=False,
            reactor=self._reactor,
        )
        return Answered(response.code, await treq.content(response))

    async def _addresses(self, target: Target, timeout: float) -> list[Address]:
        literal = guard.literal(target.host)
        if literal is not None:
            found = [str(literal)]
        else:
            found = await self._resolve(target.host).addTimeout(timeout, self._reactor)
        return guard.screened(target, found)

    # -- the world outside --------------------------------------------------------------------

    def _ask_reactor(self, name: str) -> Deferred[list[str]]:
        found = _Found()
        self._reactor.nameResolver.resolveHostName(found, name)
        return found.done


class _Found:
    """Collects what a resolver finds (an `IResolutionReceiver`)."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._resolution: Any = None
        self.done: Deferred[list[str]] = Deferred(lambda _: self._resolution.cancel())

    def resolutionBegan(self, resolution: Any) -> None:
        self._resolution = resolution

    def addressResolved(self, address: Any) -> None:
        self._found.append(address.host)

    def resolutionComplete(self) -> None:
        if not self.done.called:
            self.done.callback(self._found)


@implementer(IBodyProducer)
class _Body:
    """A body that is there, and is written in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has been written."""

    def resumeProducing(self) -> None:
        """There is no more of it."""

    def stopProducing(self) -> None:
        """There is nothing to stop."""


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoints:
    """Leads every URI to the first address, of those that were looked at, which answers."""

    def __init__(self, reactor: Any, target: Target, addresses: Sequence[Address]) -> None:
        self._reactor = reactor
        self._target = target
        self._addresses = addresses
        self._connections: list[Any] = []

    def abort(self) -> None:
        """End what is still connected."""
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
        reason: Exception = Unreachable("there is no address")
        for address in self._addresses:
            try:
                wrapper: Any = await self._endpoint(address).connect(factory)
            except (CancelledError, ConnectingCancelledError):
                raise
            except Exception as error:  # noqa: BLE001 - the next address may do better
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
    """Ends a connection that brings more than anybody would read."""

    _received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        transport: Any = self.transport
        if self._received > _MOST_RECEIVED:
            transport.abortConnection()
        else:
            ProtocolWrapper.dataReceived(self, data)


@implementer(IAgent)
class AsItComes:
    """An agent whose responses nobody decompresses: few bytes could become many."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Ask, and for no compression."""
        asked = Headers() if headers is None else headers.copy()
        asked.setRawHeaders(b"accept-encoding", [b"identity"])
        requested: Deferred[IResponse] = self._agent.request(method, uri, asked, bodyProducer)
        return requested.addCallback(_without_coding)


def _without_coding(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"content-encoding")
    return response


def _cancellable(inner: Deferred[Answered]) -> Deferred[Answered]:
    """The same, failing with `CancelledError` when it is cancelled: what is under way has many
    names for that."""
    cancelled = False

    def cancel(_: Deferred[Answered]) -> None:
        nonlocal cancelled
        cancelled = True
        inner.cancel()

    def settle(result: Answered | Failure) -> None:
        if cancelled:
            return
        if isinstance(result, Failure):
            outer.errback(result)
        else:
            outer.callback(result)

    outer: Deferred[Answered] = Deferred(cancel)
    inner.addBoth(settle)
    return outer
