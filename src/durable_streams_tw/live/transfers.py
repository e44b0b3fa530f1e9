"""Bodies of large catch-up answers: read and written a piece at a time (PROTOCOL.md §5.6).

A transfer holds one piece at most, and nothing of the store between two pieces. What it sends is
decided when it begins: the positions up to the tail that the first read found. Bytes at a position
never change, so pieces of later commits make the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.live.piece_size import PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.subscriber import EventSink
from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage.api import Chunk, IStreamStore

_log = Logger()

# A piece from the store weighs about as much as so many small writes of event streams.
_PIECE_COST: Final = 8

# Refusals that are no fault: the stream was deleted or has expired, or the server stops.
_EXPECTED: Final = frozenset((Problem.STREAM_NOT_FOUND, Problem.STREAM_GONE, Problem.STOPPING))


class Encoder(Protocol):
    """Content coding of one body, as `zlib.compressobj` returns it."""

    def compress(self, data: bytes, /) -> bytes:
        """Take bytes in; return what of the coded form is complete, perhaps nothing."""

    def flush(self) -> bytes:
        """Return the end of the coded form."""


class Transfers:
    """The transfers of one store.

    ``in_thread(function, *arguments)`` calls a function in a thread: content codings run there.
    """

    def __init__(
        self,
        store: IStreamStore,
        tails: FollowerRegistry,
        in_thread: Callable[..., Deferred[Any]],
        pieces: PieceSize | None = None,
    ) -> None:
        self.pieces = pieces or PieceSize()
        self.store = store
        self.tails = tails
        self.in_thread = in_thread
        self.running: set[Transfer] = set()

    def begin(self, chunk: Chunk, encoder: Encoder | None, sink: EventSink) -> Transfer:
        """Send the answer that ``chunk`` begins to ``sink``.

        The first piece may be written before this returns.
        """
        return Transfer(self, chunk, encoder, sink)


@implementer(IPushProducer)
class Transfer:
    """Body of one answer. Its transport's pauses govern it.

    While it runs the stream does not expire by its TTL. If the stream is deleted, expires or
    cannot be read, the sink is aborted, so that the client sees that the body is not complete.
    """

    __slots__ = (
        "_busy",
        "_encoder",
        "_json",
        "_over",
        "_path",
        "_paused",
        "_piece",
        "_position",
        "_sink",
        "_start",
        "_stop",
        "_stream_id",
        "_transfers",
    )

    def __init__(
        self, transfers: Transfers, chunk: Chunk, encoder: Encoder | None, sink: EventSink
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
        # A piece that came while the transport was full.
        self._piece: bytes | None = None
        # Whether a piece is being read or encoded.
        self._busy = False
        self._paused = False
        self._over = False
        transfers.running.add(self)
        transfers.store.pin(state.id)
        self._take(chunk.data)

    # -- IPushProducer --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self._paused and not self._over:
            self._transfers.pieces.slow += 1
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        if self._paused and not self._over:
            self._transfers.pieces.slow -= 1
        self._paused = False
        if not self._over and not self._busy:
            self._transfers.tails.soon(self)

    def stopProducing(self) -> None:
        """The client is gone: forget it, without a word to the sink."""
        self._leave()

    # -- pieces ---------------------------------------------------------------------------------

    def wake(self, budget: int) -> int:
        """Write the piece that waits, or read the next one. Called by `FollowerRegistry`."""
        if self._busy or self._paused or self._over:
            return 1
        if self._piece is not None:
            self._send()
        else:
            self._read()
        return _PIECE_COST

    def _read(self) -> None:
        self._busy = True
        start = self._position
        stop = min(start + self._transfers.pieces.bytes, self._stop)
        read = self._transfers.store.read_range
        maybeDeferred(read, self._path, self._stream_id, start, stop).addCallbacks(
            self._came, self._failed, callbackArgs=(stop - start,)
        )

    def _came(self, stored: bytes | Refusal, expected: int) -> None:
        self._busy = False
        if self._over:
            return
        if isinstance(stored, Refusal):
            if stored.problem not in _EXPECTED:
                self._broke(stored.detail)
            self._abort()
        elif len(stored) != expected:
            self._broke(f"{len(stored)} bytes came where {expected} were asked for")
            self._abort()
        else:
            self._take(stored)

    def _take(self, stored: bytes) -> None:
        """Make the next piece of the body of the next stored bytes."""
        first = self._position == self._start
        self._position += len(stored)
        last = self._position == self._stop
        data = json_mode.document_piece(stored, first, last) if self._json else stored
        if self._encoder is None:
            self._made(data)
        else:
            self._busy = True
            encoded = self._transfers.in_thread(_encode, self._encoder, data, last)
            encoded.addCallbacks(self._made, self._failed)

    def _made(self, piece: bytes) -> None:
        self._busy = False
        if not self._over:
            self._piece = piece
            if not self._paused:
                self._send()

    def _send(self) -> None:
        piece, self._piece = self._piece, None
        if piece:
            # A transport may pause, or lose its client, within the write.
            try:
                self._sink.write(piece)
            except Exception:  # noqa: BLE001 - the sink's bug must not end the reactor's turn
                _log.failure("writing a piece of {path} failed", path=self._path)
                self._abort()
        if self._over:
            return
        if self._position == self._stop:
            if self._leave():
                self._sink.finish()
        elif not self._paused:
            self._transfers.tails.soon(self)

    # -- ends -----------------------------------------------------------------------------------

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        if not self._over:
            _log.failure("an answer of {path} was cut", failure, path=self._path)
            self._abort()

    def _broke(self, detail: str) -> None:
        _log.error("an answer of {path} was cut: {detail}", path=self._path, detail=detail)

    def _abort(self) -> None:
        if self._leave():
            self._sink.abort()

    def _leave(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._piece = self._encoder = None
        transfers = self._transfers
        if self._paused:
            transfers.pieces.slow -= 1
        transfers.running.discard(self)
        transfers.tails.forget(self)
        transfers.store.unpin(self._stream_id)
        return True


def _encode(encoder: Encoder, data: bytes, last: bool) -> bytes:
    coded = encoder.compress(data)
    return coded + encoder.flush() if last else coded
