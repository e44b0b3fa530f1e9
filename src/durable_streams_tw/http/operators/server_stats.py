"""Statistics of a running server: counters, and gauges that are read on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from msgspec import Struct, field

from durable_streams_tw.http.handlers.writes import InThread
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.metrics import StoreMetrics


class ServerStats(Struct, eq=False):
    """Sources of the statistics of one `DurableStreams`, for metrics and health checks.

    ``calls`` counts webhook calls by result. ``connections`` returns the open connections of
    clients. ``on_disk`` is true if the store has a disk or a database. ``meter`` counts the
    commands of the store from now on.
    """

    store: IStreamStore
    broadcaster: Broadcaster
    long_polls: LongPolls
    registry: FollowerRegistry
    calls: Mapping[str, int]
    connections: Callable[[], Sized]
    reactor: Any
    in_thread: InThread
    on_disk: bool
    meter: StoreMetrics = field(default_factory=StoreMetrics)

    def __post_init__(self) -> None:
        self.store.set_observer(self.meter)
