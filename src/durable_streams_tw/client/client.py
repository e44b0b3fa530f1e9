"""Client of a server: connections, credentials and options of all requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from random import random as system_random
from typing import Any, Self

from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.iweb import IAgent, IPolicyForHTTPS

from durable_streams_tw.client.backoff import RetryPolicy
from durable_streams_tw.client.errors import InvalidArgument
from durable_streams_tw.client.event_loops import installed_reactor, settled, value_of
from durable_streams_tw.client.requests import Common, Endpoint, ErrorHook, Fields, RetryHook, Value
from durable_streams_tw.client.stream import Stream
from durable_streams_tw.client.transport import Wire
from durable_streams_tw.client.urls import DEFAULT_BASE, target_of
from durable_streams_tw.outgoing.resolver import Resolver, ResolvingReactor


class StreamClient:
    """Client of a server of the protocol.

    ``url`` is the base URL below which `stream` finds streams by name. Use the client as an
    asynchronous context manager, or call `aclose` when it is no longer needed.

    ``token`` is a bearer token, or a function that returns one, also asynchronously; ``token_file``
    names a file with one, which is read for each request. ``headers`` and ``params`` are sent with
    each request; they and their values may be functions, called for each request. After a 401
    response they are called once more, and the request is repeated if they have changed.

    ``timeout`` is the time in seconds for the head of a response, and for the next bytes of its
    body; ``connect_timeout`` the time for a connection. ``retry`` says when transient errors are
    retried. ``on_retry`` is called before the wait for the next attempt. ``on_error`` is called
    with an error that would end the operation; if it returns True, the request is repeated.

    ``ca_file`` names a PEM file with the certificates to trust instead of the system's, ``tls`` is
    a policy for more, such as client certificates. ``agent`` replaces the connections. ``reactor``
    is the installed one by default, or a new one on the running event loop of asyncio. ``random``
    returns a number from 0 to 1, for jitter.
    """

    def __init__(
        self,
        url: str = DEFAULT_BASE,
        *,
        token: Value | None = None,
        token_file: str | PathLike[str] | None = None,
        headers: Fields | None = None,
        params: Fields | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        retry: RetryPolicy | None = None,
        on_error: ErrorHook | None = None,
        on_retry: RetryHook | None = None,
        ca_file: str | PathLike[str] | None = None,
        tls: IPolicyForHTTPS | None = None,
        agent: IAgent | None = None,
        reactor: Any = None,
        random: Callable[[], float] = system_random,
    ) -> None:
        for argument, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if seconds <= 0:
                raise InvalidArgument(argument, f"must be positive, not {seconds}")
        if token is not None and token_file is not None:
            raise InvalidArgument("token_file", "cannot be combined with token")
        if ca_file is not None and tls is not None:
            raise InvalidArgument("ca_file", "cannot be combined with tls")
        if reactor is None:
            reactor = installed_reactor()
        # An invalid URL raises here, not at the first request.
        target_of("any", url)
        self.url = url
        self._reactor = reactor
        self._pool: HTTPConnectionPool | None = None
        if agent is None:
            self._pool = HTTPConnectionPool(reactor)
            # The client decides which requests to retry.
            self._pool.retryAutomatically = False
            agent = Agent(
                ResolvingReactor(reactor, Resolver(reactor)),
                tls or (BrowserLikePolicyForHTTPS() if ca_file is None else trust_in(ca_file)),
                connectTimeout=connect_timeout,
                pool=self._pool,
            )
        credentials: Mapping[str, Value] = {}
        if token_file is not None:
            credentials = {"Authorization": lambda: _bearer(_token_in(token_file))}
        elif token is not None:
            credentials = {"Authorization": _bearer_of(token)}
        self._common = Common(
            Wire(agent, reactor, timeout),
            (credentials,) if headers is None else (credentials, headers),
            () if params is None else (params,),
            retry or RetryPolicy(),
            on_error,
            on_retry,
            random,
        )

    def stream(self, name: str) -> Stream:
        """Return the stream with a name below the base URL, or with a URL. Sends nothing.

        Raises `BadTarget` if it names no stream.
        """
        return Stream(self.endpoint(name), self.url)

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint of a name or URL; not part of the stable API."""
        return Endpoint(self._common, target_of(name, self.url))

    async def aclose(self) -> None:
        """Close the idle connections. Requests that run are not affected."""
        if self._pool is not None:
            # A response that has just been read returns its connection in the next turn.
            self._pool.cachedConnectionTimeout = 0
            await settled(deferLater(self._reactor, 0))
            await settled(self._pool.closeCachedConnections())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def trust_in(ca_file: str | PathLike[str]) -> IPolicyForHTTPS:
    """Return a policy that trusts only the certificates in a PEM file.

    Raises `InvalidArgument` if the file cannot be read or has none.
    """
    try:
        text = Path(ca_file).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument("ca_file", f"cannot be read: {error}") from None
    blocks = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    if not blocks:
        raise InvalidArgument("ca_file", f"contains no PEM certificate: {ca_file}")
    trusted = trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])
    policy: IPolicyForHTTPS = BrowserLikePolicyForHTTPS(trustRoot=trusted)
    return policy


def _bearer(token: str) -> str:
    return f"Bearer {token}"


def _bearer_of(token: Value) -> Value:
    if isinstance(token, str):
        return _bearer(token)
    source = token

    async def renewed() -> str:
        return _bearer(await value_of(source()))

    return renewed


def _token_in(path: str | PathLike[str]) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument("token_file", f"cannot be read: {error}") from None
