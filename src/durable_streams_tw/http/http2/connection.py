"""HTTP/2 connections (RFC 9113), between frames and the request handler.

twisted.web's own HTTP/2 has neither timeouts nor limits, and h2, which it uses, takes most of the
CPU of a small request. Here, as in the HTTP/1.1 engine:

1. A connection cannot starve the others: one turn of the reactor processes `FRAMES_PER_TURN` of
   its frames, and the bytes, resets and idle frames of a client are limited (`http.limits`).
2. Requests are executed as they arrive; their responses take turns, frame by frame.
3. While the transport is full, nothing is read from the client. A response whose window is
   exhausted waits, and its producer is paused.
4. Heads, bodies, responses and idle connections have timeouts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.http import limits, refusals
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler
from durable_streams_tw.http.http2 import frames
from durable_streams_tw.http.http2.frames import Code, ConnectionFault, Frame
from durable_streams_tw.http.http2.heads import CONTINUE, HeadReader, HeadWriter
from durable_streams_tw.http.http2.resource import RequestChannel, ResourceSite
from durable_streams_tw.http.http2.stream import Http2Stream
from durable_streams_tw.http.messages import NO_BODY, InvalidHeader, Response, StreamedBody
from durable_streams_tw.http.problems import body_too_large
from durable_streams_tw.http.request_head import CHUNKED, HeadContext, RequestHead
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.socket_writer import SocketWriter
from durable_streams_tw.http.timer_wheel import TimerWheel
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

_log: Final = Logger()


# First frames of the server. No priorities (RFC 9218 §2.1.1) and no push.
_OPENING: Final = frames.settings(
    (frames.MAX_CONCURRENT_STREAMS, limits.MAX_STREAMS),
    (frames.INITIAL_WINDOW_SIZE, limits.RECEIVE_WINDOW),
    (frames.MAX_HEADER_LIST_SIZE, limits.MAX_HEAD),
) + frames.window_update(0, limits.RECEIVE_WINDOW - frames.DEFAULT_WINDOW)

# Most bytes of one write to the transport, which pauses the connection when it is full.
_WRITE: Final = 64 * limits.KIB

# Most identifiers kept of streams that the server has reset: frames for them may still arrive.
_RESETS: Final = 256

# Cost of frames against `FRAMES_PER_TURN`; 1 for those not listed.
_COSTS: Final = {
    frames.HEADERS: limits.REQUEST_COST,
    frames.RST_STREAM: limits.RESET_COST,
}

# Most rounds of resuming producers and sending their bytes in one turn of the reactor.
_ROUNDS: Final = 4


class TokenBucket:
    """Token bucket for frames that cost the server without being requests."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._left = float(burst)
        self._rate = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token; return False if there is none."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        self._left -= 1
        return self._left >= 0


class Http2Factory:
    """Factory of the HTTP/2 connections of one site.

    ``handler`` handles requests for streams below ``root``, a raw path with a slash at both
    ends; the resources of ``site`` handle all others. ``wall`` returns seconds since the Unix
    epoch for the Date header.
    """

    def __init__(
        self,
        handler: RequestHandler,
        site: ResourceSite,
        clock: IReactorTime,
        root: bytes,
        settings: Settings,
        wall: Seconds,
    ) -> None:
        self.handler = handler
        self.site = site
        self.settings = settings
        self.root = root
        self.clock = clock
        #: Call a function in the next turn of the reactor.
        self.later = partial(clock.callLater, 0)
        self.date = b""
        self._wall = wall
        self.wheel = TimerWheel(clock, self._tick)
        self.connections: set[Http2Connection] = set()

    def buildProtocol(self, address: IAddress | None) -> Http2Connection:
        """Return the protocol of a connection on which the client has chosen HTTP/2."""
        return Http2Connection(self, address)

    def drain(self) -> None:
        """Refuse further requests, and close each connection after its last response."""
        for connection in list(self.connections):
            connection.drain()

    def abort(self) -> None:
        """Reset all connections."""
        for connection in list(self.connections):
            connection.abort()

    def _tick(self, now: float) -> None:
        self.date = formatdate(int(self._wall()), usegmt=True).encode("ascii")


@implementer(IPushProducer)
class Http2Connection(Protocol):
    """One HTTP/2 connection."""

    #: Set by the timer wheel.
    wheel_slot = 0

    transport: Any

    def __init__(self, factory: Http2Factory, address: IAddress | None) -> None:
        self._factory = factory
        self._wheel = factory.wheel
        self.address = address
        self.streams: dict[int, Http2Stream] = {}
        self._bodies = factory.site.bodies
        # Requests that are not authorized yet and whose bodies may be incomplete.
        self._undecided: list[Http2Stream] = []
        self._respond = factory.handler.responder(getattr(address, "host", None))
        self._reader = frames.FrameReader()
        self._encoder = HeadWriter()
        self._writer: SocketWriter
        self._heads: HeadReader
        # An incomplete field block: its stream, its parts, whether the stream ends with it.
        self._block: tuple[int, list[bytes], bool] | None = None
        self._last = 0
        self._reset: deque[int] = deque(maxlen=_RESETS)
        # The client's limits: window of the connection, of a new stream, size of a frame.
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.MAX_FRAME
        self._received = 0
        # Gathered frames, and their size in bytes.
        self._out: list[bytes] = []
        self._size = 0
        # Streams with bytes to send, in turn, and the unsent bytes of all responses.
        self._sending: dict[int, Http2Stream] = {}
        self._unsent = 0
        # Streams whose producers may need to be paused or resumed.
        self._streaming: dict[int, Http2Stream] = {}
        # GETs that wait for other responses, and the number of running catch-up reads.
        self._waiting: deque[Http2Stream] = deque()
        self._catch_ups = 0
        self._resets = TokenBucket(limits.RESET_BURST, limits.RESET_RATE)
        self._idle_frames = TokenBucket(limits.IDLE_FRAME_BURST, limits.IDLE_FRAME_RATE)
        self._blocked = self._paused = False
        self._working = self._will_flush = self._will_read = False
        self._draining = self._over = False
        # Since when there is no stream, a head is incomplete, the transport is full (seconds).
        self._idle_since = self._head_since = self._blocked_since = 0.0
        self._moved = 0
        self._settings_received = False

    # -- Protocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Send the server's settings and start the timeout of the client's preface."""
        factory = self._factory
        factory.connections.add(self)
        self._writer = writer = SocketWriter(self.transport)
        self.secure = writer.secure
        self._heads = HeadReader(
            HeadContext(
                factory.root,
                factory.settings.max_body,
                writer.secure,
                factory.settings.trust_proxy,
                writer.local_address(),
            )
        )
        self.transport.registerProducer(self, True)
        now = factory.clock.seconds()
        self._idle_since = self._head_since = now
        self._wheel.schedule(self, now + factory.settings.head_timeout)
        self._out.append(_OPENING)
        self._flush_now()

    def dataReceived(self, data: bytes) -> None:
        """Process received bytes."""
        if self._over:
            return
        self._reader.feed(data)
        if not self._will_read:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop all streams and timers."""
        self._over = True
        self._close_streams()
        self._factory.connections.discard(self)
        self._wheel.cancel(self)

    # -- IPushProducer, for the transport -------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop sending: the transport is full."""
        self._blocked = True
        self._blocked_since = self._factory.clock.seconds()
        self._moved = self._writer.unsent
        self._pause_reading()
        self._check_after(limits.SEND_TIMEOUT)
        self._flush_now()

    def resumeProducing(self) -> None:
        """Send again: the transport is empty."""
        self._blocked = False
        self._flush_now()
        self._pause_reading()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` comes next."""

    # -- for the site ---------------------------------------------------------------------------

    def drain(self) -> None:
        """Send GOAWAY, and close the connection after the last response."""
        if not self._draining and not self._over:
            self._draining = True
            self._put(frames.goaway(self._last, Code.NO_ERROR))
            self._flush_now()
            if not self.streams:
                self._close(Code.NO_ERROR, tell=False)

    def abort(self) -> None:
        """Reset the connection."""
        self._over = True
        self._close_streams()
        self._writer.abort()

    # -- reading --------------------------------------------------------------------------------

    def _read(self) -> None:
        """Process received frames: all, or as many as one turn of the reactor may."""
        reader = self._reader
        with self._guarded():
            left = limits.FRAMES_PER_TURN
            while left > 0:
                frame = reader.next()
                if frame is None:
                    break
                self._take(frame)
                if self._over:
                    return
                left -= _COSTS.get(frame.kind, 1)
            else:
                self._will_read = True
                self._factory.later(self._read_on)
            if self._undecided:
                self._decide_all()
            self._flush()
            self._update_producers()
            self._watch_head()
        self._pause_reading()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Gather sent frames; close the connection on a `ConnectionFault` or an internal error."""
        working, self._working = self._working, True
        try:
            yield
        except ConnectionFault as fault:
            self._close(fault.code, fault.detail)
        except Exception:  # noqa: BLE001 - the caller, reactor or store, cannot handle it
            _log.failure("Error on an HTTP/2 connection, which is closed")
            self.abort()
        finally:
            self._working = working

    def _read_on(self) -> None:
        self._will_read = False
        if not self._over:
            self._read()

    def _pause_reading(self) -> None:
        if not self._over:
            self._set_paused(self._blocked or self._will_read)

    def _set_paused(self, paused: bool) -> None:
        if paused is self._paused:
            return
        self._paused = paused
        if paused:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def _watch_head(self) -> None:
        """Start or stop the timeout of an incomplete field block, or of a frame other than DATA."""
        reader = self._reader
        if not self._settings_received or self._block or (reader.pending and not reader.in_data):
            if not self._head_since:
                self._head_since = self._factory.clock.seconds()
                self._check_after(self._factory.settings.head_timeout)
        else:
            self._head_since = 0.0

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if self._block is not None and (
            kind != frames.CONTINUATION or frame.stream != self._block[0]
        ):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a field block is interrupted")
        if not self._settings_received:
            if kind != frames.SETTINGS or frame.flags & frames.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settings_received = True
        if kind == frames.HEADERS:
            self._take_headers(frame)
        elif kind == frames.DATA:
            self._take_data(frame)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window(frame)
        elif kind == frames.RST_STREAM:
            self._take_reset(frame)
        elif kind == frames.CONTINUATION:
            self._take_continuation(frame)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "clients do not push")
        else:
            self._count_idle_frame()
            if kind == frames.SETTINGS:
                self._take_settings(frame)
            elif kind == frames.PING:
                self._take_ping(frame)
            elif kind == frames.PRIORITY:
                self._take_priority(frame)
            elif kind == frames.GOAWAY and frame.stream:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a GOAWAY frame names a stream")

    def _count_idle_frame(self) -> None:
        if not self._idle_frames.take(self._wheel.now):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames without effect")

    def _count_reset(self) -> None:
        if not self._resets.take(self._wheel.now):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams are reset")

    # -- heads ----------------------------------------------------------------------------------

    def _take_headers(self, frame: Frame) -> None:
        number = frame.stream
        if not number & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS is not for a client's stream")
        block = frames.fragment(frame)
        ends = bool(frame.flags & frames.END_STREAM)
        if frame.flags & frames.END_HEADERS:
            self._head_complete(number, block, ends)
        else:
            self._block = (number, [block], ends)

    def _take_continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise ConnectionFault(
                Code.PROTOCOL_ERROR, "a CONTINUATION frame follows no unfinished field block"
            )
        number, parts, ends = self._block
        parts.append(frame.payload)
        if len(parts) > limits.MAX_CONTINUATIONS or sum(map(len, parts)) > limits.MAX_FIELD_BLOCK:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a field block is too large")
        if frame.flags & frames.END_HEADERS:
            self._block = None
            self._head_complete(number, b"".join(parts), ends)

    def _head_complete(self, number: int, block: bytes, ends: bool) -> None:
        if number <= self._last:
            self._trailers_complete(number, block, ends)
            return
        self._last = number
        if self._draining or len(self.streams) >= limits.MAX_STREAMS:
            # Clients retry a refused stream on another connection.
            self._heads.skip(block)
            self._put_reset(number, Code.REFUSED_STREAM)
            if not self._draining:
                self._count_reset()
            return
        try:
            head = self._heads.read(block)
        except Refused as refused:
            stream = self._open(number, None, ends)
            origin = refused.origin if isinstance(refused, refusals.RefusedHead) else None
            malformed = refused.refusal.problem is Problem.MALFORMED_REQUEST
            self._refuse(stream, refused.refusal, origin, malformed)
            return
        stream = self._open(number, head, ends)
        max_body = self._factory.settings.max_body
        if head.refusal is not None:
            self._refuse(stream, head.refusal)
        elif head.length > max_body:
            self._refuse(stream, body_too_large(max_body))
        elif ends:
            self._end_body(stream)
        else:
            self._undecided.append(stream)

    def _open(self, number: int, head: RequestHead | None, ends: bool) -> Http2Stream:
        stream = Http2Stream(self, number, head, self._stream_window, complete=ends)
        self.streams[number] = stream
        return stream

    def _trailers_complete(self, number: int, block: bytes, ends: bool) -> None:
        fields = self._heads.skip(block)
        stream = self.streams.get(number)
        if stream is None:
            self._closed(number)
        elif stream.complete:
            self._count_reset()
            self.reset(stream, Code.STREAM_CLOSED)
        elif not ends or any(name.startswith(b":") for name, _ in fields):
            self._refuse(stream, refusals.BAD_TRAILER, malformed=True)
        else:
            self._end_body(stream)

    def _check_opened(self, number: int, kind: str) -> None:
        """Raise `ConnectionFault` for a frame of a stream that the client has not opened yet."""
        if not number & 1 or number > self._last:
            detail = f"a {kind} frame names a stream that was never opened"
            raise ConnectionFault(Code.PROTOCOL_ERROR, detail)

    def _closed(self, number: int) -> None:
        """Raise `ConnectionFault` for a frame of a closed stream that the server did not reset."""
        if number not in self._reset:
            raise ConnectionFault(Code.STREAM_CLOSED, "a frame is for a closed stream")

    # -- bodies ---------------------------------------------------------------------------------

    def _take_data(self, frame: Frame) -> None:
        number = frame.stream
        data = frames.unpadded(frame)
        size = len(frame.payload)
        stream = self.streams.get(number)
        self._received += size
        if self._received > limits.RECEIVE_WINDOW:
            raise ConnectionFault(
                Code.FLOW_CONTROL_ERROR, "DATA exceeds the window of the connection"
            )
        if self._received >= limits.RECEIVE_WINDOW // 2:
            self._put(frames.window_update(0, self._received))
            self._received = 0
        ends = bool(frame.flags & frames.END_STREAM)
        if not data and not ends:
            self._count_idle_frame()
        if stream is None:
            self._check_opened(number, "DATA")
            self._closed(number)
            return
        if stream.complete:
            self._count_reset()
            self.reset(stream, Code.STREAM_CLOSED)
            return
        stream.received += size
        if stream.received > limits.RECEIVE_WINDOW:
            self._count_reset()
            self.reset(stream, Code.FLOW_CONTROL_ERROR)
            return
        if stream.responded:
            # Responded to early: the rest of the body is discarded.
            stream.complete = ends
            return
        if data:
            self._receive(stream, data)
            if stream.responded:
                return
        if ends:
            self._end_body(stream)
        elif not stream.deciding:
            self._open_window(stream)

    def _open_window(self, stream: Http2Stream) -> None:
        """Open the window of a stream by the bytes that were received."""
        if stream.received >= limits.RECEIVE_WINDOW // 2:
            self._put(frames.window_update(stream.id, stream.received))
            stream.received = 0

    def _receive(self, stream: Http2Stream, data: bytes) -> None:
        stream.body += data
        stream.since, stream.moved = self._wheel.now, 0
        size = len(stream.body)
        length = stream.head.length
        if size > self._factory.settings.max_body:
            self._refuse(stream, body_too_large(self._factory.settings.max_body))
        elif 0 < length < size:
            self._refuse(stream, refusals.WRONG_LENGTH, malformed=True)
        elif not self._bodies.account(stream, size, arriving=True):
            stream.refuse_body()

    def refuse_body(self, stream: Http2Stream) -> None:
        """Refuse an incomplete body, to free memory for others."""
        self._refuse(stream, refusals.BODY_MEMORY_EXHAUSTED)
        self._flush_soon()

    def _end_body(self, stream: Http2Stream) -> None:
        stream.complete = True
        if stream.responded or stream.deciding:
            return
        length = stream.head.length
        given = b"content-length" in stream.head.headers
        if given and length != CHUNKED and length != len(stream.body):
            self._refuse(stream, refusals.WRONG_LENGTH, malformed=True)
        else:
            self._complete(stream)

    def _release(self, stream: Http2Stream) -> None:
        """Free the body of a request that was responded to."""
        stream.body = bytearray()
        if stream.held:
            self._bodies.account(stream, 0, arriving=False)

    # -- decisions on heads ---------------------------------------------------------------------

    def _decide_all(self) -> None:
        """Authorize requests whose bodies did not arrive with their heads."""
        undecided, self._undecided = self._undecided, []
        for stream in undecided:
            if stream.receiving and not stream.over:
                self._decide(stream)

    def _decide(self, stream: Http2Stream) -> None:
        stream.since = self._factory.clock.seconds()
        self._check_after(self._factory.settings.body_timeout)
        head = stream.head
        if not head.is_stream:
            self._admit(stream)
            return
        request = head.with_body(b"")
        host = getattr(self.address, "host", None)
        decision = self._factory.handler.decide(host, request)
        if not isinstance(decision, Deferred):
            self._decided(stream, decision)
            return
        stream.deciding = True
        stream.pending = decision
        decision.addCallbacks(self._decided_later, self._failed_to_decide, (stream,), {}, (stream,))

    def _decided(self, stream: Http2Stream, decision: Decision) -> None:
        if isinstance(decision, Response):
            self._release(stream)
            self._send_response(stream, decision)
        else:
            stream.admitted = decision
            self._admit(stream)

    def _admit(self, stream: Http2Stream) -> None:
        """Receive the body of an authorized request: send 100 Continue and open its window."""
        if stream.head.expects_continue and not stream.body and not stream.complete:
            self._put(frames.headers(stream.id, CONTINUE, end=False))
        self._open_window(stream)

    def _decided_later(self, decision: Decision, stream: Http2Stream) -> None:
        stream.deciding = False
        stream.pending = None
        if stream.over:
            return
        with self._guarded():
            self._decided(stream, decision)
            if stream.complete and not stream.responded:
                self._end_body(stream)
        self._flush_soon()

    def _failed_to_decide(self, failure: Failure, stream: Http2Stream) -> None:
        if not stream.over:
            decision = self._factory.handler.error_response(failure, stream.origin)
            self._decided_later(decision, stream)

    # -- requests and responses ------------------------------------------------------------------

    def _complete(self, stream: Http2Stream) -> None:
        """Execute a complete request, or queue a GET."""
        if stream.head.method == b"GET" and (self._waiting or not self._may_execute(stream)):
            self._waiting.append(stream)
            return
        self._execute(stream)

    def _may_execute(self, stream: Http2Stream) -> bool:
        """Return whether a GET may be executed now, given the unsent bytes of other responses."""
        if self._unsent >= limits.MAX_UNSENT:
            return False
        stream.catch_up = stream.head.is_stream and b"live=" not in stream.head.query
        return not stream.catch_up or self._catch_ups < limits.MAX_CATCH_UPS

    def _start_waiting(self) -> None:
        waiting = self._waiting
        while waiting and not self._over:
            stream = waiting[0]
            if not stream.over and not self._may_execute(stream):
                return
            waiting.popleft()
            if not stream.over:
                self._execute(stream)

    def _execute(self, stream: Http2Stream) -> None:
        head = stream.head
        body = b""
        if stream.body:
            body, stream.body = bytes(stream.body), bytearray()
            held = len(body) if len(body) >= limits.LARGE_BODY else 0
            self._bodies.account(stream, held, arriving=False)
        if not head.is_stream:
            stream.request = channel = RequestChannel(stream, self._factory.site)
            channel.execute(body)
            return
        request = head.with_body(body)
        respond, stream.admitted = stream.admitted or self._respond, None
        result = respond(request)
        if isinstance(result, Response):
            self._send_response(stream, result)
            return
        stream.pending = result
        if stream.catch_up:
            self._catch_ups += 1

        result.addCallbacks(
            lambda response: self._response_ready(stream, response),
            lambda failure: self._response_failed(stream, failure),
        )

    def _response_ready(self, stream: Http2Stream, response: Response) -> None:
        if stream.catch_up and stream.pending is not None:
            self._catch_ups -= 1
        stream.pending = None
        if stream.over:
            return
        with self._guarded():
            self._send_response(stream, response)
        self._flush_soon()

    def _response_failed(self, stream: Http2Stream, failure: Failure) -> None:
        if stream.over:
            return
        try:
            response = self._factory.handler.error_response(failure, stream.origin)
        except Exception:  # noqa: BLE001 - a cancelled request whose client still waits
            _log.failure("Error in an HTTP/2 request, which is reset")
            self.reset(stream, Code.INTERNAL_ERROR)
        else:
            self._response_ready(stream, response)

    def _refuse(
        self,
        stream: Http2Stream,
        refusal: Refusal,
        origin: bytes | None = None,
        malformed: bool = False,
    ) -> None:
        """Refuse a request. A ``malformed`` one also resets its stream (RFC 9113 §8.1.1)."""
        self._release(stream)
        if malformed:
            self._count_reset()
            stream.complete = True
        self._send_response(stream, self._factory.handler.refuse(refusal, origin or stream.origin))
        if malformed:
            while stream.id in self._sending and self._flush_one(stream):
                pass
            self._put_reset(stream.id, Code.PROTOCOL_ERROR)
            self._close_stream(stream)

    def _send_response(self, stream: Http2Stream, response: Response) -> None:
        body = response.body
        if isinstance(body, bytes):
            if response.status in NO_BODY:
                length, body = None, b""
            elif stream.bodiless:
                # A handler that returns no body for HEAD does not know the length of the GET.
                length, body = len(body) or None, b""
            else:
                length = len(body)
            if self.begin(stream, response, length, end=not body) and body:
                stream.put(body)
                self._unsent += len(body)
                self.finish(stream)
        elif isinstance(body, StreamedBody):
            if self.begin(stream, response, body.size):
                stream.follow(body.follow)
        elif self.begin(stream, response, None):
            stream.follow(body)

    def begin(
        self, stream: Http2Stream, response: Response, length: int | None, end: bool = False
    ) -> bool:
        """Send the head of a response; ``end`` is true if it has no body.

        Returns False if the head was invalid and a 500 response was sent instead.
        """
        number = stream.id
        try:
            block = self._encoder.write(
                response.status, response.own, response.common, length, self._factory.date
            )
        except InvalidHeader:
            failed = self._factory.handler.error_response(Failure(), stream.origin)
            self._send_response(stream, failed)
            return False
        stream.responded = True
        self._put(frames.headers(number, block, end))
        if end:
            self._sent(stream)
        return True

    def send(self, stream: Http2Stream, data: bytes) -> None:
        """Send bytes of a streamed body."""
        stream.put(data)
        self._unsent += len(data)
        self._sending[stream.id] = stream
        if stream.unsent == len(data):
            self._restart_send_timeout(stream)
        stream.update_producer(self._blocked or self._window <= 0)
        self._streaming[stream.id] = stream
        self._flush_soon()

    def finish(self, stream: Http2Stream) -> None:
        """End a body after its unsent bytes."""
        stream.ending = True
        self._sending[stream.id] = stream
        if stream.unsent:
            self._restart_send_timeout(stream)
        self._flush_soon()

    def _restart_send_timeout(self, stream: Http2Stream) -> None:
        stream.since = self._wheel.now
        stream.moved = stream.unsent

    def reset(self, stream: Http2Stream, code: Code) -> None:
        """Reset a stream: its response stays incomplete."""
        self._put_reset(stream.id, code)
        self._close_stream(stream)
        self._flush_soon()

    def _sent(self, stream: Http2Stream) -> None:
        """Close a stream after its response. The rest of its request is refused."""
        if not stream.complete:
            self._put_reset(stream.id, Code.NO_ERROR)
        self._close_stream(stream)

    def _close_stream(self, stream: Http2Stream) -> None:
        number = stream.id
        if self.streams.pop(number, None) is None:
            return
        self._sending.pop(number, None)
        self._streaming.pop(number, None)
        self._unsent -= stream.unsent
        self._release(stream)
        if stream.catch_up and stream.pending is not None:
            self._catch_ups -= 1
        stream.stop()
        if not self.streams:
            self._idle_since = self._wheel.now
            if self._draining and not self._over:
                self._factory.later(self._close_drained)
        if self._waiting:
            self._flush_soon()

    def _close_drained(self) -> None:
        if not self._over and not self.streams:
            self._flush_now()
            self._close(Code.NO_ERROR, tell=False)

    # -- sending --------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)

    def _put_reset(self, number: int, code: Code) -> None:
        self._put(frames.rst_stream(number, code))
        self._reset.append(number)

    def _flush_soon(self) -> None:
        """Send gathered frames: now if there is one stream, otherwise at the end of this turn.

        Do nothing inside `_guarded`, whose caller sends them.
        """
        if self._will_flush or self._over or self._working:
            return
        if len(self.streams) <= 1 and not self._waiting:
            self._flush_now()
        else:
            self._will_flush = True
            self._factory.later(self._flush_now)

    def _flush_now(self) -> None:
        self._will_flush = False
        if self._over or self._working:
            return
        with self._guarded():
            self._flush()
            self._update_producers()

    def _update_producers(self) -> None:
        """Pause and resume producers and start queued GETs, by the windows and the transport."""
        for _ in range(_ROUNDS):
            if self._over:
                return
            shut = self._blocked or self._window <= 0
            self._start_waiting()
            for stream in list(self._streaming.values()):
                if not stream.update_producer(shut):
                    self._streaming.pop(stream.id, None)
            if self._blocked or (not self._out and (shut or not self._sending)):
                return
            self._flush()
        if not self._blocked and not self._will_flush:
            self._will_flush = True
            self._factory.later(self._flush_now)

    def _flush(self) -> None:
        """Write what the windows and the transport allow, streams taking turns."""
        while not self._blocked and not self._over:
            moved = False
            for stream in list(self._sending.values()):
                if not self._flush_one(stream):
                    continue
                moved = True
                if self._size >= _WRITE:
                    self._write()
                    if self._blocked:
                        return
            if not moved:
                break
        self._write()

    def _flush_one(self, stream: Http2Stream) -> bool:
        """Gather one DATA frame of a stream; return False if the windows do not allow it."""
        unsent = stream.unsent
        size = min(unsent, stream.window, self._window, self._max_frame)
        if size <= 0 and (unsent or not stream.ending):
            if not unsent or stream.window <= 0:
                del self._sending[stream.id]
            return False
        if size < unsent and size < limits.SMALL_PIECE:
            self._count_idle_frame()
        ends = stream.ending and size == unsent
        flags = frames.END_STREAM if ends else 0
        self._out.append(frames.head(size, frames.DATA, flags, stream.id))
        if size:
            self._out.append(stream.take(size))
            stream.window -= size
            self._window -= size
            self._unsent -= size
        self._size += size + frames.FRAME_HEAD
        if ends:
            self._sent(stream)
        elif not stream.unsent:
            del self._sending[stream.id]
        return True

    def _write(self) -> None:
        out = self._out
        if out and not self._blocked:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._out = []
            self._size = 0
            self.transport.write(data)

    # -- other frames ---------------------------------------------------------------------------

    def _take_window(self, frame: Frame) -> None:
        increment = frames.number(frame.payload) & frames.MAX_WINDOW
        number = frame.stream
        if not number:
            self._window += increment
            if not increment or self._window > frames.MAX_WINDOW:
                code = Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR
                raise ConnectionFault(
                    code, "a WINDOW_UPDATE has an increment of 0 or exceeds the largest window"
                )
            return
        stream = self.streams.get(number)
        if stream is None:
            # A frame of a closed stream was under way.
            self._check_opened(number, "WINDOW_UPDATE")
            return
        stream.window += increment
        if not increment or stream.window > frames.MAX_WINDOW:
            self._count_reset()
            self.reset(stream, Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR)
        elif stream.unsent or stream.ending:
            self._sending[number] = stream

    def _take_reset(self, frame: Frame) -> None:
        number = frame.stream
        frames.number(frame.payload)
        self._check_opened(number, "RST_STREAM")
        self._count_reset()
        stream = self.streams.get(number)
        if stream is not None:
            self._close_stream(stream)

    def _take_settings(self, frame: Frame) -> None:
        if frame.stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS is not for a stream")
        if frame.flags & frames.ACK:
            if frame.payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement has a payload")
            return
        settings = frames.read_settings(frame.payload)
        if len(settings) > limits.MAX_SETTINGS:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many settings")
        for name, value in settings:
            if name == frames.INITIAL_WINDOW_SIZE:
                self._change_windows(value)
            elif name == frames.MAX_FRAME_SIZE:
                self._max_frame = min(value, _WRITE)
            elif name == frames.HEADER_TABLE_SIZE:
                self._encoder.limit_table(value)
        self._put(frames.SETTINGS_ACK)

    def _change_windows(self, size: int) -> None:
        change = size - self._stream_window
        self._stream_window = size
        for stream in self.streams.values():
            stream.window += change
            if stream.window > frames.MAX_WINDOW:
                raise ConnectionFault(
                    Code.FLOW_CONTROL_ERROR, "a window exceeds the largest window"
                )
            if stream.unsent or stream.ending:
                self._sending[stream.id] = stream

    def _take_ping(self, frame: Frame) -> None:
        if frame.stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING is not for a stream")
        if len(frame.payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a PING frame has the wrong length")
        if not frame.flags & frames.ACK:
            self._put(frames.ping_ack(frame.payload))

    def _take_priority(self, frame: Frame) -> None:
        if not frame.stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a PRIORITY frame names no stream")
        if len(frame.payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a PRIORITY frame has the wrong length")
        frames.check_priority(frame.stream, frame.payload)

    # -- timeouts -------------------------------------------------------------------------------

    def _check_after(self, seconds: float) -> None:
        self._wheel.schedule(self, self._factory.clock.seconds() + seconds)

    def check_deadline(self, now: float) -> float:
        """Act on timeouts that have passed; return the time of the next check."""
        if self._over:
            self._writer.abort()
            return 0.0
        try:
            return self._check_times(now)
        except ConnectionFault as fault:
            self._close(fault.code, fault.detail)
            return now + limits.LINGER

    def _check_times(self, now: float) -> float:
        settings = self._factory.settings
        due = now + limits.SEND_TIMEOUT
        if self._blocked:
            unsent = self._writer.unsent
            if unsent < self._moved:
                self._blocked_since, self._moved = now, unsent
            elif now - self._blocked_since >= limits.SEND_TIMEOUT:
                self.abort()
                return 0.0
            due = min(due, self._blocked_since + limits.SEND_TIMEOUT)
        if self._head_since:
            end = self._head_since + settings.head_timeout
            if now >= end:
                self._close(Code.NO_ERROR, "the head timed out")
                return now + limits.LINGER
            due = min(due, end)
        if not self.streams:
            end = self._idle_since + settings.idle_timeout
            if now >= end:
                self._close(Code.NO_ERROR)
                return now + limits.LINGER
            self._heads.forget()
            due = min(due, end)
        for stream in list(self.streams.values()):
            due = min(due, self._check_stream(stream, now))
        self._flush_now()
        return due

    def _check_stream(self, stream: Http2Stream, now: float) -> float:
        passed = now - stream.since
        if stream.receiving:
            timeout = self._factory.settings.body_timeout
            if self._reader.in_data == stream.id and self._reader.pending > stream.moved:
                # An incomplete DATA frame has grown.
                stream.since, stream.moved = now, self._reader.pending
            elif passed >= timeout:
                self._refuse(stream, refusals.REQUEST_TIMEOUT)
                return now + limits.SEND_TIMEOUT
            return min(stream.since + timeout, now + limits.SEND_TIMEOUT)
        if stream.unsent and not self._blocked:
            if passed >= limits.SEND_TIMEOUT:
                if stream.moved - stream.unsent < limits.SEND_RATE * passed:
                    self.reset(stream, Code.CANCEL)
                    return now + limits.SEND_TIMEOUT
                self._restart_send_timeout(stream)
            return stream.since + limits.SEND_TIMEOUT
        return now + limits.SEND_TIMEOUT

    # -- ends -----------------------------------------------------------------------------------

    def _close(self, code: Code, detail: str = "", tell: bool = True) -> None:
        """Close the connection; ``tell`` is true to send a GOAWAY frame first."""
        if self._over:
            return
        self._over = True
        if tell:
            self._out.append(frames.goaway(self._last, code, detail))
        self._close_streams()
        self._blocked = self._will_read = False
        self._write()
        # Stop reading from a client that violated the protocol: its frames could still cost work.
        # Read from others until they close TLS.
        self._set_paused(code is not Code.NO_ERROR)
        self._check_after(limits.LINGER)
        self._writer.close(linger=False, hang_up=self._draining)

    def _close_streams(self) -> None:
        """Stop all streams: no further response can be sent."""
        streams = list(self.streams.values())
        self._waiting.clear()
        for stream in streams:
            self._close_stream(stream)
        self._reader = frames.FrameReader()
        self._block = None
