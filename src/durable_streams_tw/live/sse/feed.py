"""One stream's event stream readers, and the bytes that they share."""

from __future__ import annotations

from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.live.sse.event_batch import EventBatch
from durable_streams_tw.live.sse.subscriber import READY, FeedContext, Subscriber
from durable_streams_tw.live.sse.tail_buffer import TailBuffer
from durable_streams_tw.protocol import cursors
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.protocol.streams.sse import Framing
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk

_log = Logger()

# How many encoded pieces a round keeps; subscribers are seldom at more than two positions.
_SHARED_PIECES = 16


class Feed:
    """All event stream readers of one stream, and the window that serves those who keep up.

    A round writes to each ready subscriber what is new for it, all of it in one write, in
    slices of a turn's budget. Subscribers at one position share the encoded bytes.
    """

    __slots__ = (
        "_again",
        "_pieces",
        "_pieces_of",
        "_reads",
        "_round",
        "_round_of",
        "around",
        "kind",
        "ready",
        "subscribers",
        "tail",
        "window",
    )

    def __init__(self, around: FeedContext, state: StreamState) -> None:
        self.around = around
        self.kind = sse.framing(state.content_type)
        self.tail = around.tails.follow(state, self)
        self.window = TailBuffer(self.tail.state.tail, self.kind is Framing.JSON)
        self.tail.window = self.window
        self.subscribers: set[Subscriber] = set()
        self.ready: dict[Subscriber, None] = {}
        self._round: list[Subscriber] = []
        self._round_of = self._pieces_of = self.tail.version
        self._again = False
        self._pieces: dict[tuple[int, bool], EventBatch | None] = {}
        self._reads: dict[int, list[Subscriber]] = {}

    def remove(self, subscriber: Subscriber) -> None:
        """A subscriber is done. The last one takes the feed with it."""
        self.subscribers.discard(subscriber)
        if not self.subscribers:
            # A round that is cut short names subscribers, and they the feed.
            self._round.clear()
            self._pieces.clear()
            self.tail.window = None
            self.around.tails.leave(self.tail, self)
            if self.around.feeds.get(self.tail.state.id) is self:
                del self.around.feeds[self.tail.state.id]

    # -- the pump ---------------------------------------------------------------------------------

    def wake(self, budget: int) -> int:
        """One slice of a round; whatever changed since it began asks for another."""
        tail = self.tail
        if not self._round:
            self._round = list(self.subscribers if tail.gone else self.ready)
            self._round_of = tail.version
            self._again = False
        batch = self._round[-budget:]
        del self._round[-budget:]
        self._write(batch)
        if tail.gone:
            for subscriber in batch:
                subscriber.finish()
            self._again = bool(self.subscribers)
        if self._round or self._again or self._round_of != tail.version:
            self.around.tails.soon(self)
        else:
            self._pieces.clear()
            self.window.trim(min([s.position for s in self.ready], default=self.window.end))
        return len(batch) + 1

    def _write(self, batch: list[Subscriber]) -> None:
        now = self.around.clock.seconds()
        current = cursors.interval_at(self.around.wall())
        position = cursor = -1
        after_cr = False
        piece: EventBatch | None = None
        frame = b""
        for subscriber in batch:
            if subscriber.place is not READY:
                continue
            if subscriber.position != position or subscriber.after_cr is not after_cr:
                position, after_cr, cursor = subscriber.position, subscriber.after_cr, -1
                piece = self._shared(position, after_cr)
                if piece is not None and piece.reach < self.tail.state.tail:
                    self._again = True
            if piece is None:
                subscriber.fall_behind()
                continue
            if not piece.says_something(position):
                continue
            wanted = subscriber.floor if subscriber.floor > current else current
            if wanted != cursor:
                cursor = wanted
                frame = piece.frame(cursor)
            subscriber.deliver(piece, frame, now)

    def _shared(self, position: int, after_cr: bool) -> EventBatch | None:
        pieces = self._pieces
        if self._pieces_of != self.tail.version:
            self._pieces_of = self.tail.version
            pieces.clear()
        key = (position, after_cr)
        if key not in pieces:
            if len(pieces) >= _SHARED_PIECES:
                pieces.clear()
            pieces[key] = self.cut(position, after_cr)
        return pieces[key]

    def cut(self, position: int, after_cr: bool) -> EventBatch | None:
        """What comes at a position, from the window; None where only the store knows."""
        window, state = self.window, self.tail.state
        data = window.slice(position, self.around.pieces.bytes)
        if data is None or (not data and position < state.tail):
            return None
        drained = position + len(data) >= window.end
        piece = EventBatch(self.kind, state, position, data, drained, after_cr)
        if piece.reach < state.tail and not piece.says_something(position):
            # The start of a character whose rest was seen elsewhere before it was told here.
            return None
        return piece

    # -- reading behind ---------------------------------------------------------------------------

    def read(self, subscriber: Subscriber) -> None:
        """Read a chunk for a subscriber; those at one position share a read that is under way."""
        position = subscriber.position
        waiting = self._reads.get(position)
        if waiting is not None:
            waiting.append(subscriber)
            return
        self._reads[position] = [subscriber]
        state = self.tail.state
        maybeDeferred(
            self.around.store.read, state.path, position, self.around.pieces.bytes, state.id
        ).addCallbacks(
            self._answered, self._failed, callbackArgs=(position,), errbackArgs=(position,)
        )

    def _answered(self, answer: Chunk | Refusal, position: int) -> None:
        waiting = self._reads.pop(position)
        if isinstance(answer, Refusal):
            if answer.problem.status not in (404, 410):
                path, detail = self.tail.state.path, answer.detail
                _log.error("a live read of {path} failed: {detail}", path=path, detail=detail)
            for subscriber in waiting:
                subscriber.refused(answer)
            return
        self.tail.saw(answer.state)
        pieces: dict[bool, EventBatch] = {}
        for subscriber in waiting:
            after_cr = subscriber.after_cr
            if after_cr not in pieces:
                pieces[after_cr] = EventBatch(
                    self.kind, self.tail.state, position, answer.data, answer.at_tail, after_cr
                )
            subscriber.took(pieces[after_cr], answer.at_tail)

    def _failed(self, failure: Failure, position: int) -> None:
        _log.failure("a live read of {path} failed", failure, path=self.tail.state.path)
        for subscriber in self._reads.pop(position):
            subscriber.abort()
