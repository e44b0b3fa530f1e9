"""Event streams: one stream's commits to all who follow it (PROTOCOL.md §5.8, §10.2)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.live.limits import SSE_COMMENT_INTERVAL, SSE_LIFETIME_SPREAD, SSE_LIFETIMES
from durable_streams_tw.live.piece_size import PieceSize
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.feed import Feed
from durable_streams_tw.live.sse.subscriber import EventSink, FeedContext, Subscriber
from durable_streams_tw.live.timer_queue import TimerQueue
from durable_streams_tw.protocol import cursors
from durable_streams_tw.storage.api import Chunk, IStreamStore

__all__ = ["Broadcaster", "EventSink", "Subscriber"]

# Equal timeouts of readers may fire together within this part of their length.
_SLACK = 1 / 64

# Parts of the reconnect interval, of which each connection gets one.
_LIFETIMES = [1 - SSE_LIFETIME_SPREAD * step / SSE_LIFETIMES for step in range(SSE_LIFETIMES)]


class Broadcaster:
    """The event streams of one store.

    A connection ends after ``reconnect_interval`` seconds, or a little earlier by chance, and is
    sent a comment after ``comment_interval`` seconds of silence. ``random`` gives numbers in
    [0, 1) that spread cursors and reconnections; cursors follow ``wall`` (default: ``clock``), in
    seconds since the Unix epoch.
    """

    def __init__(
        self,
        store: IStreamStore,
        tails: FollowerRegistry,
        clock: IReactorTime,
        reconnect_interval: float,
        comment_interval: float = SSE_COMMENT_INTERVAL,
        *,
        random: Callable[[], float],
        pieces: PieceSize | None = None,
        wall: Seconds | None = None,
    ) -> None:
        self._random = random
        self._around = FeedContext(
            store,
            tails,
            clock,
            TimerQueue(clock, comment_interval, comment_interval * _SLACK),
            [
                TimerQueue(clock, part * reconnect_interval, reconnect_interval * _SLACK)
                for part in _LIFETIMES
            ],
            random,
            pieces or PieceSize(),
            wall or clock.seconds,
        )

    @property
    def count(self) -> int:
        """How many connections there are."""
        return sum([len(feed.subscribers) for feed in self._around.feeds.values()])

    @property
    def lagging(self) -> int:
        """How many of them are not caught up."""
        feeds = self._around.feeds.values()
        return sum([len(feed.subscribers) - len(feed.ready) for feed in feeds])

    @property
    def dropped(self) -> int:
        """How many have been cut so far, or have gone while their transport was full."""
        return self._around.dropped

    def subscribe(self, chunk: Chunk, cursor: int | None, sink: EventSink) -> Subscriber:
        """Send a stream to ``sink``, beginning with ``chunk``, which was just read.

        ``chunk`` is at most about `limits.READ_PIECE` bytes; ``cursor`` is what the client
        echoed. Nothing is written before this has returned: there is time to register the
        subscriber as the producer of whatever the sink writes to.
        """
        around = self._around
        feed = around.feeds.get(chunk.state.id)
        if feed is None or feed.tail.gone:
            feed = around.feeds[chunk.state.id] = Feed(around, chunk.state)
        else:
            feed.tail.saw(chunk.state)
        return Subscriber(feed, chunk, self._floor(cursor), sink)

    def stop(self) -> None:
        """End every connection behind a control event."""
        self._around.stopping = True
        for feed in list(self._around.feeds.values()):
            for subscriber in list(feed.subscribers):
                subscriber.end()

    def _floor(self, echoed: int | None) -> int:
        # A client whose cursor is not behind must get beyond it (§10.1); one that is behind,
        # or has none, follows the time.
        now = self._around.wall()
        if echoed is None or echoed < cursors.interval_at(now):
            return 0
        return cursors.next_cursor(now, echoed, self._random())
