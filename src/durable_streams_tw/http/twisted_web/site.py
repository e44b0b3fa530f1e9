"""twisted.web site with limits on requests and connections, and a graceful stop.

twisted.web accepts bodies of any size, spools them to disk, and waits forever for an incomplete
head. A program that mounts the streams in a site of its own can use the request class alone:
``Site(resource, requestFactory=StreamRequest)``.

Early refusals are written to the transport here, since twisted.web cannot respond before a body
is complete. The bytes that follow are read and discarded for a while: closing at once would
reset the connection and could lose the response (RFC 9112 §9.6).

Private attributes of twisted.web are used here alone: ``tests/http/test_twisted_private.py``
checks that they exist.
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
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from durable_streams_tw.clocks import Seconds, cancel
from durable_streams_tw.http import limits, problems, refusals, request_target
from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.chunked_body import ChunkedBody
from durable_streams_tw.http.connection_limiter import ConnectionLimiter, RejectedConnection
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler, Respond
from durable_streams_tw.http.http2.connection import Http2Factory
from durable_streams_tw.http.messages import Response, encode_closing
from durable_streams_tw.http.request_head import HeadContext, check_line, check_start, read_head
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.socket_writer import close_without_wait
from durable_streams_tw.http.twisted_web.resource import refuse
from durable_streams_tw.http.twisted_web.streaming import abort_response
from durable_streams_tw.live.limits import SSE_COMMENT_INTERVAL
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

_NO_PATH: Final = Refusal(Problem.MALFORMED_REQUEST, "the request target must begin with a slash")


Decide = Callable[[Request], "Decision | Deferred[Decision] | None"]


class StreamRequest(Request):
    """Request whose body stays in memory and has a limit.

    The limits are those of the site if it is a `StreamSite`, otherwise the defaults.
    """

    defaultContentType = None
    #: Handler of the complete request, once its head is authorized.
    admitted: Respond | None = None
    #: Bytes counted by the body budget.
    held = 0
    _refusal: Response | None = None
    _size = 0
    # Pending decision on the head.
    _deciding: Deferred[Decision] | None = None
    _expects = False
    _complete: tuple[bytes, bytes, bytes] | None = None

    def gotLength(self, length: int | None) -> None:
        """Refuse or authorize the request by its head. ``length`` is None for a chunked body."""
        self.content: Any = BytesIO()
        if length is not None and length > self._site().max_body:
            self._refuse_early(self._too_large())
        elif length != 0 and isinstance(self.channel, StreamChannel):
            self._decide(self.channel)

    def _decide(self, channel: StreamChannel) -> None:
        """Authorize the request before the client is asked for its body."""
        site = self._site()
        decide = site.decide if isinstance(site, StreamSite) else None
        if decide is None:
            return
        self._set_request_line(channel._command, channel._path)
        decision = decide(self)
        if not isinstance(decision, Deferred):
            self._decided(decision)
            return
        self._deciding = decision
        self._expects = self.requestHeaders.hasHeader(b"expect")
        # With this header twisted.web would send 100 Continue before the decision.
        self.requestHeaders.removeHeader(b"expect")
        self.notifyFinish().addErrback(lambda _: decision.cancel())
        decision.addCallbacks(self._decided, self._failed_to_decide)

    def _decided(self, decision: Decision | None) -> None:
        later, self._deciding = self._deciding, None
        if isinstance(decision, Response):
            self._respond_early(decision)
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
            self._decided(
                self._site().response_headers.refusal(problems.internal_error(failure), None)
            )

    def handleContentChunk(self, data: bytes) -> None:
        """Store a part of the body, or refuse it."""
        if self._refusal is not None:
            return
        site = self._site()
        if not self._size:
            self.notifyFinish().addBoth(lambda _: site.bodies.account(self, 0, arriving=False))
        self._size += len(data)
        if self._size > site.max_body:
            self._refuse_early(self._too_large())
        elif site.bodies.account(self, self._size, arriving=True):
            self.content.write(data)
        else:
            self.refuse_body()

    def refuse_body(self) -> None:
        """Refuse the incomplete body, to free memory for others."""
        self._refuse_early(refusals.BODY_MEMORY_EXHAUSTED)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Process the complete request, or wait for the decision on its head."""
        if self._deciding is not None:
            self._complete = command, path, version
            return
        self._set_request_line(command, path)
        self._site().bodies.account(self, self.held, arriving=False)
        if self._refusal is None:
            Request.requestReceived(self, command, request_target.origin_form(path), version)
        elif version == b"HTTP/2":
            self.method, self.uri, self.clientproto = command, path, version
            refuse(self._refusal, self)

    def _set_request_line(self, command: bytes, path: bytes) -> None:
        self.method, self.uri = command, request_target.origin_form(path)
        authority = request_target.authority_of(path)
        if authority is not None:
            self.requestHeaders.setRawHeaders(b"host", [authority])

    def process(self) -> None:
        """Let the resource respond."""
        site = self._site()
        if isinstance(site, StreamSite):
            site.observe(self)
        if self.uri.startswith(b"/"):
            Request.process(self)
        elif self.uri == b"*" and self.method == b"OPTIONS":
            refuse(self._site().response_headers.options(self.getHeader(b"origin")), self)
        else:
            self._refuse(_NO_PATH)

    def processingFailed(self, reason: Failure) -> Failure:
        """Respond with 500 to an error of a resource, or reset a response that has begun."""
        refusal = problems.internal_error(reason)
        if self.startedWriting:
            abort_response(self)
        else:
            self._refuse(refusal)
        return reason

    def _site(self) -> StreamSite | _DefaultLimits:
        site: Any = self.channel.site  # type: ignore[attr-defined]
        return site if isinstance(site, StreamSite) else _DEFAULT_LIMITS

    def _too_large(self) -> Refusal:
        return problems.body_too_large(self._site().max_body)

    def _refuse_early(self, refusal: Refusal) -> None:
        self._respond_early(
            self._site().response_headers.refusal(refusal, self.getHeader(b"origin"))
        )

    def _respond_early(self, response: Response) -> None:
        """Respond before the body is complete, and discard what was received of it."""
        self._refusal = response
        self.content = BytesIO()
        site = self._site()
        site.bodies.account(self, 0, arriving=False)
        if isinstance(self.channel, HTTPChannel):
            # Otherwise twisted.web sends 100 Continue after the response.
            self.requestHeaders.removeHeader(b"expect")
            respond_early(self.channel, response, bodiless=self.method == b"HEAD")

    def _refuse(self, refusal: Refusal) -> None:
        refuse(self._site().response_headers.refusal(refusal, self.getHeader(b"origin")), self)


class StreamChannel(HTTPChannel):
    """HTTP/1.1 connection of twisted.web with strict heads, timeouts and problem details."""

    MAX_LENGTH = limits.MAX_HEAD
    totalHeadersSize = limits.MAX_HEAD
    maxHeaders = limits.MAX_FIELDS
    site: StreamSite

    def __init__(self) -> None:
        HTTPChannel.__init__(self)
        self._head_timer: IDelayedCall | None = None
        self._body_timer: IDelayedCall | None = None
        # The lines of an incomplete head, how many of its bytes were checked, and whether its first
        # line is complete. twisted.web gets the lines once the head is complete and accepted.
        self._head = bytearray()
        self._seen = 0
        self._line_seen = False
        self._keep_alive = True
        self._refused = False
        self._receiving = False

    @property
    def in_head(self) -> bool:
        """True while a head is incomplete."""
        return bool(self.line_mode and (self._buffer or self._head)) and not self._refused

    def dataReceived(self, data: bytes) -> None:
        """Process received bytes and restart the timeouts of heads and bodies."""
        nested, self._receiving = self._receiving, True
        HTTPChannel.dataReceived(self, data)
        self._receiving = nested
        if nested:
            # Called from a response to a pipelined request: the outer call does the rest.
            return
        if self.in_head:
            self._check_start()
        if not self.in_head:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.site.reactor.callLater(
                self.site.head_timeout, self._head_timed_out
            )
        self._restart_body_timer()

    def _restart_body_timer(self) -> None:
        """Restart the timeout of an incomplete body, or cancel it."""
        timer = self._body_timer
        if self._transferDecoder is None or self.line_mode:
            cancel(timer)
            self._body_timer = None
        elif timer is None:
            self._body_timer = self.site.reactor.callLater(
                self.site.body_timeout, self._body_timed_out
            )
        else:
            timer.reset(self.site.body_timeout)

    def _body_timed_out(self) -> None:
        self._body_timer = None
        self.requests[-1]._refuse_early(refusals.REQUEST_TIMEOUT)

    def end_body(self) -> None:
        """Stop decoding a body."""
        self._transferDecoder = None
        self._restart_body_timer()

    def lineReceived(self, line: bytes) -> None:
        """Collect a line of a head, and pass a complete head to twisted.web."""
        if self._refused:
            return
        if not line and not self._head:
            HTTPChannel.lineReceived(self, line)
            return
        # twisted.web accepts ambiguous heads, which a proxy may read differently. They are checked
        # here as in the HTTP/1.1 engine: first the request line, then the whole head.
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
        """Refuse an incomplete head as soon as no further bytes can make it valid."""
        start = bytes(self._head) + bytes(self._buffer)
        try:
            self._line_seen = check_start(start, self._seen, self._line_seen)
        except Refused as refused:
            self._refuse_early(refused.refusal)
        self._seen = len(start)

    def allHeadersReceived(self) -> None:
        """Set the strict decoder of chunked bodies that the HTTP/1.1 engine uses."""
        if self.length is None:
            decoder: Any = _ChunkDecoder(self, self.requests[-1], self.site.max_body)
            self._transferDecoder = decoder
        HTTPChannel.allHeadersReceived(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether the connection outlives a request."""
        persistent = bool(HTTPChannel.checkPersistence(self, request, version))
        if persistent and not self._keep_alive:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return persistent

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel timers and break reference cycles."""
        self._cancel_head_timer()
        HTTPChannel.connectionLost(self, reason)
        # Each refers to the channel and holds bytes of a body.
        self.end_body()
        self.requests.clear()
        self._dataBuffer.clear()

    def timeoutConnection(self) -> None:
        """Close an idle connection. An incomplete body has a timeout of its own."""
        if self._body_timer is not None:
            set_timeout: Any = self.setTimeout
            set_timeout(self.timeOut)
            return
        self._abortingCall = self.site.reactor.callLater(self.abortTimeout, abort, self)
        HTTPChannel.loseConnection(self)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is longer than a head may be."""
        self._refuse_early(refusals.HEAD_TOO_LARGE if self._head else refusals.TARGET_TOO_LONG)

    def _respondToBadRequestAndDisconnect(self) -> None:
        large = (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        )
        self._refuse_early(refusals.HEAD_TOO_LARGE if large else refusals.MALFORMED)

    def _refuses(self, raw: bytes, whole: bool) -> bool:
        try:
            if not whole:
                check_line(raw)
                return False
            head = read_head(raw, self.site.head_context)
            self._keep_alive = head.keep_alive
        except Refused as refused:
            origin = refused.origin if isinstance(refused, refusals.RefusedHead) else None
            self._refuse_early(refused.refusal, origin)
            return True
        if head.refusal is not None:
            self._refuse_early(head.refusal, head.headers.get(b"origin"))
        return head.refusal is not None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        self._refuse_early(refusals.REQUEST_TIMEOUT)

    def _refuse_early(self, refusal: Refusal, origin: bytes | None = None) -> None:
        self._refused = True
        respond_early(self, self.site.response_headers.refusal(refusal, origin))

    def _cancel_head_timer(self) -> None:
        cancel(self._head_timer)
        self._head_timer = None


class _ChunkDecoder:
    """Decoder of chunked bodies for twisted.web, whose own accepts malformed ones."""

    def __init__(self, channel: StreamChannel, request: Any, limit: int) -> None:
        # A reference cycle, which `StreamChannel.end_body` breaks.
        self._finish: Any = channel._finishRequestBody
        self._request = request
        self._chunks = ChunkedBody(limit)

    def dataReceived(self, data: bytes) -> None:
        """Decode bytes of the body; pass on those after its end."""
        chunks = self._chunks
        try:
            stop = chunks.feed(data, 0)
        except Refused as refused:
            self._request._refuse_early(refused.refusal)
            return
        if chunks.body:
            part, chunks.body = bytes(chunks.body), bytearray()
            self._request.handleContentChunk(part)
        if chunks.complete:
            self._finish(data[stop:])

    def noMoreData(self) -> None:
        """Do nothing: the connection was lost within the body."""


class _Connection(_GenericHTTPChannelProtocol):
    """Connection of a `StreamSite`, HTTP/1.1 or HTTP/2, which ALPN decides."""

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
        self._stream_site.connections.discard(self)
        self._channel = self._stream_site.http2.buildProtocol(self._peer)
        self._channel.makeConnection(old.transport)

    def makeConnection(self, transport: ITransport) -> None:
        self._stream_site: StreamSite = self._channel.site
        self._stream_site.connections.add(self)
        self._peer = transport.getPeer()
        self._stream_site.limiter.add(self._peer)
        self._channel.makeConnection(transport)

    def connectionLost(self, reason: Failure) -> None:
        self._stream_site.connections.discard(self)
        self._stream_site.limiter.remove(self._peer)
        self._channel.connectionLost(reason)

    def is_busy(self) -> bool:
        """Return whether a request is incomplete or being executed."""
        return bool(self._channel.requests or self._channel.in_head)

    def close(self, *, now: bool) -> None:
        """Close the connection: ``now``, or after the bytes that were written."""
        transport = self._channel.transport
        if now:
            transport.abortConnection()
        elif not self._closing:
            self._closing = True
            # TLS waits for a producer before it closes.
            transport.unregisterProducer()
            close_without_wait(transport)


class StreamSite(Site):
    """Site of streams and of other small resources.

    ``limiter`` counts its connections and ``bodies`` its request bodies. ``decide`` authorizes a
    request by its head; None accepts all bodies. ``http2`` makes its HTTP/2 connections.
    ``begin_web_request`` is called with each request that is not for a stream, for an access log,
    and the function that it returns at the end of the response. ``wall`` returns seconds since the
    Unix epoch for the Date header, by default those of ``reactor``.
    """

    noisy = False

    def __init__(
        self,
        resource: IResource,
        handler: RequestHandler,
        response_headers: ResponseHeaders,
        settings: Settings,
        reactor: IReactorTime,
        root: bytes,
        wall: Seconds | None = None,
    ) -> None:
        # The timeout of twisted.web covers the time within a request too.
        idle = max(settings.idle_timeout, settings.long_poll_timeout + SSE_COMMENT_INTERVAL)
        Site.__init__(
            self,
            resource,
            requestFactory=StreamRequest,
            timeout=idle,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.response_headers = response_headers
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.decide: Decide | None = None
        self.begin_web_request: Callable[[Request], Callable[[], object]] | None = None
        self._streams_root = root
        self.limiter = ConnectionLimiter(settings)
        self.max_body = settings.max_body
        self.head_context = HeadContext(b"/", settings.max_body)
        self.bodies = BodyBudget(settings.body_memory)
        self.connections: set[_Connection] = set()
        self._draining: LoopingCall | None = None
        self.http2 = Http2Factory(handler, self, reactor, root, settings, wall or reactor.seconds)

    def observe(self, request: Request) -> None:
        """Call ``begin_web_request`` for a request that is not for a stream."""
        if self.begin_web_request is not None and not request.uri.startswith(self._streams_root):
            finish = self.begin_web_request(request)
            request.notifyFinish().addBoth(lambda _: finish())

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that a client may choose over TLS (ALPN)."""
        return [b"h2", b"http/1.1"]

    def protocol(self) -> _Connection:
        """Return the protocol of a new connection."""
        return _Connection(StreamChannel())

    def buildProtocol(self, address: IAddress | None) -> Any:
        """Return a connection, or one that is rejected if there are too many."""
        if not self.limiter.accepts(address):
            return RejectedConnection(self.limiter, self.reactor)
        return Site.buildProtocol(self, address)

    def startFactory(self) -> None:
        """Do nothing: there is no access log to open."""

    def stopFactory(self) -> None:
        """Do nothing: there is no access log to close."""

    def log(self, request: object) -> None:
        """Do nothing: requests are not logged."""

    def drain(self) -> Deferred[None]:
        """Close each connection once it is idle, and all after `STOP_GRACE` seconds.

        Fires when all connections are closed.
        """
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
            self.http2.abort()
        calls = self._draining
        if calls is not None and (late or not (self.connections or self.http2.connections)):
            calls.stop()


class _DefaultLimits:
    """Limits of a `StreamRequest` on a site that is not a `StreamSite`."""

    def __init__(self) -> None:
        self.response_headers = ResponseHeaders()
        self.max_body = limits.MAX_BODY
        self.bodies = BodyBudget(limits.BODY_MEMORY)


_DEFAULT_LIMITS: Final = _DefaultLimits()


def respond_early(channel: HTTPChannel, response: Response, bodiless: bool = False) -> None:
    """Respond to an incomplete request, discard the bytes that follow, and close the connection."""
    body = response.body
    assert isinstance(body, bytes), "a refusal is not streamed"
    transport: Any = channel.transport
    transport.write(encode_closing(response.status, response.headers, body, bodiless=bodiless))
    channel.dataReceived = _Discarding(transport)  # type: ignore[method-assign]
    channel.clearLineBuffer()
    if isinstance(channel, StreamChannel):
        channel.end_body()
    channel.setTimeout(None)
    # On TLS it would close the TCP connection without close_notify.
    if not channel.isSecure() and hasattr(transport, "loseWriteConnection"):
        transport.loseWriteConnection()
    call_later: Any = channel.callLater
    channel._abortingCall = call_later(limits.LINGER, abort, channel)


def abort(channel: HTTPChannel) -> None:
    """Reset a connection that did not close in time."""
    channel._abortingCall = None
    transport: Any = channel.transport
    transport.abortConnection()


class _Discarding:
    """Receiver of bytes after an early response: discards them, and stops reading above a limit."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._left = limits.LINGER_BYTES

    def __call__(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.pauseProducing()
