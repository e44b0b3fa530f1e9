"""Body that is written as it comes, on a connection of the fast channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_streams_tw.http.http1.response import chunk
from durable_streams_tw.http.messages import BodyProducer, Follow

if TYPE_CHECKING:
    from durable_streams_tw.http.http1.connection import Http1Connection


class SharedFrames:
    """Bytes as chunks, made once for all connections that get the same bytes in turn."""

    __slots__ = ("_data", "_frame")

    def __init__(self) -> None:
        self._data = b""
        self._frame = b""

    def frame(self, data: bytes) -> bytes:
        """The bytes as one chunk."""
        if data is not self._data:
            self._frame = chunk(data)
            self._data = data
        return self._frame


class StreamingResponse:
    """A `Sink` between what writes a body and a connection.

    ``frames`` is None for a body that is not sent in chunks. ``sized`` says that its length was
    sent in the head; without chunks and length the body ends with the connection. ``ends`` says
    that it comes to its end by itself: a client that sends no more may still wait for that.
    """

    __slots__ = ("_channel", "_frames", "_over", "_paused", "_sized", "_subscriber", "ends")

    def __init__(
        self, channel: Http1Connection, frames: SharedFrames | None, *, sized: bool, ends: bool
    ) -> None:
        self._channel = channel
        self._frames = frames
        self._sized = sized
        self.ends = ends
        self._subscriber: BodyProducer | None = None
        self._paused = False
        self._over = False

    def follow(self, begin: Follow) -> None:
        """Begin the body."""
        subscriber = begin(self)
        if not self._over:
            self._subscriber = subscriber
            if self._paused:
                subscriber.pauseProducing()

    # -- Sink -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes."""
        # An empty chunk would be the last.
        if data and not self._over:
            frames = self._frames
            self._channel.send(data if frames is None else frames.frame(data))

    def finish(self) -> None:
        """End the body as complete."""
        if not self._over:
            self._leave()
            chunked = self._frames is not None
            self._channel.live_ended(chunked, delimited=chunked or self._sized)

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the body is not complete."""
        if not self._over:
            self._leave()
            self._channel.cut()

    # -- the connection's ---------------------------------------------------------------------

    def pause(self) -> None:
        """The transport is full."""
        self._paused = True
        if self._subscriber is not None:
            self._subscriber.pauseProducing()

    def resume(self) -> None:
        """The transport is empty again."""
        self._paused = False
        if self._subscriber is not None:
            self._subscriber.resumeProducing()

    def stop(self) -> None:
        """The client is gone."""
        subscriber = self._subscriber
        if not self._over:
            self._leave()
            if subscriber is not None:
                subscriber.stopProducing()

    def _leave(self) -> None:
        self._over = True
        self._subscriber = None
