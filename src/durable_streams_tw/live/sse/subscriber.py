"""Event stream connections: where each is, and what moves it on.

A subscriber is in one of four places:

* NEW: not written to yet;
* BEHIND: reads on from the store at its own position, a chunk at a time, while it is not
  paused;
* READY: caught up and not paused; the feed writes to it;
* DONE.

No place has a queue: what a subscriber has not been sent is in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.live.piece_size import PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.event_batch import EventBatch
from durable_streams_tw.live.timer_queue import Timeout, TimerQueue
from durable_streams_tw.protocol import cursors
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.storage.api import Chunk, IStreamStore

if TYPE_CHECKING:
    from durable_streams_tw.live.sse.feed import Feed

_log = Logger()

# A chunk from the store weighs about as much as so many small writes.
_CHUNK_COST = 8


class EventSink(Protocol):
    """Where an event stream goes: one response's body."""

    def write(self, data: bytes) -> None:
        """Send bytes. May pause, resume or stop its producer before it returns."""

    def finish(self) -> None:
        """End the body as complete."""

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the body is not complete."""


class Place(Enum):
    """Where a subscriber is."""

    NEW = 0
    BEHIND = 1
    READY = 2
    DONE = 3


NEW, BEHIND, READY, DONE = Place.NEW, Place.BEHIND, Place.READY, Place.DONE


class FeedContext:
    """What all feeds of a server share."""

    __slots__ = (
        *("clock", "comments", "dropped", "feeds", "lifetimes", "random", "stopping", "store"),
        *("pieces", "tails", "wall"),
    )

    def __init__(
        self,
        store: IStreamStore,
        tails: FollowerRegistry,
        clock: IReactorTime,
        comments: TimerQueue,
        lifetimes: Sequence[TimerQueue],
        random: Callable[[], float],
        pieces: PieceSize,
        wall: Seconds,
    ) -> None:
        self.store = store
        self.pieces = pieces
        self.tails = tails
        self.clock = clock
        # What cursors follow (§10.1): seconds since the Unix epoch.
        self.wall = wall
        self.comments = comments
        self.lifetimes = lifetimes
        self.random = random
        self.feeds: dict[int, Feed] = {}
        self.stopping = False
        # Connections that ended before they had all: cut, or given up while they lagged.
        self.dropped = 0


@implementer(IPushProducer)
class Subscriber:
    """One event stream connection. Its transport's pauses are what governs it.

    ``position`` is where the last control event left the client. ``floor`` is the least
    cursor that it is sent.
    """

    __slots__ = (
        "_chunk",
        "_paused",
        "_quiet",
        "_reading",
        "_reconnect",
        "_settled",
        "_sink",
        "_slow",
        "after_cr",
        "feed",
        "floor",
        "place",
        "position",
    )

    def __init__(self, feed: Feed, chunk: Chunk, floor: int, sink: EventSink) -> None:
        around = feed.around
        self.feed = feed
        self.floor = floor
        self.place = NEW
        self.position = chunk.start
        self.after_cr = False
        self._chunk: Chunk | None = chunk
        # None once it has ended: the sink holds the subscriber.
        self._sink: EventSink | None = sink
        self._paused = False
        # Until it has taken the first piece it may be one that takes none.
        self._slow = False
        self._count_as(slow=True)
        self._reading = False
        # Whether a look made after the registration has reached the tail: from then on the
        # feed's window knows of all that is new.
        self._settled = False
        self._quiet: Timeout | None = around.comments.add(self._comment)
        lifetimes = around.lifetimes
        self._reconnect = lifetimes[int(around.random() * len(lifetimes))].add(self.end)
        feed.subscribers.add(self)
        around.tails.soon(self)

    # -- IPushProducer ----------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True
        self._count_as(slow=True)
        if self.place is READY:
            self.place = BEHIND
            del self.feed.ready[self]

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._paused = False
        if self.place is DONE:
            return
        self._count_as(slow=False)
        around = self.feed.around
        if self._quiet is None:
            self._quiet = around.comments.add(self._comment)
        if not self._reading:
            around.tails.soon(self)

    def stopProducing(self) -> None:
        """The client is gone: forget it, without a word to the sink."""
        if self._leave() and self._paused:
            self.feed.around.dropped += 1

    # -- the feed's and the tails' -------------------------------------------------------------

    def wake(self, budget: int) -> int:
        """Go one chunk on, unless the feed writes to this one or the transport is full."""
        if self._paused or self._reading:
            return 1
        if self.place is NEW:
            self._begin()
            self._count_as(slow=self._paused)
        if self.place is not BEHIND or self._paused:
            return 1
        piece = self.feed.cut(self.position, self.after_cr) if self._settled else None
        if piece is None:
            self._reading = True
            self.feed.read(self)
        else:
            self._go_on(piece)
        return _CHUNK_COST

    def deliver(self, piece: EventBatch, frame: bytes, now: float) -> None:
        """Write a piece's frame; behind the last one, end."""
        self.position = piece.end
        self.after_cr = piece.leaves_cr
        if self._quiet is not None:
            self._quiet.restart(now)
        # A transport may pause, or lose its client, within the write.
        self._write(frame)
        if piece.last:
            self.finish()

    def fall_behind(self) -> None:
        """The window does not have what comes next: read it from the store."""
        self.place = BEHIND
        del self.feed.ready[self]
        self.feed.around.tails.soon(self)

    def took(self, piece: EventBatch, drained: bool) -> None:
        """The store has answered; ``drained`` says that its bytes reach the tail it saw."""
        self._reading = False
        if self.place is DONE:
            return
        if drained:
            self._settled = True
        elif piece.reach == self.position:
            _log.error("a read of {path} brought nothing", path=self.feed.tail.state.path)
            self.abort()
            return
        if not self._paused:
            self._go_on(piece)

    def refused(self, refusal: Refusal) -> None:
        """The store will not read: the stream is gone, or something is wrong."""
        self._reading = False
        if refusal.problem.status in (404, 410):
            self.finish()
        else:
            self.abort()

    def end(self) -> None:
        """End the body behind a control event: every write ends with one."""
        if self.place is NEW:
            self._begin()
        self.finish()

    def finish(self) -> None:
        """End the body as complete."""
        sink = self._sink
        if self._leave() and sink is not None:
            try:
                sink.finish()
            except Exception:  # noqa: BLE001 - the sink's bug is nobody else's
                _log.failure("ending an event stream failed")

    def abort(self) -> None:
        """Cut the connection."""
        sink = self._sink
        if self._leave() and sink is not None:
            self.feed.around.dropped += 1
            try:
                sink.abort()
            except Exception:  # noqa: BLE001 - the sink's bug is nobody else's
                _log.failure("cutting an event stream failed")

    # -- its own --------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Send what the request's own read has found, or a control event alone."""
        chunk, self._chunk = self._chunk, None
        assert chunk is not None, "a new subscriber has the chunk that it begins with"
        self.place = BEHIND
        feed = self.feed
        state = feed.tail.state
        piece = EventBatch(feed.kind, state, chunk.start, chunk.data, chunk.at_tail, False)
        self._show(piece, sse.reconnection_time(feed.around.random()))
        if feed.around.stopping:
            self.finish()

    def _go_on(self, piece: EventBatch) -> None:
        if piece.says_something(self.position):
            self._show(piece)
        if self.place is DONE or self._paused:
            return
        feed = self.feed
        if self._settled and piece.reach >= feed.tail.state.tail:
            self.place = READY
            feed.ready[self] = None
        else:
            feed.around.tails.soon(self)

    def _show(self, piece: EventBatch, opening: bytes = b"") -> None:
        now = self.feed.around.clock.seconds()
        cursor = max(self.floor, cursors.interval_at(self.feed.around.wall()))
        self.deliver(piece, opening + piece.frame(cursor), now)

    def _comment(self) -> None:
        # Nobody owes a paused transport a sign of life, and its buffer must not grow.
        self._quiet = None
        if not self._paused:
            self._quiet = self.feed.around.comments.add(self._comment)
            self._write(sse.COMMENT)

    def _write(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            return
        try:
            sink.write(data)
        except Exception:  # noqa: BLE001 - the sink's bug is nobody else's
            _log.failure("writing to an event stream failed")
            self.abort()

    def _count_as(self, *, slow: bool) -> None:
        # A transport that loses its client within a write may pause it afterwards.
        slow = slow and self.place is not DONE
        if slow is not self._slow:
            self._slow = slow
            self.feed.around.pieces.slow += 1 if slow else -1

    def _leave(self) -> bool:
        if self.place is DONE:
            return False
        feed = self.feed
        if self.place is READY:
            del feed.ready[self]
        self.place = DONE
        self._chunk = self._sink = None
        self._count_as(slow=False)
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        self._reconnect.cancel()
        feed.around.tails.forget(self)
        feed.remove(self)
        return True
