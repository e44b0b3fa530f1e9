"""Streamed response bodies on HTTP/1.1 connections."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from durable_streams_tw.http.http1.response import encode_chunk
from durable_streams_tw.http.messages import BodyProducer, Follow


class BodyConnection(Protocol):
    """Connection that a streamed body is written to."""

    def write_body(self, data: bytes) -> None:
        """Send bytes of the body."""

    def end_body(self, chunked: bool, delimited: bool) -> None:
        """End the response; ``delimited`` is true if the client can tell that it is complete."""

    def abort(self) -> None:
        """Reset the connection."""


@dataclass(slots=True, eq=False)
class ChunkCache:
    """Cache of the last encoded chunk, for connections that send the same bytes in turn."""

    _data: bytes = b""
    _chunk: bytes = b""

    def encode(self, data: bytes) -> bytes:
        """Return bytes as one chunk."""
        if data is not self._data:
            self._chunk = encode_chunk(data)
            self._data = data
        return self._chunk


@dataclass(slots=True, eq=False)
class StreamingResponse:
    """Sink (`BodySink`) that writes a streamed body to a connection.

    ``chunks`` is None for a body that is not chunked. ``sized`` is true if the head has a
    Content-Length; without it and without chunks the body ends when the connection closes.
    ``ends`` is true for a body that ends without the client's doing: a client that has closed its
    side may still read it.
    """

    _connection: BodyConnection
    _chunks: ChunkCache | None
    _: KW_ONLY
    sized: bool
    ends: bool
    _producer: BodyProducer | None = None
    _paused: bool = False
    _over: bool = False

    def start(self, follow: Follow) -> None:
        """Start the producer of the body."""
        producer = follow(self)
        if not self._over:
            self._producer = producer
            if self._paused:
                producer.pauseProducing()

    # -- BodySink, for the producer ------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        # An empty chunk would end the body.
        if data and not self._over:
            chunks = self._chunks
            self._connection.write_body(data if chunks is None else chunks.encode(data))

    def finish(self) -> None:
        """End the body as complete."""
        if not self._over:
            self._detach()
            chunked = self._chunks is not None
            self._connection.end_body(chunked, delimited=chunked or self.sized)

    def abort(self) -> None:
        """Reset the connection, so that the client sees that the body is incomplete."""
        if not self._over:
            self._detach()
            self._connection.abort()

    # -- for the connection ---------------------------------------------------------------------

    def pause(self) -> None:
        """Pause the producer: the transport is full."""
        self._paused = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume(self) -> None:
        """Resume the producer: the transport is empty."""
        self._paused = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def stop(self) -> None:
        """Stop the producer: the connection has closed."""
        producer = self._producer
        if not self._over:
            self._detach()
            if producer is not None:
                producer.stopProducing()

    def _detach(self) -> None:
        self._over = True
        self._producer = None
