"""HTTP/2 connections (RFC 9113), between frames and the stream operations.

A connection of our own, since twisted.web's has neither timeouts nor bounds, and since most of
what a small request cost there was h2's bookkeeping. The rules are those of the fast channel:

1. One connection must not hurt the others: a turn of the reactor reads `FRAMES_PER_TURN` frames
   of it, and what it may hold, reset or send in vain is bounded (`protocol.limits`).
2. Requests are carried out as they come; their answers take turns, frame by frame.
3. Nothing is read from a client whose transport is full. An answer whose window is shut waits,
   and its producer is paused.
4. Whatever does not move for too long is given up: a head, a body, an answer, a connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler
from durable_streams_tw.http.http2 import frames as frames
from durable_streams_tw.http.http2.frames import Code, ConnectionFault, Frame
from durable_streams_tw.http.http2.heads import CONTINUE, HeadReader, HeadWriter
from durable_streams_tw.http.http2.resource import RequestChannel, ResourceSite
from durable_streams_tw.http.http2.stream import Http2Stream
from durable_streams_tw.http.messages import NO_BODY, InvalidHeader, Response, StreamedBody
from durable_streams_tw.http.problems import body_too_large
from durable_streams_tw.http.refusals import (
    BAD_TRAILER,
    BODY_MEMORY_EXHAUSTED,
    REQUEST_TIMEOUT,
    WRONG_LENGTH,
    RefusedHead,
)
from durable_streams_tw.http.request_head import CHUNKED, HeadContext, RequestHead
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.socket_writer import SocketWriter
from durable_streams_tw.http.timer_wheel import TimerWheel
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

_log: Final = Logger()


# What is sent before anything else. No priorities (RFC 9218 §2.1.1) and no push.
_OPENING: Final = frames.settings(
    (frames.MAX_CONCURRENT_STREAMS, limits.MAX_STREAMS),
    (frames.INITIAL_WINDOW_SIZE, limits.RECEIVE_WINDOW),
    (frames.MAX_HEADER_LIST_SIZE, limits.MAX_HEAD),
) + frames.window_update(0, limits.RECEIVE_WINDOW - frames.DEFAULT_WINDOW)

# How many bytes are given to the transport at a time: it says so when it is full.
_WRITE: Final = 64 * limits.KIB

# How many identifiers of streams that the server has reset are remembered: frames for them may
# still be on their way.
_RESETS: Final = 256

# What frames count for in a turn of the reactor, those that are not mentioned one.
_COSTS: Final = {
    frames.HEADERS: limits.REQUEST_COST,
    frames.RST_STREAM: limits.RESET_COST,
}

# How often producers are resumed and their bytes sent in one turn of the reactor.
_ROUNDS: Final = 4


class Allowance:
    """How often a client may do what costs the server and gains nobody."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._left = float(burst)
        self._rate = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Count one; return False if the client has used its allowance up."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        self._left -= 1
        return self._left >= 0


class Http2Factory:
    """Makes the HTTP/2 connections of one `StreamSite`, and bounds them together.

    ``operations`` answer requests for streams below ``root``, a raw path with a slash at both
    ends. All others go to the resources of ``site``. ``wall`` (default: ``clock``) returns seconds
    since the Unix epoch, for the Date of answers.
    """

    def __init__(
        self,
        operations: RequestHandler,
        site: ResourceSite,
        clock: IReactorTime,
        root: bytes,
        settings: Settings,
        wall: Seconds | None = None,
    ) -> None:
        self.operations = operations
        self.site = site
        self.settings = settings
        self.root = root
        self.clock = clock
        self.date = b""
        self._wall = wall or clock.seconds
        self.wheel = TimerWheel(clock, self._tick)
        self.connections: set[Http2Connection] = set()

    def buildProtocol(self, address: IAddress | None) -> Http2Connection:
        """Return the protocol of a connection on which the client has chosen HTTP/2."""
        return Http2Connection(self, address)

    def later(self, call: Callable[[], None]) -> None:
        """Call something in the next turn of the reactor."""
        self.clock.callLater(0, call)

    def drain(self) -> None:
        """Take no more requests, and close each connection when its last answer is sent."""
        for connection in list(self.connections):
            connection.drain()

    def cut(self) -> None:
        """End all connections at once."""
        for connection in list(self.connections):
            connection.cut()

    def _tick(self, now: float) -> None:
        self.date = formatdate(int(self._wall()), usegmt=True).encode("ascii")


@implementer(IPushProducer)
class Http2Connection(Protocol):
    """One HTTP/2 connection."""

    #: The wheel's.
    wheel_slot = 0

    transport: Any

    def __init__(self, factory: Http2Factory, address: IAddress | None) -> None:
        self._factory = factory
        self._wheel = factory.wheel
        self.address = address
        self.streams: dict[int, Http2Stream] = {}
        self._bodies = factory.site.bodies
        # Requests whose heads have come, and perhaps not their bodies.
        self._undecided: list[Http2Stream] = []
        self._respond = factory.operations.responder(getattr(address, "host", None))
        self._reader = frames.FrameReader()
        self._writer = HeadWriter()
        self._outlet: SocketWriter
        self._heads: HeadReader
        # A field block that is incomplete: its stream, its parts, whether the stream ends.
        self._block: tuple[int, list[bytes], bool] | None = None
        self._last = 0
        self._reset: deque[int] = deque(maxlen=_RESETS)
        # What the client allows: bytes on the connection, on a new stream, in a frame.
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.MAX_FRAME
        self._credit = 0
        # Frames to be sent, and how many bytes they are.
        self._out: list[bytes] = []
        self._size = 0
        # Streams that have something to send, in turn; bytes of all answers that are unsent.
        self._sending: dict[int, Http2Stream] = {}
        self._unsent = 0
        # Streams whose producers may have to be paused or resumed.
        self._lively: dict[int, Http2Stream] = {}
        # GETs that wait for room, and catch-up reads that are under way.
        self._waiting: deque[Http2Stream] = deque()
        self._catch_ups = 0
        self._resets = Allowance(limits.RESET_BURST, limits.RESET_RATE)
        self._idle_frames = Allowance(limits.IDLE_FRAME_BURST, limits.IDLE_FRAME_RATE)
        self._stalled = self._paused = False
        self._working = self._will_flush = self._will_read = False
        self._draining = self._over = False
        # Since when: nothing has been open, a head is incomplete, the transport is full.
        self._idle_since = self._head_since = self._stalled_since = 0.0
        self._moved = 0
        self._settled = False

    # -- Protocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin the connection with the server's settings."""
        factory = self._factory
        factory.connections.add(self)
        self._outlet = outlet = SocketWriter(self.transport)
        self.secure = outlet.secure
        self._heads = HeadReader(
            HeadContext(
                factory.root,
                factory.settings.max_body,
                outlet.secure,
                factory.settings.trust_proxy,
                outlet.local_address(),
            )
        )
        self.transport.registerProducer(self, True)
        now = factory.clock.seconds()
        self._idle_since = self._head_since = now
        self._wheel.schedule(self, now + factory.settings.head_timeout)
        self._out.append(_OPENING)
        self._flush_now()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._over:
            return
        self._reader.feed(data)
        if not self._will_read:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let go of everything: the connection has ended."""
        self._over = True
        self._let_go()
        self._factory.connections.discard(self)
        self._wheel.cancel(self)

    # -- IPushProducer, for the transport -------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop sending: the transport is full."""
        self._stalled = True
        self._stalled_since = self._factory.clock.seconds()
        self._moved = self._outlet.unsent
        self._pause_reading()
        self._look(limits.SEND_TIMEOUT)
        self._flush_now()

    def resumeProducing(self) -> None:
        """Send again: the transport is empty."""
        self._stalled = False
        self._flush_now()
        self._pause_reading()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` comes next."""

    # -- for the site ---------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more requests, and close when the last answer is sent."""
        if not self._draining and not self._over:
            self._draining = True
            self._put(frames.goaway(self._last, Code.NO_ERROR))
            self._flush_now()
            if not self.streams:
                self._close(Code.NO_ERROR, tell=False)

    def cut(self) -> None:
        """End the connection at once."""
        self._over = True
        self._let_go()
        self._outlet.abort()

    # -- reading --------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the frames that have come: all, or as many as a turn of the reactor may take."""
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
            self._settle_all()
            self._watch_head()
        self._pause_reading()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Gather what is sent meanwhile; end the connection if the client or a bug breaks it."""
        working, self._working = self._working, True
        try:
            yield
        except ConnectionFault as fault:
            self._close(fault.code, fault.detail)
        except Exception:  # noqa: BLE001 - the reactor, or the store, could do nothing about it
            _log.failure("An HTTP/2 connection has met a bug, and ends")
            self.cut()
        finally:
            self._working = working

    def _read_on(self) -> None:
        self._will_read = False
        if not self._over:
            self._read()

    def _pause_reading(self) -> None:
        full = self._stalled or self._will_read
        if full is not self._paused and not self._over:
            self._paused = full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _watch_head(self) -> None:
        """Note since when a frame other than DATA, or a field block, is incomplete."""
        reader = self._reader
        if not self._settled or self._block or (reader.pending and not reader.in_data):
            if not self._head_since:
                self._head_since = self._factory.clock.seconds()
                self._look(self._factory.settings.head_timeout)
        else:
            self._head_since = 0.0

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if self._block is not None and (
            kind != frames.CONTINUATION or frame.stream != self._block[0]
        ):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a field block is interrupted")
        if not self._settled:
            if kind != frames.SETTINGS or frame.flags & frames.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settled = True
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
                raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY is not for a stream")

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
            self._head_came(number, block, ends)
        else:
            self._block = (number, [block], ends)

    def _take_continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION follows no field block")
        number, parts, ends = self._block
        parts.append(frame.payload)
        if len(parts) > limits.MAX_CONTINUATIONS or sum(map(len, parts)) > limits.MAX_FIELD_BLOCK:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a field block is too large")
        if frame.flags & frames.END_HEADERS:
            self._block = None
            self._head_came(number, b"".join(parts), ends)

    def _head_came(self, number: int, block: bytes, ends: bool) -> None:
        if number <= self._last:
            self._trailers_came(number, block, ends)
            return
        self._last = number
        if self._draining:
            # Clients that have read the GOAWAY frame send the request elsewhere.
            self._heads.skip(block)
            self._put(frames.rst_stream(number, Code.REFUSED_STREAM))
            self._reset.append(number)
            return
        if len(self.streams) >= limits.MAX_STREAMS:
            self._heads.skip(block)
            self._put(frames.rst_stream(number, Code.REFUSED_STREAM))
            self._reset.append(number)
            self._count_reset()
            return
        try:
            head = self._heads.read(block)
        except Refused as refused:
            stream = self._open(number, None, ends)
            origin = refused.origin if isinstance(refused, RefusedHead) else None
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
        stream = Http2Stream(self, number, head, self._stream_window)
        stream.whole = ends
        self.streams[number] = stream
        return stream

    def _trailers_came(self, number: int, block: bytes, ends: bool) -> None:
        fields = self._heads.skip(block)
        stream = self.streams.get(number)
        if stream is None:
            self._closed(number)
        elif stream.whole:
            self._count_reset()
            self.reset(stream, Code.STREAM_CLOSED)
        elif not ends or any(name.startswith(b":") for name, _ in fields):
            self._refuse(stream, BAD_TRAILER, malformed=True)
        else:
            self._end_body(stream)

    def _closed(self, number: int) -> None:
        """Judge a frame for a stream that is closed: one that the server reset is forgiven."""
        if number not in self._reset:
            raise ConnectionFault(Code.STREAM_CLOSED, "a frame is for a closed stream")

    # -- bodies ---------------------------------------------------------------------------------

    def _take_data(self, frame: Frame) -> None:
        number = frame.stream
        data = frames.unpadded(frame)
        size = len(frame.payload)
        stream = self.streams.get(number)
        self._credit += size
        if self._credit > limits.RECEIVE_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the window of the connection is shut")
        if self._credit >= limits.RECEIVE_WINDOW // 2:
            self._put(frames.window_update(0, self._credit))
            self._credit = 0
        ends = bool(frame.flags & frames.END_STREAM)
        if not data and not ends:
            self._count_idle_frame()
        if stream is None:
            if not number & 1 or number > self._last:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA is not for an open stream")
            self._closed(number)
            return
        if stream.whole:
            self._count_reset()
            self.reset(stream, Code.STREAM_CLOSED)
            return
        stream.credit += size
        if stream.credit > limits.RECEIVE_WINDOW:
            self._count_reset()
            self.reset(stream, Code.FLOW_CONTROL_ERROR)
            return
        if stream.answered:
            # Answered before the body came; what still comes is dropped.
            stream.whole = ends
            return
        if data:
            self._receive(stream, data)
            if stream.answered:
                return
        if ends:
            self._end_body(stream)
        elif not stream.deciding:
            self._open_window(stream)

    def _open_window(self, stream: Http2Stream) -> None:
        """Let the client send as much again as has come of a body."""
        if stream.credit >= limits.RECEIVE_WINDOW // 2:
            self._put(frames.window_update(stream.id, stream.credit))
            stream.credit = 0

    def _receive(self, stream: Http2Stream, data: bytes) -> None:
        stream.body += data
        stream.since, stream.moved = self._wheel.now, 0
        size = len(stream.body)
        length = stream.head.length
        if size > self._factory.settings.max_body:
            self._refuse(stream, body_too_large(self._factory.settings.max_body))
        elif 0 < length < size:
            self._refuse(stream, WRONG_LENGTH, malformed=True)
        elif not self._bodies.account(stream, size, arriving=True):
            stream.refuse_body()

    def refuse_body(self, stream: Http2Stream) -> None:
        """Refuse a body that is coming, to make room for others."""
        self._refuse(stream, BODY_MEMORY_EXHAUSTED)
        if not self._working:
            self._flush_soon()

    def _end_body(self, stream: Http2Stream) -> None:
        stream.whole = True
        if stream.answered:
            return
        if stream.deciding:
            return
        length = stream.head.length
        given = b"content-length" in stream.head.headers
        if given and length != CHUNKED and length != len(stream.body):
            self._refuse(stream, WRONG_LENGTH, malformed=True)
        else:
            self._complete(stream)

    def _release(self, stream: Http2Stream) -> None:
        """Free the body of a request that is answered."""
        stream.body = bytearray()
        if stream.held:
            self._bodies.account(stream, 0, arriving=False)

    # -- decisions on heads ---------------------------------------------------------------------

    def _decide_all(self) -> None:
        """Decide by their heads on requests whose bodies did not come with them."""
        undecided, self._undecided = self._undecided, []
        for stream in undecided:
            if stream.receiving and not stream.over:
                self._decide(stream)

    def _decide(self, stream: Http2Stream) -> None:
        stream.since = self._factory.clock.seconds()
        self._look(self._factory.settings.body_timeout)
        head = stream.head
        if not head.is_stream:
            self._admit(stream)
            return
        request = head.with_body(b"")
        host = getattr(self.address, "host", None)
        decision = self._factory.operations.decide(host, request)
        if not isinstance(decision, Deferred):
            self._decided(stream, decision)
            return
        stream.deciding = True
        stream.pending = decision
        decision.addCallbacks(self._decided_later, self._failed_to_decide, (stream,), {}, (stream,))

    def _decided(self, stream: Http2Stream, decision: Decision) -> None:
        if isinstance(decision, Response):
            self._release(stream)
            self._answer(stream, decision)
        else:
            stream.admitted = decision
            self._admit(stream)

    def _admit(self, stream: Http2Stream) -> None:
        """Let the body of a request come."""
        if stream.head.expects_continue and not stream.body and not stream.whole:
            self._put(frames.headers(stream.id, CONTINUE, end=False))
        self._open_window(stream)

    def _decided_later(self, decision: Decision, stream: Http2Stream) -> None:
        stream.deciding = False
        stream.pending = None
        if stream.over:
            return
        with self._guarded():
            self._decided(stream, decision)
            if stream.whole and not stream.answered:
                self._end_body(stream)
        if not self._working:
            self._flush_soon()

    def _failed_to_decide(self, failure: Failure, stream: Http2Stream) -> None:
        if not stream.over:
            decision = self._factory.operations.error_response(failure, stream.origin)
            self._decided_later(decision, stream)

    # -- requests and answers -------------------------------------------------------------------

    def _complete(self, stream: Http2Stream) -> None:
        """Carry out a request, or let a GET wait for its turn."""
        if stream.head.method == b"GET" and (self._waiting or not self._has_room(stream)):
            self._waiting.append(stream)
            return
        self._carry_out(stream)

    def _has_room(self, stream: Http2Stream) -> bool:
        """Whether the answer of a GET may be begun: each may be as long as ``max_chunk``."""
        if self._unsent >= limits.MAX_UNSENT:
            return False
        stream.catch_up = stream.head.is_stream and b"live=" not in stream.head.query
        return not stream.catch_up or self._catch_ups < limits.MAX_CATCH_UPS

    def _start_waiting(self) -> None:
        waiting = self._waiting
        while waiting and not self._over:
            stream = waiting[0]
            if stream.over:
                waiting.popleft()
            elif self._has_room(stream):
                waiting.popleft()
                self._carry_out(stream)
            else:
                return

    def _carry_out(self, stream: Http2Stream) -> None:
        head = stream.head
        body = b""
        if stream.body:
            body, stream.body = bytes(stream.body), bytearray()
            held = len(body) if len(body) >= limits.LARGE_BODY else 0
            self._bodies.account(stream, held, arriving=False)
        if not head.is_stream:
            stream.request = channel = RequestChannel(stream, self._factory.site)
            channel.carry_out(body)
            return
        request = head.with_body(body)
        respond, stream.admitted = stream.admitted or self._respond, None
        answer = respond(request)
        if isinstance(answer, Response):
            self._answer(stream, answer)
            return
        stream.pending = answer
        if stream.catch_up:
            self._catch_ups += 1

        def answered(response: Response) -> None:
            self._answer_came(stream, response)

        def failed(failure: Failure) -> None:
            self._answer_failed(stream, failure)

        answer.addCallbacks(answered, failed)

    def _answer_came(self, stream: Http2Stream, response: Response) -> None:
        if stream.catch_up and stream.pending is not None:
            self._catch_ups -= 1
        stream.pending = None
        if stream.over:
            return
        with self._guarded():
            self._answer(stream, response)
        if not self._working:
            self._flush_soon()

    def _answer_failed(self, stream: Http2Stream, failure: Failure) -> None:
        if stream.over:
            return
        try:
            response = self._factory.operations.error_response(failure, stream.origin)
        except Exception:  # noqa: BLE001 - a cancelled request whose client still waits
            _log.failure("An HTTP/2 request has met a bug, and is reset")
            self.reset(stream, Code.INTERNAL_ERROR)
        else:
            self._answer_came(stream, response)

    def _refuse(
        self,
        stream: Http2Stream,
        refusal: Refusal,
        origin: bytes | None = None,
        malformed: bool = False,
    ) -> None:
        """Answer a request before or in place of carrying it out.

        A ``malformed`` request is a stream error too (RFC 9113 §8.1.1).
        """
        self._release(stream)
        if malformed:
            self._count_reset()
            stream.whole = True
        self._answer(stream, self._factory.operations.refuse(refusal, origin or stream.origin))
        if malformed:
            while stream.id in self._sending and self._flush_one(stream):
                pass
            self._put(frames.rst_stream(stream.id, Code.PROTOCOL_ERROR))
            self._reset.append(stream.id)
            self._close_stream(stream)

    def _answer(self, stream: Http2Stream, response: Response) -> None:
        body = response.body
        if isinstance(body, bytes):
            if response.status in NO_BODY:
                length, body = None, b""
            elif stream.bodiless:
                # The length of a body that is not there is not known either.
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
        """Send the head of a response; ``end`` says that it has no body.

        Returns False if the head was torn and another response was sent in its place.
        """
        number = stream.id
        try:
            block = self._writer.write(
                response.status, response.own, response.common, length, self._factory.date
            )
        except InvalidHeader:
            failed = self._factory.operations.error_response(Failure(), stream.origin)
            self._answer(stream, failed)
            return False
        stream.answered = True
        self._put(frames.headers(number, block, end))
        if end:
            self._sent(stream)
        return True

    def send(self, stream: Http2Stream, data: bytes) -> None:
        """Send bytes of a body that goes on."""
        stream.put(data)
        self._unsent += len(data)
        self._sending[stream.id] = stream
        if stream.unsent == len(data):
            self._time_answer(stream)
        stream.settle(self._stalled or self._window <= 0)
        self._lively[stream.id] = stream
        if not self._working:
            self._flush_soon()

    def finish(self, stream: Http2Stream) -> None:
        """End a body after what is unsent."""
        stream.ending = True
        self._sending[stream.id] = stream
        if stream.unsent:
            self._time_answer(stream)
        if not self._working:
            self._flush_soon()

    def _time_answer(self, stream: Http2Stream) -> None:
        stream.since = self._wheel.now
        stream.moved = stream.unsent

    def reset(self, stream: Http2Stream, code: Code) -> None:
        """Reset a stream: its answer stays incomplete."""
        self._put(frames.rst_stream(stream.id, code))
        self._reset.append(stream.id)
        self._close_stream(stream)
        if not self._working:
            self._flush_soon()

    def _sent(self, stream: Http2Stream) -> None:
        """End a stream whose answer was sent: the rest of its request is not wanted."""
        if not stream.whole:
            self._put(frames.rst_stream(stream.id, Code.NO_ERROR))
            self._reset.append(stream.id)
        self._close_stream(stream)

    def _close_stream(self, stream: Http2Stream) -> None:
        number = stream.id
        if self.streams.pop(number, None) is None:
            return
        self._sending.pop(number, None)
        self._lively.pop(number, None)
        self._unsent -= stream.unsent
        self._release(stream)
        if stream.catch_up and stream.pending is not None:
            self._catch_ups -= 1
        stream.stop()
        if not self.streams:
            self._idle_since = self._wheel.now
            if self._draining and not self._over:
                self._factory.later(self._close_drained)
        if self._waiting and not self._working:
            self._flush_soon()

    def _close_drained(self) -> None:
        if not self._over and not self.streams:
            self._flush_now()
            self._close(Code.NO_ERROR, tell=False)

    # -- sending --------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)

    def _flush_soon(self) -> None:
        """Send what has been gathered: now, or after what else is answered in this turn."""
        if self._will_flush or self._over:
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
            self._settle_all()

    def _settle_all(self) -> None:
        """Pause and resume live bodies and start GETs, as the windows and the transport say."""
        for _ in range(_ROUNDS):
            if self._over:
                return
            shut = self._stalled or self._window <= 0
            self._start_waiting()
            for stream in list(self._lively.values()):
                if not stream.settle(shut):
                    self._lively.pop(stream.id, None)
            if self._stalled or (not self._out and (shut or not self._sending)):
                return
            self._flush()
        if not self._stalled and not self._will_flush:
            self._will_flush = True
            self._factory.later(self._flush_now)

    def _flush(self) -> None:
        """Write what the windows and the transport let through, streams taking turns."""
        while not self._stalled and not self._over:
            moved = False
            for stream in list(self._sending.values()):
                if not self._flush_one(stream):
                    continue
                moved = True
                if self._size >= _WRITE:
                    self._write()
                    if self._stalled:
                        return
            if not moved:
                break
        self._write()

    def _flush_one(self, stream: Http2Stream) -> bool:
        """Put one DATA frame of a stream out; return False if its windows do not let it."""
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
        if out and not self._stalled:
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
                raise ConnectionFault(code, "a window is opened by nothing, or too far")
            return
        stream = self.streams.get(number)
        if stream is None:
            if not number & 1 or number > self._last:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE is for no open stream")
            # The stream was closed while the frame was on its way.
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
        if not number & 1 or number > self._last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM is for no open stream")
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
                self._writer.limit_table(value)
        self._put(frames.SETTINGS_ACK)

    def _change_windows(self, size: int) -> None:
        change = size - self._stream_window
        self._stream_window = size
        for stream in self.streams.values():
            stream.window += change
            if stream.window > frames.MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is opened too far")
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
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY is for a stream")
        if len(frame.payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a PRIORITY frame has the wrong length")
        frames.check_priority(frame.stream, frame.payload)

    # -- timeouts -------------------------------------------------------------------------------

    def _look(self, seconds: float) -> None:
        self._wheel.schedule(self, self._factory.clock.seconds() + seconds)

    def check_deadline(self, now: float) -> float:
        """End what is overdue; return when to look again."""
        if self._over:
            self._outlet.abort()
            return 0.0
        try:
            return self._check_times(now)
        except ConnectionFault as fault:
            self._close(fault.code, fault.detail)
            return now + limits.LINGER

    def _check_times(self, now: float) -> float:
        settings = self._factory.settings
        due = now + limits.SEND_TIMEOUT
        if self._stalled:
            unsent = self._outlet.unsent
            if unsent < self._moved:
                self._stalled_since, self._moved = now, unsent
            elif now - self._stalled_since >= limits.SEND_TIMEOUT:
                self.cut()
                return 0.0
            due = min(due, self._stalled_since + limits.SEND_TIMEOUT)
        if self._head_since:
            end = self._head_since + settings.head_timeout
            if now >= end:
                self._close(Code.NO_ERROR, "a head did not come in time")
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
            due = min(due, self._visit_stream(stream, now))
        self._flush_now()
        return due

    def _visit_stream(self, stream: Http2Stream, now: float) -> float:
        passed = now - stream.since
        if stream.receiving:
            patience = self._factory.settings.body_timeout
            if self._reader.in_data == stream.id and self._reader.pending > stream.moved:
                # A frame that is incomplete goes on.
                stream.since, stream.moved = now, self._reader.pending
            elif passed >= patience:
                self._refuse(stream, REQUEST_TIMEOUT)
                return now + limits.SEND_TIMEOUT
            return min(stream.since + patience, now + limits.SEND_TIMEOUT)
        if stream.unsent and not self._stalled:
            if passed >= limits.SEND_TIMEOUT:
                if stream.moved - stream.unsent < limits.SEND_RATE * passed:
                    self.reset(stream, Code.CANCEL)
                    return now + limits.SEND_TIMEOUT
                self._time_answer(stream)
            return stream.since + limits.SEND_TIMEOUT
        return now + limits.SEND_TIMEOUT

    # -- ends -----------------------------------------------------------------------------------

    def _close(self, code: Code, detail: str = "", tell: bool = True) -> None:
        """End the connection after a GOAWAY frame."""
        if self._over:
            return
        self._over = True
        if tell:
            self._out.append(frames.goaway(self._last, code, detail))
        self._let_go()
        self._stalled = self._will_read = False
        self._write()
        # A client that broke a rule may send on: to read and drop that would cost as much as
        # before. Others are read from, to see the end of TLS.
        faulty = code is not Code.NO_ERROR
        if faulty is not self._paused:
            self._paused = faulty
            if faulty:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        self._look(limits.LINGER)
        self._outlet.close(linger=False, hang_up=self._draining)

    def _let_go(self) -> None:
        """Stop all streams: no answer can be sent any more."""
        streams = list(self.streams.values())
        self._waiting.clear()
        for stream in streams:
            self._close_stream(stream)
        self._reader = frames.FrameReader()
        self._block = None
