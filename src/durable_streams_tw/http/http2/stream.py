"""One HTTP/2 stream: a request and its answer."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.streams import Respond
from durable_streams_tw.http.http2.frames import Code
from durable_streams_tw.http.messages import BodyProducer, Follow, Response
from durable_streams_tw.http.request_head import RequestHead


class StreamConnection(Protocol):
    """Connection of a stream, as the stream and its twisted.web request use it."""

    transport: Any
    secure: bool

    def begin(
        self, stream: Http2Stream, response: Response, length: int | None, end: bool = False
    ) -> bool:
        """Send the head of a response; return False if another response was sent instead."""

    def send(self, stream: Http2Stream, data: bytes) -> None:
        """Send bytes of a streamed body."""

    def finish(self, stream: Http2Stream) -> None:
        """End a body after its unsent bytes."""

    def reset(self, stream: Http2Stream, code: Code) -> None:
        """Reset a stream."""

    def refuse_body(self, stream: Http2Stream) -> None:
        """Refuse an incomplete body."""


class ResourceRequest(Protocol):
    """Request that a twisted.web resource answers."""

    def pauseProducing(self) -> None:
        """Pause the producer of the body."""

    def resumeProducing(self) -> None:
        """Resume the producer of the body."""

    def lost(self) -> None:
        """Tell the resource that nothing more can be written."""


class Http2Stream:
    """A request that is coming in or being answered. It is the `Sink` of a live body.

    ``window`` is how many bytes the client lets the server send, ``credit`` how many bytes the
    client sent since its own window was last opened. ``since`` and ``moved`` are what the
    timeouts of the connection compare: a time, and a number of bytes.
    """

    __slots__ = (
        "_paused",
        "_subscriber",
        "admitted",
        "answered",
        "body",
        "catch_up",
        "connection",
        "credit",
        "deciding",
        "ending",
        "head",
        "held",
        "id",
        "moved",
        "out",
        "over",
        "pending",
        "request",
        "since",
        "unsent",
        "whole",
        "window",
    )

    def __init__(
        self, connection: StreamConnection, number: int, head: RequestHead | None, window: int
    ) -> None:
        self.connection = connection
        self.id = number
        # None for a request that was refused since it had no head that makes sense.
        self.head: Any = head
        self.window = window
        self.credit = 0
        # The body of the request, and whether all of it has come.
        self.body = bytearray()
        self.whole = False
        #: The bytes that the budget of bodies counts for it.
        self.held = 0
        # Whether it is found out by the head what may be done, and what then answers.
        self.deciding = False
        self.admitted: Respond | None = None
        # The answer: what it waits for, whether its head was sent, what is unsent of its body,
        # whether the body ends there.
        self.pending: Any = None
        self.answered = False
        self.catch_up = False
        self.out: deque[bytes] = deque()
        self.unsent = 0
        self.ending = False
        self.over = False
        self.request: ResourceRequest | None = None
        self._subscriber: BodyProducer | None = None
        self._paused = False
        self.since = 0.0
        self.moved = 0

    @property
    def origin(self) -> bytes | None:
        """The Origin of the request, as far as it is known."""
        return None if self.head is None else self.head.headers.get(b"origin")

    @property
    def bodiless(self) -> bool:
        """Whether no answer to the request has a body."""
        return self.head is not None and self.head.method == b"HEAD"

    @property
    def receiving(self) -> bool:
        """Whether the body of the request is incomplete and wanted."""
        return not self.whole and not self.answered

    def refuse_body(self) -> None:
        """Refuse the body that is coming, to make room for others."""
        self.connection.refuse_body(self)

    # -- body of the answer ---------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Add bytes to what is unsent."""
        self.out.append(data)
        self.unsent += len(data)

    def take(self, size: int) -> bytes:
        """Remove and return the next ``size`` bytes, of which there are as many or more."""
        self.unsent -= size
        out = self.out
        first = out[0]
        if len(first) == size:
            return out.popleft()
        if len(first) > size:
            view = memoryview(first)
            out[0] = view[size:]  # type: ignore[assignment]
            return view[:size]  # type: ignore[return-value]
        parts = []
        while size:
            first = out.popleft()
            if len(first) > size:
                view = memoryview(first)
                out.appendleft(view[size:])  # type: ignore[arg-type]
                first = view[:size]  # type: ignore[assignment]
            parts.append(first)
            size -= len(first)
        return b"".join(parts)

    # -- live bodies ----------------------------------------------------------------------------

    def follow(self, begin: Follow) -> None:
        """Begin a live body."""
        subscriber = begin(self)
        if not self.over:
            self._subscriber = subscriber
            if self._paused:
                subscriber.pauseProducing()

    def write(self, data: bytes) -> None:
        """Send bytes of a live body."""
        if data and not self.over:
            self.connection.send(self, data)

    def finish(self) -> None:
        """End a live body as complete."""
        if not self.over:
            self._subscriber = None
            self.connection.finish(self)

    def abort(self) -> None:
        """Reset the stream, so that the client sees that the body is incomplete."""
        if not self.over:
            self._subscriber = None
            self.connection.reset(self, Code.INTERNAL_ERROR)

    def settle(self, shut: bool) -> bool:
        """Pause or resume a live body; ``shut`` says that the connection takes no bytes now.

        Returns whether it has to be asked again.
        """
        if self._paused:
            if not self.unsent and not shut:
                self._paused = False
                self._tell("resumeProducing")
        elif self.unsent and (shut or self.window <= 0 or self.unsent >= limits.UNSENT_HIGH):
            self._paused = True
            self._tell("pauseProducing")
        return self._paused or self.unsent > 0

    def _tell(self, what: str) -> None:
        producer: Any = self._subscriber or self.request
        if producer is not None:
            getattr(producer, what)()

    def stop(self) -> None:
        """Let go of all that the stream holds: it is over."""
        self.over = True
        self.out.clear()
        self.unsent = 0
        self.admitted = None
        subscriber, self._subscriber = self._subscriber, None
        pending, self.pending = self.pending, None
        request, self.request = self.request, None
        if subscriber is not None:
            subscriber.stopProducing()
        if pending is not None:
            pending.cancel()
        if request is not None:
            request.lost()
