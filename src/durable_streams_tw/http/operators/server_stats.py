"""What can be seen of running streams: counters that run on, and levels to be read when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.http.handlers.writes import InThread
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.storage.api import IStreamStore, StoreStats
from durable_streams_tw.storage.metrics import StoreMetrics


class ServerStats:
    """One set of streams, as operators see it. Looking changes nothing and stops nobody."""

    def __init__(
        self,
        store: IStreamStore,
        fanout: Broadcaster,
        long_polls: LongPolls,
        tails: FollowerRegistry,
        calls: Mapping[str, int],
        connections: Callable[[], Sized],
        reactor: Any,
        in_thread: InThread,
        on_disk: bool,
    ) -> None:
        #: What the store has done since now.
        self.meter = StoreMetrics()
        store.set_observer(self.meter)
        #: Webhook calls so far, by result.
        self.calls = calls
        self.reactor = reactor
        self.in_thread = in_thread
        #: Whether the streams are kept.
        self.on_disk = on_disk
        self._store = store
        self._fanout = fanout
        self._long_polls = long_polls
        self._tails = tails
        self._connections = connections

    def levels(self) -> Deferred[StoreStats | None]:
        """How the store stands on its disk; None where it has none."""
        return self._store.stats()

    def obstacle(self) -> Deferred[str | None]:
        """Why nothing can be written, None where it can; may never fire."""
        return self._store.check_writable()

    @property
    def connections(self) -> int:
        """Open connections of clients."""
        return len(self._connections())

    @property
    def long_polls(self) -> int:
        """Readers that wait for an answer."""
        return self._long_polls.count

    @property
    def event_streams(self) -> int:
        """Event stream connections."""
        return self._fanout.count

    @property
    def lagging(self) -> int:
        """Event stream connections that are not caught up."""
        return self._fanout.lagging

    @property
    def dropped(self) -> int:
        """Event stream connections so far that ended before they had all."""
        return self._fanout.dropped

    @property
    def followed(self) -> int:
        """Streams with at least one live reader."""
        return self._tails.count
