"""Broadcaster of SSE: sends each stream's events to its subscribers (PROTOCOL.md §5.8, §10.2)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.live import limits
from durable_streams_tw.live.body_output import BodySink, PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.feed import Feed, FeedContext, Subscriber
from durable_streams_tw.live.timer_queue import TimerQueue
from durable_streams_tw.protocol import cursors
from durable_streams_tw.storage.api import Chunk, IStreamStore

# Slack of the timer queues, as a fraction of their length.
_SLACK = 1 / 64

# Lifetimes of connections, as fractions of the reconnect interval; each connection gets one.
_LIFETIMES = [
    1 - limits.SSE_LIFETIME_SPREAD * step / limits.SSE_LIFETIMES
    for step in range(limits.SSE_LIFETIMES)
]


class Broadcaster:
    """All SSE connections of one store.

    A connection ends after ``reconnect_interval`` seconds, less a random part, and gets a comment
    when it has had no write for some time. ``random`` returns numbers in [0, 1) that spread cursors
    and reconnections. Cursors follow ``wall`` (default: ``clock``), in seconds since the epoch.
    """

    def __init__(
        self,
        store: IStreamStore,
        registry: FollowerRegistry,
        clock: IReactorTime,
        reconnect_interval: float,
        *,
        random: Callable[[], float],
        piece_size: PieceSize,
        wall: Seconds | None = None,
    ) -> None:
        self._random = random
        self._context = FeedContext(
            store,
            registry,
            clock,
            TimerQueue(clock, limits.SSE_COMMENT_INTERVAL, limits.SSE_COMMENT_INTERVAL * _SLACK),
            [
                TimerQueue(clock, part * reconnect_interval, reconnect_interval * _SLACK)
                for part in _LIFETIMES
            ],
            random,
            piece_size,
            wall or clock.seconds,
        )

    @property
    def count(self) -> int:
        """Return the number of connections."""
        return sum([len(feed.subscribers) for feed in self._context.feeds.values()])

    @property
    def lagging(self) -> int:
        """Return the number of connections that are not caught up."""
        feeds = self._context.feeds.values()
        return sum([len(feed.subscribers) - len(feed.ready) for feed in feeds])

    @property
    def dropped(self) -> int:
        """Return the number of connections so far that were aborted or lost while paused."""
        return self._context.dropped

    def subscribe(self, chunk: Chunk, cursor: int | None, sink: BodySink) -> Subscriber:
        """Send a stream to ``sink``, starting with ``chunk``, which was just read.

        ``chunk`` has at most about `limits.READ_PIECE` bytes; ``cursor`` is the one in the
        request. Nothing is written before this returns, so that the caller can register the
        subscriber as producer of the sink's transport first.
        """
        context = self._context
        feed = context.feeds.get(chunk.state.id)
        if feed is None or feed.tail.gone:
            feed = context.feeds[chunk.state.id] = Feed(context, chunk.state)
        else:
            feed.tail.update_from_read(chunk.state)
        return Subscriber(feed, chunk, self._floor(cursor), sink)

    def stop(self) -> None:
        """End every connection after a control event."""
        self._context.stopping = True
        for feed in list(self._context.feeds.values()):
            for subscriber in list(feed.subscribers):
                subscriber.end()

    def _floor(self, echoed: int | None) -> int:
        """Return the least cursor to send, above the client's unless that is past (§10.1)."""
        now = self._context.wall()
        if echoed is None or echoed < cursors.interval_at(now):
            return 0
        return cursors.next_cursor(now, echoed, self._random())
