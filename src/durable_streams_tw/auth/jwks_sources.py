"""Sources of an issuer's JWKS: an HTTPS URL or a file.

Responses are bounded in time and size. Redirects are not followed: only the operator names the
host that is trusted.
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
from durable_streams_tw.outgoing.agent import IdentityAgent
from durable_streams_tw.outgoing.error_text import sentence
from durable_streams_tw.outgoing.resolver import Resolver, ResolvingReactor

Fetch = Callable[[], "Deferred[bytes]"]
"""Return the bytes of a JWKS. Fail with `FetchError`."""


class FetchError(Exception):
    """Error of a JWKS fetch. The message holds no secret."""


class UnusableSource(Exception):
    """Error in the setting of a JWKS source. The message is for the operator."""


def jwks_source(text: str, reactor: Any) -> tuple[Fetch, str]:
    """Return a fetch function for a URL or a file path, and the source's name for the log.

    Raise `UnusableSource`.
    """
    if "://" not in text:
        try:
            _read(text)
        except FetchError as error:
            raise UnusableSource(f"jwks {text}: {error}") from None
        return partial(in_daemon_thread, reactor, _read, text), text
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise UnusableSource("jwks must be a URL or a file path") from None
    if parts.scheme not in ("http", "https") or not host or not text.isascii():
        raise UnusableSource("jwks must be a URL or a file path")
    if parts.username is not None or parts.fragment:
        raise UnusableSource("jwks must be a URL without user and fragment")
    if parts.scheme == "http" and not is_local(host.removesuffix(".")):
        # An attacker who can change the JWKS in transit can forge tokens.
        raise UnusableSource("jwks must be an https URL; http is allowed for this machine only")
    # A resolver of its own: look-ups of webhook hosts must not delay those of the issuer.
    return partial(fetch, reactor, text, Resolver(reactor)), host


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            # One byte more, so that a larger file is detected.
            return file.read(MAX_KEY_SET + 1)
    except OSError as error:
        raise FetchError(f"could not read the file: {error.strerror}") from None


def fetch(reactor: Any, url: str, resolver: Resolver) -> Deferred[bytes]:
    """Return the body of a 200 response. Fail with `FetchError`."""
    agent = Agent(
        ResolvingReactor(reactor, resolver),
        connectTimeout=KEY_SET_TIMEOUT,
        pool=HTTPConnectionPool(reactor, persistent=False),
    )
    response = ensureDeferred(
        _fetch(HTTPClient(IdentityAgent(agent, undecoded=True)), url, reactor)
    )
    fetched: Deferred[bytes] = response.addTimeout(
        KEY_SET_TIMEOUT, monotonic_timers(reactor), _timed_out
    ).addErrback(_as_fetch_error)
    return fetched


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
        raise FetchError(f"the response has status {response.code}")
    return received


def _timed_out(_: object, seconds: float) -> bytes:
    raise FetchError(f"no response within {seconds:g} s")


def _as_fetch_error(failure: Failure) -> bytes:
    error = failure.value
    if isinstance(error, FetchError):
        raise error
    if isinstance(error, ConnectError):
        raise FetchError(sentence(error)) from None
    raise FetchError(f"the request failed: {type(error).__name__}") from None


class _Body(Protocol):
    """Receiver of a response body up to `MAX_KEY_SET`. Cancelling closes the connection."""

    def __init__(self) -> None:
        self._received = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())

    def dataReceived(self, data: bytes) -> None:
        """Collect bytes; close the connection beyond `MAX_KEY_SET`."""
        self._received += data
        if len(self._received) > MAX_KEY_SET:
            self._received.clear()
            self._stop()
            if not self.done.called:
                self.done.errback(FetchError(f"the response is larger than {MAX_KEY_SET} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Settle ``done`` with the body, or fail it if the body is incomplete."""
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(bytes(self._received))
        else:
            self.done.errback(FetchError("the connection closed before the end of the response"))

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()
