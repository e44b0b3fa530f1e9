"""A site that bounds what it takes in, and that stops gently.

twisted.web takes bodies of any size, spools them to disk, and waits for ever for a head that
trickles in. Who mounts the streams in a site of their own can use the request class alone:
``Site(resource, requestFactory=StreamRequest)``.

Early refusals are written by hand: twisted.web cannot answer before a body has come. What
still comes then is read and dropped for a while, for closing at once would reset the
connection and could take the answer with it (RFC 9112 §9.6).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.http import limits, problems, request_target
from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.chunked_body import ChunkedBody
from durable_streams_tw.http.connection_limiter import ConnectionLimiter, RejectedConnection
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler, Respond
from durable_streams_tw.http.headers import ResponseHeaders
from durable_streams_tw.http.http2.connection import Http2Factory
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.refusals import (
    BODY_MEMORY_EXHAUSTED,
    HEAD_TOO_LARGE,
    MALFORMED,
    REQUEST_TIMEOUT,
    TARGET_TOO_LONG,
    RefusedHead,
)
from durable_streams_tw.http.request_head import HeadContext, check_line, check_start, read_head
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.socket_writer import close_without_wait
from durable_streams_tw.http.twisted_web.resource import refuse
from durable_streams_tw.http.twisted_web.streaming import cut
from durable_streams_tw.live.limits import SSE_COMMENT_INTERVAL
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

_NO_PATH: Final = Refusal(Problem.MALFORMED_REQUEST, "a request target begins with a slash")


Decide = Callable[[Request], "Decision | Deferred[Decision] | None"]


class StreamRequest(Request):
    """A request whose body stays in memory, and has a bound.

    The bounds are those of the site where that is a `StreamSite`, else the defaults.
    """

    defaultContentType = None
    #: What answers the complete request, once its head was found good.
    admitted: Respond | None = None
    #: The budget's.
    held = 0
    _refusal: Response | None = None
    _size = 0
    # While it is found out what may be done: what then follows.
    _deciding: Deferred[Decision] | None = None
    _expects = False
    _complete: tuple[bytes, bytes, bytes] | None = None

    def gotLength(self, length: int | None) -> None:
        """The head is complete; ``length`` is the body's, None where it is not known yet."""
        self.content: Any = BytesIO()
        if length is not None and length > self._site().max_body:
            self._turn_away(self._too_large())
        elif length != 0 and isinstance(self.channel, StreamChannel):
            self._decide(self.channel)

    def _decide(self, channel: StreamChannel) -> None:
        """Decide on the request by its head, before the body is asked for."""
        site = self._site()
        decide = site.decide if isinstance(site, StreamSite) else None
        if decide is None:
            return
        self._take_line(channel._command, channel._path)
        decision = decide(self)
        if not isinstance(decision, Deferred):
            self._decided(decision)
            return
        self._deciding = decision
        self._expects = self.requestHeaders.hasHeader(b"expect")
        # Or twisted.web would ask for the body now.
        self.requestHeaders.removeHeader(b"expect")
        self.notifyFinish().addErrback(_cancelling(decision))
        decision.addCallbacks(self._decided, self._failed_to_decide)

    def _decided(self, decision: Decision | None) -> None:
        later, self._deciding = self._deciding, None
        if isinstance(decision, Response):
            self._answer_early(decision)
            return
        self.admitted = decision
        if later is None or self.channel is None:
            return
        if self._expects and not self._size:
            self.channel._send100Continue()
        if self._complete is not None:
            self.requestReceived(*self._complete)

    def _failed_to_decide(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._decided(self._site().policies.refusal(problems.internal_error(failure), None))

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body has come."""
        if self._refusal is not None:
            return
        site = self._site()
        if not self._size:
            self.notifyFinish().addBoth(self._release, site)
        self._size += len(data)
        if self._size > site.max_body:
            self._turn_away(self._too_large())
        elif site.bodies.account(self, self._size, arriving=True):
            self.content.write(data)
        else:
            self.refuse_body()

    def refuse_body(self) -> None:
        """Refuse the body that is coming, to make room for others."""
        self._turn_away(BODY_MEMORY_EXHAUSTED)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is complete."""
        if self._deciding is not None:
            self._complete = command, path, version
            return
        self._take_line(command, path)
        self._site().bodies.account(self, self.held, arriving=False)
        if self._refusal is None:
            Request.requestReceived(self, command, request_target.origin_form(path), version)
        elif version == b"HTTP/2":
            self.method, self.uri, self.clientproto = command, path, version
            refuse(self._refusal, self)

    def _take_line(self, command: bytes, path: bytes) -> None:
        self.method, self.uri = command, request_target.origin_form(path)
        authority = request_target.authority_of(path)
        if authority is not None:
            self.requestHeaders.setRawHeaders(b"host", [authority])

    def process(self) -> None:
        """Find the resource and let it answer."""
        if self.uri.startswith(b"/"):
            Request.process(self)
        elif self.uri == b"*" and self.method == b"OPTIONS":
            refuse(self._site().policies.options(self.getHeader(b"origin")), self)
        else:
            self._refuse(_NO_PATH)

    def processingFailed(self, reason: Failure) -> Failure:
        """A resource has failed."""
        refusal = problems.internal_error(reason)
        if self.startedWriting:
            cut(self)
        else:
            self._refuse(refusal)
        return reason

    def _site(self) -> StreamSite | _Elsewhere:
        site: Any = self.channel.site  # type: ignore[attr-defined]
        return site if isinstance(site, StreamSite) else _ELSEWHERE

    def _too_large(self) -> Refusal:
        return problems.body_too_large(self._site().max_body)

    def _turn_away(self, refusal: Refusal) -> None:
        self._answer_early(self._site().policies.refusal(refusal, self.getHeader(b"origin")))

    def _answer_early(self, response: Response) -> None:
        """Answer before the body is complete, and drop what has come of it."""
        self._refusal = response
        self.content = BytesIO()
        site = self._site()
        site.bodies.account(self, 0, arriving=False)
        if isinstance(self.channel, HTTPChannel):
            # Or twisted.web would ask for the body after the answer.
            self.requestHeaders.removeHeader(b"expect")
            turn_away(self.channel, response, bodiless=self.method == b"HEAD")

    def _release(self, _: object, site: StreamSite | _Elsewhere) -> None:
        site.bodies.account(self, 0, arriving=False)

    def _refuse(self, refusal: Refusal) -> None:
        refuse(self._site().policies.refusal(refusal, self.getHeader(b"origin")), self)


class StreamChannel(HTTPChannel):
    """HTTP/1.1 with bounds on heads, and with problem details where twisted.web has none."""

    MAX_LENGTH = limits.MAX_HEAD
    totalHeadersSize = limits.MAX_HEAD
    maxHeaders = limits.MAX_FIELDS
    site: StreamSite

    def __init__(self) -> None:
        HTTPChannel.__init__(self)
        self._head_timer: IDelayedCall | None = None
        self._body_timer: IDelayedCall | None = None
        # The lines of a head that is incomplete, how many of its bytes were looked at, and
        # whether its first line is complete. Nothing of it is twisted.web's before it is whole.
        self._head = bytearray()
        self._seen = 0
        self._line_seen = False
        self._keeps = True
        self._refused = False
        self._receiving = False

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and is not complete."""
        return bool(self.line_mode and (self._buffer or self._head)) and not self._refused

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        nested, self._receiving = self._receiving, True
        HTTPChannel.dataReceived(self, data)
        self._receiving = nested
        if nested:
            # An answer was given at once: what comes after its request is read by the caller.
            return
        in_head = self.in_head
        if in_head:
            self._check_start()
            in_head = self.in_head
        if in_head and self._head_timer is None:
            self._head_timer = self.site.reactor.callLater(
                self.site.head_timeout, self._head_is_late
            )
        elif not in_head:
            self._forget_head()
        self._time_body()

    def _time_body(self) -> None:
        """Let a body that has begun pause for so long from now."""
        timer = self._body_timer
        if self._transferDecoder is None or self.line_mode:
            if timer is not None:
                timer.cancel()
                self._body_timer = None
        elif timer is None:
            self._body_timer = self.site.reactor.callLater(
                self.site.body_timeout, self._body_is_late
            )
        else:
            timer.reset(self.site.body_timeout)

    def _body_is_late(self) -> None:
        self._body_timer = None
        self.requests[-1]._turn_away(REQUEST_TIMEOUT)

    def end_body(self) -> None:
        """Take no more of a body."""
        self._transferDecoder = None
        self._time_body()

    def lineReceived(self, line: bytes) -> None:
        """A line of a head has come."""
        if self._refused:
            return
        if not line and not self._head:
            HTTPChannel.lineReceived(self, line)
            return
        # twisted.web repairs what is ambiguous, and no two servers repair alike. So heads are
        # judged here as by the fast channel: the first line, then the whole.
        first = not self._head
        self._head += line + b"\r\n"
        if (first or not line) and self._refuses(bytes(self._head), whole=not line):
            return
        if not line:
            lines = bytes(self._head).split(b"\r\n")[:-1]
            self._head.clear()
            self._seen, self._line_seen = 0, False
            for one in lines:
                HTTPChannel.lineReceived(self, one)

    def _check_start(self) -> None:
        """Refuse a head that is incomplete as soon as it cannot become a good one."""
        start = bytes(self._head) + bytes(self._buffer)
        try:
            self._line_seen = check_start(start, self._seen, self._line_seen)
        except Refused as refused:
            self._turn_away(refused.refusal)
        self._seen = len(start)

    def allHeadersReceived(self) -> None:
        """Begin a body: one in chunks is read as strictly as by the fast channel."""
        if self.length is None:
            decoder: Any = _ChunkDecoder(self, self.requests[-1], self.site.max_body)
            self._transferDecoder = decoder
        HTTPChannel.allHeadersReceived(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether the connection outlives a request; one of HTTP/1.0 is never kept."""
        persistent = bool(HTTPChannel.checkPersistence(self, request, version))
        if persistent and not self._keeps:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return persistent

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self._forget_head()
        HTTPChannel.connectionLost(self, reason)
        # Each refers to the channel, and holds bytes of a body.
        self.end_body()
        self.requests.clear()
        self._dataBuffer.clear()

    def timeoutConnection(self) -> None:
        """Close a connection that was idle for too long; a body has a timeout of its own."""
        if self._body_timer is not None:
            set_timeout: Any = self.setTimeout
            set_timeout(self.timeOut)
            return
        self._abortingCall = self.site.reactor.callLater(self.abortTimeout, abort, self)
        HTTPChannel.loseConnection(self)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of a head is longer than a whole head may be."""
        self._turn_away(HEAD_TOO_LARGE if self._head else TARGET_TOO_LONG)

    def _respondToBadRequestAndDisconnect(self) -> None:
        large = (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        )
        self._turn_away(HEAD_TOO_LARGE if large else MALFORMED)

    def _refuses(self, raw: bytes, whole: bool) -> bool:
        try:
            if not whole:
                check_line(raw)
                return False
            head = read_head(raw, self.site.surroundings)
            self._keeps = head.keep_alive
        except Refused as refused:
            origin = refused.origin if isinstance(refused, RefusedHead) else None
            self._turn_away(refused.refusal, origin)
            return True
        if head.refusal is not None:
            self._turn_away(head.refusal, head.headers.get(b"origin"))
        return head.refusal is not None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self._turn_away(REQUEST_TIMEOUT)

    def _turn_away(self, refusal: Refusal, origin: bytes | None = None) -> None:
        self._refused = True
        turn_away(self, self.site.policies.refusal(refusal, origin))

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _ChunkDecoder:
    """Decoder of a body in chunks, for twisted.web, whose own reads over what is malformed."""

    def __init__(self, channel: StreamChannel, request: Any, limit: int) -> None:
        # `StreamChannel.end_body` cuts the cycle.
        self._finish: Any = channel._finishRequestBody
        self._request = request
        self._chunks = ChunkedBody(limit)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the body, and perhaps what comes after it."""
        chunks = self._chunks
        try:
            stop = chunks.feed(data, 0)
        except Refused as refused:
            self._request._turn_away(refused.refusal)
            return
        if chunks.body:
            part, chunks.body = bytes(chunks.body), bytearray()
            self._request.handleContentChunk(part)
        if chunks.complete:
            self._finish(data[stop:])

    def noMoreData(self) -> None:
        """Do nothing: the connection has ended within the body."""


class _Connection(_GenericHTTPChannelProtocol):
    """One connection, HTTP/1.1 or HTTP/2, that its site knows of."""

    _channel: Any
    _negotiatedProtocol: Any
    _closing = False
    _peer: IAddress

    def dataReceived(self, data: bytes) -> None:
        if self._negotiatedProtocol is None:
            negotiated = getattr(self._channel.transport, "negotiatedProtocol", None)
            self._negotiatedProtocol = negotiated or b"http/1.1"
            if negotiated == b"h2":
                self._change_to_http2()
        self._channel.dataReceived(data)

    def _change_to_http2(self) -> None:
        old = self._channel
        old._networkProducer.unregisterProducer()
        old.setTimeout(None)
        self._known.connections.discard(self)
        self._channel = self._known.http2.buildProtocol(self._peer)
        self._channel.makeConnection(old.transport)

    def makeConnection(self, transport: ITransport) -> None:
        self._known: StreamSite = self._channel.site
        self._known.connections.add(self)
        self._peer = transport.getPeer()
        self._known.limiter.add(self._peer)
        self._channel.makeConnection(transport)

    def connectionLost(self, reason: Failure) -> None:
        self._known.connections.discard(self)
        self._known.limiter.remove(self._peer)
        self._channel.connectionLost(reason)

    def is_busy(self) -> bool:
        """Whether a request is coming in, or being answered."""
        return bool(self._channel.requests or self._channel.in_head)

    def close(self, *, now: bool) -> None:
        """End the connection: cut it, or let it take what was written to it."""
        transport = self._channel.transport
        if now:
            transport.abortConnection()
        elif not self._closing:
            self._closing = True
            # TLS would wait for a producer's end.
            transport.unregisterProducer()
            close_without_wait(transport)


class StreamSite(Site):
    """A site for streams, and for whatever else is small."""

    noisy = False

    def __init__(
        self,
        resource: IResource,
        operations: RequestHandler,
        policies: ResponseHeaders,
        settings: Settings,
        reactor: IReactorTime,
        root: bytes,
        wall: Seconds | None = None,
    ) -> None:
        # twisted.web does not tell the time between requests from the time within one.
        idle = max(settings.idle_timeout, settings.long_poll_timeout + SSE_COMMENT_INTERVAL)
        Site.__init__(
            self,
            resource,
            requestFactory=StreamRequest,
            timeout=idle,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.policies = policies
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        #: What decides on requests by their heads; None stands for no decision.
        self.decide: Decide | None = None
        self.limiter = ConnectionLimiter(settings)
        self.max_body = settings.max_body
        self.surroundings = HeadContext(b"/", settings.max_body)
        self.bodies = BodyBudget(settings.body_memory)
        self.connections: set[_Connection] = set()
        self._draining: LoopingCall | None = None
        self.http2 = Http2Factory(operations, self, reactor, root, settings, wall)

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that a client may choose over TLS (ALPN)."""
        return [b"h2", b"http/1.1"]

    def protocol(self) -> _Connection:
        """What speaks on a new connection."""
        return _Connection(StreamChannel())

    def buildProtocol(self, address: IAddress | None) -> Any:
        """Take a connection, or turn it away where there are too many."""
        if not self.limiter.accepts(address):
            return RejectedConnection(self.limiter, self.reactor)
        return Site.buildProtocol(self, address)

    def startFactory(self) -> None:
        """Nothing to begin: no line is logged for each request."""

    def stopFactory(self) -> None:
        """Nothing to end."""

    def log(self, request: object) -> None:
        """Requests are not logged."""

    def drain(self) -> Deferred[None]:
        """Close every connection once it is idle; cut what is not after a while."""
        deadline = self.reactor.seconds() + limits.STOP_GRACE
        self.http2.drain()
        calls = LoopingCall(self._close_idle, deadline)
        calls.clock = self.reactor
        self._draining = calls
        done: Deferred[Any] = calls.start(limits.STOP_CHECK)
        return done.addCallback(lambda _: None)

    def _close_idle(self, deadline: float) -> None:
        late = self.reactor.seconds() >= deadline
        for connection in list(self.connections):
            if late or not connection.is_busy():
                connection.close(now=late)
        if late:
            self.http2.cut()
        calls = self._draining
        if calls is not None and (late or not (self.connections or self.http2.connections)):
            calls.stop()


class _Elsewhere:
    """Stands in for a site that is not ours."""

    def __init__(self) -> None:
        self.policies = ResponseHeaders()
        self.max_body = limits.MAX_BODY
        self.bodies = BodyBudget(limits.BODY_MEMORY)


_ELSEWHERE: Final = _Elsewhere()


def turn_away(channel: HTTPChannel, response: Response, bodiless: bool = False) -> None:
    """Answer what has not come whole, read on only to drop it, and close soon."""
    body = response.body
    assert isinstance(body, bytes), "a refusal has no live body"
    phrase = RESPONSES.get(response.status, b"Refused")
    lines = [b"HTTP/1.1 %d %s" % (response.status, phrase)]
    lines += [name + b": " + value for name, value in response.headers]
    lines += [b"Content-Length: %d" % len(body), b"Connection: close", b""]
    lines.append(b"" if bodiless else body)
    transport: Any = channel.transport
    transport.write(b"\r\n".join(lines))
    channel.dataReceived = _Dropping(transport)  # type: ignore[method-assign]
    channel.clearLineBuffer()
    if isinstance(channel, StreamChannel):
        channel.end_body()
    channel.setTimeout(None)
    # Below TLS there is such a method too, and it would end TLS without a word.
    if not channel.isSecure() and hasattr(transport, "loseWriteConnection"):
        transport.loseWriteConnection()
    call_later: Any = channel.callLater
    channel._abortingCall = call_later(limits.LINGER, abort, channel)


def _cancelling(decision: Deferred[Any]) -> Callable[[Failure], None]:
    return lambda _: decision.cancel()


def abort(channel: HTTPChannel) -> None:
    """Give a connection up that should have ended by now."""
    channel._abortingCall = None
    transport: Any = channel.transport
    transport.abortConnection()


class _Dropping:
    """What takes bytes that come after an early answer: up to a bound, then reading stops."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._left = limits.LINGER_BYTES

    def __call__(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.pauseProducing()
