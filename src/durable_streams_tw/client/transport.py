"""One request and its answer, on treq: whole, or as its bytes come.

Nothing is repeated, followed or decompressed here. An answer that does not come whole is
none: what a broken connection has cut must not look like an end.
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
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from durable_streams_tw.client.errors import Broken, ClientError, Unreachable, Untrusted
from durable_streams_tw.clocks import monotonic_timers, wall_clock
from durable_streams_tw.outgoing.agent import IdentityAgent, WholeBody
from durable_streams_tw.outgoing.cancel import cancellable

#: The most bytes of an answer that is read whole: what streams have is read in pieces.
MAX_ANSWER: Final = 16 * 1024 * 1024

#: How much of an answer that comes in pieces may wait to be taken; then reading stops.
_READ_AHEAD: Final = 1024 * 1024

# A connection was never made, so nothing can have been sent.
_NEVER_SENT: Final = (
    error.ConnectError,
    error.DNSLookupError,
    RequestNotSent,
    SchemeNotSupported,
)


class Answer(Struct, frozen=True):
    """A response that has come whole. ``header`` has lower-case names."""

    status: int
    header: dict[str, str]
    body: bytes


class Inflow(Protocol):
    """The body of a response, taken piece by piece as it comes.

    ``quiet`` is after how many seconds without a byte the connection counts as lost.
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
        """All that has come, at least one byte; None at the end of a complete body.

        Raises `Unreachable` where the body ends in the middle.
        """
        if not self._pieces and self._ended is None:
            self._waiting = Deferred()
            self._timer = self._reactor.callLater(self._quiet, self._too_quiet)
            try:
                await self._waiting
            finally:
                self._waiting = None
                if self._timer.active():
                    self._timer.cancel()
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

    async def whole(self) -> bytes:
        """All of the body. Raises `Unreachable`, or `Broken` where that is too much."""
        pieces, size = [], 0
        while (piece := await self.take()) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise Broken(f"the server's answer has more than {MAX_ANSWER} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        """Nobody wants the rest: the connection is ended."""
        if self._ended is None:
            self._ended = Failure(error.ConnectionAborted())
            abort = getattr(self.transport, "abortConnection", None)
            if abort is None:
                self._flow("loseConnection")
            else:
                abort()

    # -- IProtocol --------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Keep received bytes; pause the connection if too many are unread."""
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
    """A response whose body is still coming."""

    status: int
    header: dict[str, str]
    body: Inflow


class Wire:
    """Makes requests.

    ``agent`` connects; ``reactor`` gives the time: ``timers`` is monotonic, ``wall`` the wall
    clock. ``patience`` is how many seconds the head of an answer may take, and how long a body
    that is read whole may be silent.
    """

    def __init__(self, agent: IAgent, reactor: Any, patience: float = 30.0) -> None:
        # A proxy that compresses an event stream holds its events back until it has enough.
        self._treq = HTTPClient(IdentityAgent(agent))
        self.reactor = reactor
        self.timers = monotonic_timers(reactor)
        self.wall = wall_clock(reactor)
        self._patience = patience

    async def ask(
        self,
        method: str,
        url: str,
        header: Mapping[str, str],
        body: bytes | None = None,
        wait: float | None = None,
    ) -> Answer:
        """Send a request, take the whole answer.

        ``wait`` stands in for the usual patience. Raises `Unreachable`, or `Broken` where the
        answer is larger than anybody would send.
        """
        response = await self.open(method, url, header, body, wait)
        try:
            return Answer(response.status, response.header, await response.body.whole())
        finally:
            response.body.close()

    async def open(
        self,
        method: str,
        url: str,
        header: Mapping[str, str],
        body: bytes | None = None,
        wait: float | None = None,
        quiet: float | None = None,
    ) -> Response:
        """Send a request, take the head of the answer. Raises `Unreachable`.

        ``quiet`` is how many seconds the body may be silent. Whoever calls this closes the
        body when he has done.
        """
        patience = self._patience if wait is None else wait
        # A body that is there and empty has a length: an empty POST may close a stream.
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
            patience, lambda: coming.errback(_Late()) if not coming.called else None
        )
        try:
            response = await coming
        except CancelledError:
            raise
        except _Late:
            requested.cancel()
            raise Unreachable(f"no answer within {patience:g} s", sent=True) from None
        except Exception as failure:
            raise _lost(failure) from failure
        finally:
            if timer.active():
                timer.cancel()
        inflow = Inflow(self.timers, self._patience if quiet is None else quiet)
        response.deliverBody(inflow)
        fields = {
            name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Response(response.code, fields, inflow)


class _Late(Exception):
    """The head of an answer has not come in time."""


class _Quiet(Exception):
    """A connection has brought nothing for too long."""


def _lost(failure: BaseException | None) -> ClientError:
    """Return the reason of a connection failure as a sentence."""
    reasons = getattr(failure, "reasons", None)
    if reasons:
        # The last one is what the others have come to.
        inner = [reason.value for reason in reasons]
        telling = [one for one in inner if not isinstance(one, ResponseDone)]
        return _lost((telling or inner)[-1])
    if type(failure).__module__.partition(".")[0] in ("OpenSSL", "service_identity"):
        return Untrusted(f"the server's certificate cannot be trusted: {_openssl(failure)}")
    sent = not isinstance(failure, _NEVER_SENT)
    return Unreachable(_sentence(failure), sent=sent)


def _sentence(failure: BaseException | None) -> str:
    if isinstance(failure, error.ConnectionRefusedError):
        return "could not connect: connection refused"
    if isinstance(failure, error.DNSLookupError):
        return "could not connect: the host name has no address"
    if isinstance(failure, error.TimeoutError):
        return "could not connect: timed out"
    if isinstance(failure, PotentialDataLoss):
        return "the answer has no length, so it may be incomplete"
    if isinstance(failure, error.ConnectionDone | error.ConnectionLost | ResponseFailed):
        return "the connection was lost"
    text = str(failure)
    return text or type(failure).__name__


def _openssl(failure: BaseException | None) -> str:
    if type(failure).__module__.startswith("service_identity"):
        return "it is for another name"
    # Its errors are a list of (library, function, reason).
    found = getattr(failure, "args", ())
    said = [entry[-1] for entry in (found[0] if found else ()) if isinstance(entry, tuple)]
    return ", ".join(said) or str(failure) or type(failure).__name__
