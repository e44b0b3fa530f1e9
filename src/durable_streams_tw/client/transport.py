"""HTTP transport of the client on treq: single requests, with buffered or streamed responses.

The transport does not retry, follow redirects or decompress. A truncated body raises an error, so
that a lost connection is not mistaken for the end of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from treq.client import HTTPClient
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import ResponseDone
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from durable_streams_tw.client.errors import BadResponse, ClientError, Unreachable, Untrusted
from durable_streams_tw.client.event_loops import settled
from durable_streams_tw.clocks import cancel, monotonic_timers, wall_clock
from durable_streams_tw.outgoing.agent import IdentityAgent, WholeBody
from durable_streams_tw.outgoing.cancel import cancellable
from durable_streams_tw.outgoing.error_text import sentence

#: Maximum size of a buffered response (bytes). Data of streams is read in pieces instead.
MAX_ANSWER: Final = 16 * 1024 * 1024

#: Unread bytes of a streamed body above which reading from the connection pauses.
_READ_AHEAD: Final = 1024 * 1024

# Errors before a connection was established: the server cannot have received the request.
_NEVER_SENT: Final = (
    error.ConnectError,
    error.DNSLookupError,
    RequestNotSent,
    SchemeNotSupported,
)


class Answer(Struct, frozen=True):
    """Complete response with its body. ``header`` has lower-case names."""

    status: int
    header: dict[str, str]
    body: bytes


class Inflow(Protocol):
    """Body of a response, read in pieces as they arrive.

    The connection counts as lost if a reader waits for ``quiet`` seconds without a byte.
    """

    def __init__(self, reactor: IReactorTime, quiet: float) -> None:
        self._reactor = reactor
        self._quiet = quiet
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False
        self._ended: Failure | None = None
        self._waiting: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None

    async def take(self) -> bytes | None:
        """Return the unread bytes, at least one, waiting if there are none.

        Return None at the end of a complete body. Raises `Unreachable` if the connection is lost
        before that.
        """
        if not self._pieces and self._ended is None:
            self._waiting = Deferred()
            self._timer = self._reactor.callLater(self._quiet, self._too_quiet)
            try:
                await settled(self._waiting)
            finally:
                self._waiting = None
                cancel(self._timer)
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces, self._size = [], 0
            if self._paused:
                self._paused = False
                self._flow("resumeProducing")
            return data
        assert self._ended is not None, "woken without a cause"
        if self._ended.check(ResponseDone):
            return None
        raise _lost(self._ended.value)

    def close(self) -> None:
        """Abort the connection unless the body has ended."""
        if self._ended is None:
            self._ended = Failure(error.ConnectionAborted())
            abort = getattr(self.transport, "abortConnection", None)
            if abort is None:
                self._flow("loseConnection")
            else:
                abort()

    # -- IProtocol --------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Buffer received bytes; pause the connection if too many are unread."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _READ_AHEAD and not self._paused:
            self._paused = True
            self._flow("pauseProducing")
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Record the end of the body and its reason."""
        if self._ended is None:
            self._ended = reason
        self._wake()

    def _flow(self, name: str) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, name)()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)

    def _too_quiet(self) -> None:
        self.close()
        self._ended = Failure(_Quiet(f"nothing has come for {self._quiet:g} s"))
        self._wake()


class Response(Struct, frozen=True):
    """Response with a streamed body. ``header`` has lower-case names.

    ``length`` is the size of the body in bytes, None if unknown.
    """

    status: int
    header: dict[str, str]
    body: Inflow
    length: int | None

    async def whole(self) -> Answer:
        """Return the response with its whole body, and close that.

        Raises `Unreachable` if the connection is lost, `BadResponse` if the body exceeds
        MAX_ANSWER.
        """
        pieces, size = [], 0
        try:
            while (piece := await self.body.take()) is not None:
                pieces.append(piece)
                size += len(piece)
                if size > MAX_ANSWER:
                    raise BadResponse(f"the server's answer has more than {MAX_ANSWER} bytes")
        finally:
            self.body.close()
        return Answer(self.status, self.header, b"".join(pieces))


class Wire:
    """Sender of HTTP requests.

    ``agent`` opens connections. ``reactor`` provides the clocks: ``timers`` is monotonic, ``wall``
    is the wall clock. ``timeout`` is the default timeout in seconds of the head of a response,
    and of the wait for the next bytes of its body.
    """

    def __init__(self, agent: IAgent, reactor: Any, timeout: float = 30.0) -> None:
        # Request no compression: a compressing proxy would buffer events of an SSE response.
        self._treq = HTTPClient(IdentityAgent(agent))
        self.reactor = reactor
        self.timers = monotonic_timers(reactor)
        self.wall = wall_clock(reactor)
        self._timeout = timeout
        #: Whether the head of any response has arrived.
        self.has_responded = False

    async def open(
        self,
        method: str,
        url: str,
        header: Mapping[str, str],
        body: bytes | None = None,
        wait: float | None = None,
        quiet: float | None = None,
    ) -> Response:
        """Send a request and return its response once the head has arrived.

        ``wait`` and ``quiet`` replace the default timeouts of the head and of the body (seconds).
        The caller must close the body. Raises `Unreachable` if the connection fails, `Untrusted`
        if the certificate does.
        """
        timeout = self._timeout if wait is None else wait
        # For None, Twisted sends Content-Length: 0 with a POST, as a close without data requires.
        requested: Deferred[Any] = self._treq.request(
            method,
            url,
            headers=Headers({name: [value] for name, value in header.items()}),
            data=WholeBody(body) if body else None,
            allow_redirects=False,
            unbuffered=True,
            reactor=self.reactor,
        )
        coming = cancellable(requested)
        timer = self.timers.callLater(
            timeout, lambda: coming.errback(_Late()) if not coming.called else None
        )
        try:
            response = await settled(coming)
        except CancelledError:
            raise
        except _Late:
            requested.cancel()
            raise Unreachable(f"no response within {timeout:g} s", sent=True) from None
        except Exception as failure:
            raise _lost(failure) from failure
        finally:
            cancel(timer)
        self.has_responded = True
        inflow = Inflow(self.timers, self._timeout if quiet is None else quiet)
        response.deliverBody(inflow)
        fields = {
            name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        length = response.length if isinstance(response.length, int) else None
        return Response(response.code, fields, inflow, length)


class _Late(Exception):
    """Timeout of the head of a response."""


class _Quiet(Exception):
    """Timeout of the next bytes of a body."""


def _lost(failure: BaseException | None) -> ClientError:
    """Return the client's error for a failure of a connection."""
    reasons = getattr(failure, "reasons", None)
    if reasons:
        # The last reason is the most specific; ResponseDone explains nothing.
        inner = [reason.value for reason in reasons]
        telling = [one for one in inner if not isinstance(one, ResponseDone)]
        return _lost((telling or inner)[-1])
    if type(failure).__module__.partition(".")[0] in ("OpenSSL", "service_identity"):
        return Untrusted(_openssl(failure))
    sent = not isinstance(failure, _NEVER_SENT)
    return Unreachable(sentence(failure), sent=sent)


def _openssl(failure: BaseException | None) -> str:
    """Return the message for a failure of TLS."""
    if type(failure).__module__.startswith("service_identity"):
        return "the server's certificate cannot be trusted: it is for another name"
    # The argument of an OpenSSL error is a list of (library, function, reason).
    found = getattr(failure, "args", ())
    said = [entry[-1] for entry in (found[0] if found else ()) if isinstance(entry, tuple)]
    reason = ", ".join(said) or str(failure) or type(failure).__name__
    if "wrong version number" in reason:
        return "the server does not use TLS at this port: use an http:// URL"
    if "certificate" in reason:
        return f"the server's certificate cannot be trusted: {reason}"
    return f"TLS failed: {reason}"
