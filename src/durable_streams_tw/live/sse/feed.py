"""Feed of one stream: its SSE subscribers and the bytes that they share (PROTOCOL.md §5.8).

A subscriber is in one of four phases:

* NEW: nothing was written to it yet;
* BEHIND: it reads from the store at its own position, a chunk at a time, while not paused;
* READY: caught up and not paused; the feed writes to it;
* DONE.

No subscriber has a queue: bytes that were not sent to it are in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.live.body_output import BodySink, PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.event_batch import EventBatch
from durable_streams_tw.live.tail_buffer import TailBuffer
from durable_streams_tw.live.timer_queue import Timeout, TimerQueue
from durable_streams_tw.protocol import cursors
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.protocol.streams.sse import Framing
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk, IStreamStore

_log = Logger()

# Event batches kept per round; subscribers are rarely at more than two positions.
_MAX_BATCHES = 16

# Cost of reading a chunk from the store, in units of `Follower.wake` (small writes).
_CHUNK_COST = 8


class Phase(Enum):
    """Phase of a subscriber; see the module's docstring."""

    NEW = 0
    BEHIND = 1
    READY = 2
    DONE = 3


NEW, BEHIND, READY, DONE = Phase.NEW, Phase.BEHIND, Phase.READY, Phase.DONE


@dataclass(slots=True, eq=False)
class FeedContext:
    """Resources that all feeds of a server share.

    Cursors follow ``wall``, in seconds since the Unix epoch (§10.1). ``dropped`` counts
    connections that ended before everything was sent: aborted, or lost while paused.
    """

    store: IStreamStore
    registry: FollowerRegistry
    clock: IReactorTime
    comments: TimerQueue
    lifetimes: Sequence[TimerQueue]
    random: Callable[[], float]
    piece_size: PieceSize
    wall: Seconds
    feeds: dict[int, Feed] = field(default_factory=dict)
    stopping: bool = False
    dropped: int = 0


class Feed:
    """All SSE subscribers of one stream, and the buffer that serves those that keep up.

    In a round the feed writes the new events to each ready subscriber, one write each, in slices
    of a turn's budget. Subscribers at one position share an event batch.
    """

    def __init__(self, context: FeedContext, state: StreamState) -> None:
        self.context = context
        self.kind = sse.framing(state.content_type)
        self.tail = context.registry.follow(state, self)
        self.buffer = TailBuffer(self.tail.state.tail, self.kind is Framing.JSON)
        self.tail.buffer = self.buffer
        self.subscribers: set[Subscriber] = set()
        self.ready: dict[Subscriber, None] = {}
        self._round: list[Subscriber] = []
        # Versions of the stream that the round and the batches belong to.
        self._round_of = self._batches_of = self.tail.version
        self._again = False
        self._batches: dict[tuple[int, bool], EventBatch | None] = {}
        self._reads: dict[int, list[Subscriber]] = {}

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; the last one closes the feed."""
        self.subscribers.discard(subscriber)
        if not self.subscribers:
            # An unfinished round refers to subscribers, and they to the feed: a reference cycle.
            self._round.clear()
            self._batches.clear()
            self.tail.buffer = None
            self.context.registry.unfollow(self.tail, self)
            if self.context.feeds.get(self.tail.state.id) is self:
                del self.context.feeds[self.tail.state.id]

    # -- rounds -----------------------------------------------------------------------------------

    def wake(self, budget: int) -> int:
        """Write one slice of a round; schedule another if the stream has changed since it began."""
        tail = self.tail
        if not self._round:
            self._round = list(self.subscribers if tail.gone else self.ready)
            self._round_of = tail.version
            self._again = False
        part = self._round[-budget:]
        del self._round[-budget:]
        self._write(part)
        if tail.gone:
            for subscriber in part:
                subscriber.finish()
            self._again = bool(self.subscribers)
        if self._round or self._again or self._round_of != tail.version:
            self.context.registry.schedule(self)
        else:
            self._batches.clear()
            self.buffer.trim(min([s.position for s in self.ready], default=self.buffer.end))
        return len(part) + 1

    def _write(self, subscribers: list[Subscriber]) -> None:
        now = self.context.clock.seconds()
        current = cursors.interval_at(self.context.wall())
        position = cursor = -1
        after_cr = False
        batch: EventBatch | None = None
        frame = b""
        for subscriber in subscribers:
            if subscriber.phase is not READY:
                continue
            if subscriber.position != position or subscriber.after_cr is not after_cr:
                position, after_cr, cursor = subscriber.position, subscriber.after_cr, -1
                batch = self._shared_batch(position, after_cr)
                if batch is not None and batch.read_end < self.tail.state.tail:
                    self._again = True
            if batch is None:
                subscriber.fall_behind()
                continue
            if not batch.has_news(position):
                continue
            wanted = subscriber.floor if subscriber.floor > current else current
            if wanted != cursor:
                cursor = wanted
                frame = batch.frame(cursor)
            subscriber.deliver(batch, frame, now)

    def _shared_batch(self, position: int, after_cr: bool) -> EventBatch | None:
        batches = self._batches
        if self._batches_of != self.tail.version:
            self._batches_of = self.tail.version
            batches.clear()
        key = (position, after_cr)
        if key not in batches:
            if len(batches) >= _MAX_BATCHES:
                batches.clear()
            batches[key] = self.batch_from_buffer(position, after_cr)
        return batches[key]

    def batch_from_buffer(self, position: int, after_cr: bool) -> EventBatch | None:
        """Return the next event batch at a position, None if it must be read from the store."""
        buffer, state = self.buffer, self.tail.state
        data = buffer.slice(position, self.context.piece_size.current)
        if data is None or (not data and position < state.tail):
            return None
        drained = position + len(data) >= buffer.end
        batch = EventBatch(self.kind, state, position, data, drained, after_cr)
        if batch.read_end < state.tail and not batch.has_news(position):
            # A read saw the rest of this character before its commit was announced here.
            return None
        return batch

    # -- reads ------------------------------------------------------------------------------------

    def read(self, subscriber: Subscriber) -> None:
        """Read a chunk for a subscriber. Subscribers at one position share a pending read."""
        position = subscriber.position
        waiting = self._reads.get(position)
        if waiting is not None:
            waiting.append(subscriber)
            return
        self._reads[position] = [subscriber]
        context, state = self.context, self.tail.state
        maybeDeferred(
            context.store.read, state.path, position, context.piece_size.current, state.id
        ).addCallbacks(
            self._read_done, self._read_failed, callbackArgs=(position,), errbackArgs=(position,)
        )

    def _read_done(self, result: Chunk | Refusal, position: int) -> None:
        waiting = self._reads.pop(position)
        if isinstance(result, Refusal):
            if result.problem.status not in (404, 410):
                _log.error(
                    "Live read of {path} failed: {detail}",
                    path=self.tail.state.path,
                    detail=result.detail,
                )
            for subscriber in waiting:
                subscriber.read_refused(result)
            return
        self.tail.update_from_read(result.state)
        batches: dict[bool, EventBatch] = {}
        for subscriber in waiting:
            after_cr = subscriber.after_cr
            if after_cr not in batches:
                batches[after_cr] = EventBatch(
                    self.kind, self.tail.state, position, result.data, result.at_tail, after_cr
                )
            subscriber.read_done(batches[after_cr], result.at_tail)

    def _read_failed(self, failure: Failure, position: int) -> None:
        _log.failure("Live read of {path} failed", failure, path=self.tail.state.path)
        for subscriber in self._reads.pop(position):
            subscriber.abort()


@implementer(IPushProducer)
class Subscriber:
    """One SSE connection, paced by the pauses of its transport.

    ``position`` is the offset in the last control event. ``floor`` is the least cursor to send.
    """

    __slots__ = (
        "_chunk",
        "_comment_timer",
        "_counted_slow",
        "_lifetime_timer",
        "_paused",
        "_reading",
        "_settled",
        "_sink",
        "after_cr",
        "feed",
        "floor",
        "phase",
        "position",
    )

    def __init__(self, feed: Feed, chunk: Chunk, floor: int, sink: BodySink) -> None:
        context = feed.context
        self.feed = feed
        self.floor = floor
        self.phase = NEW
        self.position = chunk.start
        self.after_cr = False
        self._chunk: Chunk | None = chunk
        # None after the end: the sink refers to the subscriber, a reference cycle.
        self._sink: BodySink | None = sink
        self._paused = False
        # Counted as slow until it has taken its first write: its first chunk is in memory.
        self._counted_slow = False
        self._count_as(slow=True)
        self._reading = False
        # Whether a read made after the registration has reached the tail. From then on the feed's
        # buffer has all newer bytes.
        self._settled = False
        self._comment_timer: Timeout | None = context.comments.add(self._comment)
        lifetimes = context.lifetimes
        self._lifetime_timer = lifetimes[int(context.random() * len(lifetimes))].add(self.end)
        feed.subscribers.add(self)
        context.registry.schedule(self)

    # -- IPushProducer ----------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop writing: the transport's buffer is full."""
        self._paused = True
        self._count_as(slow=True)
        if self.phase is READY:
            self.phase = BEHIND
            del self.feed.ready[self]

    def resumeProducing(self) -> None:
        """Continue writing: the transport's buffer is empty."""
        self._paused = False
        if self.phase is DONE:
            return
        self._count_as(slow=False)
        context = self.feed.context
        if self._comment_timer is None:
            self._comment_timer = context.comments.add(self._comment)
        if not self._reading:
            context.registry.schedule(self)

    def stopProducing(self) -> None:
        """Leave the feed without a call to the sink: the client has disconnected."""
        if self._leave() and self._paused:
            self.feed.context.dropped += 1

    # -- calls of the feed and the registry ----------------------------------------------------

    def wake(self, budget: int) -> int:
        """Send or read the next chunk, unless paused or served by the feed."""
        if self._paused or self._reading:
            return 1
        if self.phase is NEW:
            self._begin()
            self._count_as(slow=self._paused)
        if self.phase is not BEHIND or self._paused:
            return 1
        batch = None
        if self._settled:
            batch = self.feed.batch_from_buffer(self.position, self.after_cr)
        if batch is None:
            self._reading = True
            self.feed.read(self)
        else:
            self._advance(batch)
        return _CHUNK_COST

    def deliver(self, batch: EventBatch, frame: bytes, now: float) -> None:
        """Write a batch's frame; end the body after the last one."""
        self.position = batch.end
        self.after_cr = batch.ends_with_cr
        if self._comment_timer is not None:
            self._comment_timer.restart(now)
        # The transport may pause, or lose its client, inside this call.
        self._write(frame)
        if batch.last:
            self.finish()

    def fall_behind(self) -> None:
        """Read from the store, because the feed's buffer lacks the next bytes."""
        self.phase = BEHIND
        del self.feed.ready[self]
        self.feed.context.registry.schedule(self)

    def read_done(self, batch: EventBatch, drained: bool) -> None:
        """Send a batch read from the store; ``drained`` says that it reached the tail."""
        self._reading = False
        if self.phase is DONE:
            return
        if drained:
            self._settled = True
        elif batch.read_end == self.position:
            _log.error("Live read of {path} returned no bytes", path=self.feed.tail.state.path)
            self.abort()
            return
        if not self._paused:
            self._advance(batch)

    def read_refused(self, refusal: Refusal) -> None:
        """End the body if the stream is gone; abort it if the store failed."""
        self._reading = False
        if refusal.problem.status in (404, 410):
            self.finish()
        else:
            self.abort()

    def end(self) -> None:
        """End the body after a control event; every write ends with one."""
        if self.phase is NEW:
            self._begin()
        self.finish()

    def finish(self) -> None:
        """End the body as complete."""
        sink = self._sink
        if self._leave() and sink is not None:
            try:
                sink.finish()
            except Exception:  # noqa: BLE001 - a sink's bug must not stop the other subscribers
                _log.failure("Ending an SSE response failed")

    def abort(self) -> None:
        """Close the connection."""
        sink = self._sink
        if self._leave() and sink is not None:
            self.feed.context.dropped += 1
            try:
                sink.abort()
            except Exception:  # noqa: BLE001 - a sink's bug must not stop the other subscribers
                _log.failure("Closing an SSE connection failed")

    # -- internals ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Send the chunk that the request has read, or only a control event."""
        chunk, self._chunk = self._chunk, None
        assert chunk is not None, "a new subscriber has the chunk that it begins with"
        self.phase = BEHIND
        feed = self.feed
        state = feed.tail.state
        batch = EventBatch(feed.kind, state, chunk.start, chunk.data, chunk.at_tail, False)
        self._send(batch, sse.reconnection_time(feed.context.random()))
        if feed.context.stopping:
            self.finish()

    def _advance(self, batch: EventBatch) -> None:
        if batch.has_news(self.position):
            self._send(batch)
        if self.phase is DONE or self._paused:
            return
        feed = self.feed
        if self._settled and batch.read_end >= feed.tail.state.tail:
            self.phase = READY
            feed.ready[self] = None
        else:
            feed.context.registry.schedule(self)

    def _send(self, batch: EventBatch, prefix: bytes = b"") -> None:
        context = self.feed.context
        cursor = max(self.floor, cursors.interval_at(context.wall()))
        self.deliver(batch, prefix + batch.frame(cursor), context.clock.seconds())

    def _comment(self) -> None:
        # No comments while paused: they would pile up in the transport's buffer.
        self._comment_timer = None
        if not self._paused:
            self._comment_timer = self.feed.context.comments.add(self._comment)
            self._write(sse.COMMENT)

    def _write(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            return
        try:
            sink.write(data)
        except Exception:  # noqa: BLE001 - a sink's bug must not stop the other subscribers
            _log.failure("Writing to an SSE connection failed")
            self.abort()

    def _count_as(self, *, slow: bool) -> None:
        # A transport that loses its client inside a write may pause it after `_leave`.
        slow = slow and self.phase is not DONE
        if slow is not self._counted_slow:
            self._counted_slow = slow
            self.feed.context.piece_size.slow_readers += 1 if slow else -1

    def _leave(self) -> bool:
        """Leave the feed; return whether this is the first call."""
        if self.phase is DONE:
            return False
        feed = self.feed
        if self.phase is READY:
            del feed.ready[self]
        self.phase = DONE
        self._chunk = self._sink = None
        self._count_as(slow=False)
        if self._comment_timer is not None:
            self._comment_timer.cancel()
            self._comment_timer = None
        self._lifetime_timer.cancel()
        feed.context.registry.unschedule(self)
        feed.remove(self)
        return True
