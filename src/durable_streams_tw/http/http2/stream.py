"""HTTP/2 streams: a request and its response each."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.streams import Respond
from durable_streams_tw.http.http2.frames import Code
from durable_streams_tw.http.messages import BodyProducer, Follow, Response


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
    """Request that a twisted.web resource handles."""

    def pauseProducing(self) -> None:
        """Pause the producer of the body."""

    def resumeProducing(self) -> None:
        """Resume the producer of the body."""

    def lost(self) -> None:
        """Tell the resource that nothing more can be written."""


@dataclass(slots=True, eq=False)
class Http2Stream:
    """Request that is incomplete or being executed, and sink (`BodySink`) of its streamed body.

    ``window`` is the number of bytes that the client accepts, ``received`` the number that it sent
    since its own window was last opened. ``since`` (seconds) and ``moved`` (bytes) are the state
    of the connection's timeouts.
    """

    connection: StreamConnection
    id: int
    # None for a request whose head was refused.
    head: Any
    window: int
    received: int = 0
    # The body of the request, and whether it is complete.
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    #: Bytes counted by the body budget.
    held: int = 0
    # Whether the decision on the head is pending, and the handler that it returned.
    deciding: bool = False
    admitted: Respond | None = None
    # The response: its pending result, whether its head was sent, whether it is a catch-up
    # read, the unsent parts of its body, and whether the body ends after them.
    pending: Any = None
    responded: bool = False
    catch_up: bool = False
    out: deque[bytes] = field(default_factory=deque)
    unsent: int = 0
    ending: bool = False
    over: bool = False
    request: ResourceRequest | None = None
    _producer: BodyProducer | None = None
    _paused: bool = False
    since: float = 0.0
    moved: int = 0

    @property
    def origin(self) -> bytes | None:
        """Origin header of the request, None if its head was refused."""
        return None if self.head is None else self.head.headers.get(b"origin")

    @property
    def bodiless(self) -> bool:
        """True if the request method is HEAD."""
        return self.head is not None and self.head.method == b"HEAD"

    @property
    def receiving(self) -> bool:
        """True while the request's body is incomplete and no response has started."""
        return not self.complete and not self.responded

    def refuse_body(self) -> None:
        """Refuse the incomplete body, to free memory for others."""
        self.connection.refuse_body(self)

    # -- body of the response -------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Add unsent bytes."""
        self.out.append(data)
        self.unsent += len(data)

    def take(self, size: int) -> bytes:
        """Remove and return the next ``size`` unsent bytes; there must be as many."""
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

    # -- BodySink ------------------------------------------------------------------------------

    def follow(self, follow: Follow) -> None:
        """Start the producer of a streamed body."""
        producer = follow(self)
        if not self.over:
            self._producer = producer
            if self._paused:
                producer.pauseProducing()

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        if data and not self.over:
            self.connection.send(self, data)

    def finish(self) -> None:
        """End the body as complete."""
        if not self.over:
            self._producer = None
            self.connection.finish(self)

    def abort(self) -> None:
        """Reset the stream, so that the client sees that the body is incomplete."""
        if not self.over:
            self._producer = None
            self.connection.reset(self, Code.INTERNAL_ERROR)

    def update_producer(self, shut: bool) -> bool:
        """Pause or resume the producer; ``shut`` is true while the connection can send nothing.

        Returns whether it has to be called again.
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
        producer: Any = self._producer or self.request
        if producer is not None:
            getattr(producer, what)()

    def stop(self) -> None:
        """Release everything, stop the producer and cancel the pending result."""
        self.over = True
        self.out.clear()
        self.unsent = 0
        self.admitted = None
        producer, self._producer = self._producer, None
        pending, self.pending = self.pending, None
        request, self.request = self.request, None
        if producer is not None:
            producer.stopProducing()
        if pending is not None:
            pending.cancel()
        if request is not None:
            request.lost()
