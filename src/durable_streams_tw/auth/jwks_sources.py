"""Where the keys of an issuer come from: a URL, or a file.

What a URL answers is bounded in time and size, and no redirect is followed: the operator has
named the issuer, and nobody else names another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from durable_streams_tw.auth.limits import KEY_SET_TIMEOUT, MAX_KEY_SET
from durable_streams_tw.auth.origins import is_local
from durable_streams_tw.clocks import monotonic_timers
from durable_streams_tw.concurrency import in_daemon_thread
from durable_streams_tw.outgoing.agent import UndecodedAgent
from durable_streams_tw.outgoing.resolver import Resolver, ResolvingReactor

Fetch = Callable[[], "Deferred[bytes]"]
"""Gets the bytes of a key set; fails with `CannotFetch`."""


class CannotFetch(Exception):
    """A key set cannot be had; the message is a sentence that holds no secret."""


class UnusableSource(Exception):
    """Keys cannot come from there; the message is a sentence for the operator."""


def source_of(text: str, reactor: Any) -> tuple[Fetch, str]:
    """How to get the keys at a URL or in a file, and a name for it. Raises `UnusableSource`."""
    if "://" not in text:
        return partial(in_daemon_thread, reactor, _read, text), text
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise UnusableSource("jwks is the URL of a key set, or the path of a file") from None
    if parts.scheme not in ("http", "https") or not host or not text.isascii():
        raise UnusableSource("jwks is the URL of a key set, or the path of a file")
    if parts.username is not None or parts.fragment:
        raise UnusableSource("jwks is a URL without a user and without a fragment")
    if parts.scheme == "http" and not is_local(host.removesuffix(".")):
        # Whoever can change the keys on their way can make tokens.
        raise UnusableSource("jwks is fetched over https; over http from this machine only")
    # Of its own: names that strangers choose must not keep the issuer waiting.
    return partial(fetch, reactor, text, Resolver(reactor)), host


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            # One byte more shows that there are more.
            return file.read(MAX_KEY_SET + 1)
    except OSError as error:
        raise CannotFetch(f"{error.strerror}") from None


def fetch(reactor: Any, url: str, resolver: Resolver) -> Deferred[bytes]:
    """Get what a URL answers. Fails with `CannotFetch`."""
    agent = Agent(
        ResolvingReactor(reactor, resolver),
        connectTimeout=KEY_SET_TIMEOUT,
        pool=HTTPConnectionPool(reactor, persistent=False),
    )
    fetched = ensureDeferred(_fetch(HTTPClient(UndecodedAgent(agent)), url, reactor))
    explained: Deferred[bytes] = fetched.addTimeout(
        KEY_SET_TIMEOUT, monotonic_timers(reactor), _late
    ).addErrback(_explained)
    return explained


async def _fetch(client: HTTPClient, url: str, reactor: Any) -> bytes:
    response: Any = await client.get(
        url,
        headers=Headers({"Accept": ["application/jwk-set+json, application/json"]}),
        allow_redirects=False,
        reactor=reactor,
    )
    body = _Body()
    response.deliverBody(body)
    received = await body.done
    if response.code != 200:
        raise CannotFetch(f"it answers {response.code}")
    return received


def _late(_: object, seconds: float) -> bytes:
    raise CannotFetch(f"it did not answer in {seconds:g} seconds")


def _explained(failure: Failure) -> bytes:
    error = failure.value
    if isinstance(error, CannotFetch):
        raise error
    if isinstance(error, ConnectError):
        raise CannotFetch(f"it cannot be reached: {error}") from None
    raise CannotFetch(f"it cannot be asked: {type(error).__name__}") from None


class _Body(Protocol):
    """Collects an answer's body, up to a bound. Cancelling ends the connection."""

    def __init__(self) -> None:
        self._received = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        self._received += data
        if len(self._received) > MAX_KEY_SET:
            self._received.clear()
            self._stop()
            if not self.done.called:
                self.done.errback(CannotFetch(f"it answers more than {MAX_KEY_SET} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended, or will not."""
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(bytes(self._received))
        else:
            self.done.errback(CannotFetch("it did not answer to the end"))

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()
