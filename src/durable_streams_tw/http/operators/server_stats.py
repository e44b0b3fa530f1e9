"""Statistics of a running server: counters, and gauges that are read on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.http.handlers.writes import InThread
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.storage.api import IStreamStore, Stats
from durable_streams_tw.storage.metrics import StoreMetrics


class ServerStats:
    """Statistics of one `DurableStreams`, for metrics and health checks."""

    def __init__(
        self,
        store: IStreamStore,
        broadcaster: Broadcaster,
        long_polls: LongPolls,
        registry: FollowerRegistry,
        calls: Mapping[str, int],
        connections: Callable[[], Sized],
        reactor: Any,
        in_thread: InThread,
        on_disk: bool,
    ) -> None:
        #: Counters of the store, from now on.
        self.meter = StoreMetrics()
        store.set_observer(self.meter)
        #: Number of webhook calls by result.
        self.calls = calls
        self.reactor = reactor
        self.in_thread = in_thread
        #: Whether the streams are stored on disk.
        self.on_disk = on_disk
        self._store = store
        self._broadcaster = broadcaster
        self._long_polls = long_polls
        self._registry = registry
        self._connections = connections

    def levels(self) -> Deferred[Stats | None]:
        """Return the statistics of the store's disk, None if it has none."""
        return self._store.stats()

    def obstacle(self) -> Deferred[str | None]:
        """Return why nothing can be written, None if writing works. May never fire."""
        return self._store.check_writable()

    @property
    def connections(self) -> int:
        """Number of open client connections."""
        return len(self._connections())

    @property
    def long_polls(self) -> int:
        """Number of waiting long-polls."""
        return self._long_polls.count

    @property
    def event_streams(self) -> int:
        """Number of SSE connections."""
        return self._broadcaster.count

    @property
    def lagging(self) -> int:
        """Number of SSE connections that are not at the tail."""
        return self._broadcaster.lagging

    @property
    def dropped(self) -> int:
        """Number of SSE connections so far that were closed before they reached the tail."""
        return self._broadcaster.dropped

    @property
    def followed(self) -> int:
        """Number of streams with at least one live reader."""
        return self._registry.count
