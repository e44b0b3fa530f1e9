"""Transfers: bodies of long catch-up reads, read and written piece by piece (PROTOCOL.md §5.6).

A transfer holds at most one piece in memory, and no snapshot between pieces. It sends the positions
up to the tail that its first read saw. Bytes at a position never change, so pieces read after later
commits belong to the same response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.live.body_output import BodySink, PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage.api import Chunk, IStreamStore

_log = Logger()

# Cost of reading a piece from the store, in units of `Follower.wake` (small writes).
_PIECE_COST: Final = 8

# Refusals that are not logged: the stream was deleted or has expired, or the server stops.
_EXPECTED: Final = frozenset((Problem.STREAM_NOT_FOUND, Problem.STREAM_GONE, Problem.STOPPING))


class Encoder(Protocol):
    """Encoder of one body's content coding, such as the result of `zlib.compressobj`."""

    def compress(self, data: bytes, /) -> bytes:
        """Encode bytes; return the output that is complete, possibly empty."""

    def flush(self) -> bytes:
        """Return the rest of the output."""


class Transfers:
    """All transfers of one store.

    ``in_thread(function, *arguments)`` calls a function on a worker thread; encoders run there.
    """

    def __init__(
        self,
        store: IStreamStore,
        registry: FollowerRegistry,
        in_thread: Callable[..., Deferred[Any]],
        piece_size: PieceSize,
    ) -> None:
        self.piece_size = piece_size
        self.store = store
        self.registry = registry
        self.in_thread = in_thread
        self.running: set[Transfer] = set()


@implementer(IPushProducer)
class Transfer:
    """Body of one response that starts with ``chunk``, paced by the pauses of its transport.

    The first piece may be written before the constructor returns. The stream does not expire by its
    TTL during the transfer. If the stream is deleted or cannot be read, the sink is aborted, so
    that the client sees that the body is incomplete.
    """

    def __init__(
        self, transfers: Transfers, chunk: Chunk, encoder: Encoder | None, sink: BodySink
    ) -> None:
        state = chunk.state
        self._transfers = transfers
        self._path = state.path
        self._stream_id = state.id
        self._json = content_types.is_json(state.content_type)
        self._start = self._position = chunk.start
        self._stop = chunk.end
        self._encoder = encoder
        self._sink = sink
        # A piece that was ready while the transport was paused.
        self._piece: bytes | None = None
        # Whether a piece is being read or encoded.
        self._busy = False
        self._paused = False
        self._ended = False
        transfers.running.add(self)
        transfers.store.pin(state.id)
        self._take(chunk.data)

    # -- IPushProducer --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop writing: the transport's buffer is full."""
        if not self._paused and not self._ended:
            self._transfers.piece_size.slow_readers += 1
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue writing: the transport's buffer is empty."""
        if self._paused and not self._ended:
            self._transfers.piece_size.slow_readers -= 1
        self._paused = False
        if not self._ended and not self._busy:
            self._transfers.registry.schedule(self)

    def stopProducing(self) -> None:
        """End without a call to the sink: the client has disconnected."""
        self._leave()

    # -- pieces ---------------------------------------------------------------------------------

    def wake(self, budget: int) -> int:
        """Write the ready piece or read the next one. Called by `FollowerRegistry`."""
        if self._busy or self._paused or self._ended:
            return 1
        if self._piece is not None:
            self._send()
        else:
            self._read()
        return _PIECE_COST

    def _read(self) -> None:
        self._busy = True
        start = self._position
        stop = min(start + self._transfers.piece_size.current, self._stop)
        read = self._transfers.store.read_range
        maybeDeferred(read, self._path, self._stream_id, start, stop).addCallbacks(
            self._read_done, self._failed, callbackArgs=(stop - start,)
        )

    def _read_done(self, stored: bytes | Refusal, expected: int) -> None:
        self._busy = False
        if self._ended:
            return
        if isinstance(stored, Refusal):
            if stored.problem not in _EXPECTED:
                self._log_abort(stored.detail)
            self._abort()
        elif len(stored) != expected:
            self._log_abort(f"the store returned {len(stored)} bytes instead of {expected}")
            self._abort()
        else:
            self._take(stored)

    def _take(self, stored: bytes) -> None:
        """Turn stored bytes into the next piece of the body."""
        first = self._position == self._start
        self._position += len(stored)
        last = self._position == self._stop
        data = json_mode.document_piece(stored, first, last) if self._json else stored
        if self._encoder is None:
            self._piece_ready(data)
        else:
            self._busy = True
            encoded = self._transfers.in_thread(_encode, self._encoder, data, last)
            encoded.addCallbacks(self._piece_ready, self._failed)

    def _piece_ready(self, piece: bytes) -> None:
        self._busy = False
        if not self._ended:
            self._piece = piece
            if not self._paused:
                self._send()

    def _send(self) -> None:
        piece, self._piece = self._piece, None
        if piece:
            # The transport may pause, or lose its client, inside this call.
            try:
                self._sink.write(piece)
            except Exception:  # noqa: BLE001 - a sink's bug must not stop the registry's other followers
                _log.failure("Writing a response of {path} failed", path=self._path)
                self._abort()
        if self._ended:
            return
        if self._position == self._stop:
            if self._leave():
                self._sink.finish()
        elif not self._paused:
            self._transfers.registry.schedule(self)

    # -- end ------------------------------------------------------------------------------------

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        if not self._ended:
            _log.failure("A response of {path} was aborted", failure, path=self._path)
            self._abort()

    def _log_abort(self, detail: str) -> None:
        _log.error("A response of {path} was aborted: {detail}", path=self._path, detail=detail)

    def _abort(self) -> None:
        if self._leave():
            self._sink.abort()

    def _leave(self) -> bool:
        if self._ended:
            return False
        self._ended = True
        self._piece = self._encoder = None
        transfers = self._transfers
        if self._paused:
            transfers.piece_size.slow_readers -= 1
        transfers.running.discard(self)
        transfers.registry.unschedule(self)
        transfers.store.unpin(self._stream_id)
        return True


def _encode(encoder: Encoder, data: bytes, last: bool) -> bytes:
    coded = encoder.compress(data)
    return coded + encoder.flush() if last else coded
