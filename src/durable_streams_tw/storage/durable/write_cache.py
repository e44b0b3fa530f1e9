"""Write cache: streams, producers and records that the committer keeps between batches.

Only the committer thread uses it, and one process owns a store, so it equals the disk. It is
cleared after a batch that failed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.engine.codec import StreamRecord, stream_key
from durable_streams_tw.storage.engine.tables import StagedBody


class OpenStream:
    """Record of a stream as fields that a batch changes in place; ``key`` is its engine key.

    ``last_value`` is the value of the last data record if cached. ``pending`` are the bodies of the
    current batch, the first of which goes to the position ``pending_from``.
    """

    __slots__ = (
        "indexed_at",
        "key",
        "last_start",
        "last_value",
        "pending",
        "pending_from",
        "producers",
        "state",
    )

    def __init__(self, record: StreamRecord) -> None:
        self.state: StreamState = record.state
        self.key = stream_key(record.state.id)
        self.indexed_at = record.indexed_at
        self.last_start = record.last_start
        self.producers = record.producers
        self.last_value: bytes | None = None
        self.pending: list[Body] = []
        self.pending_from = 0

    def record(self) -> StreamRecord:
        """Return the record to write."""
        return StreamRecord(self.state, self.indexed_at, self.last_start, self.producers)


class WriteCache:
    """Bounded caches of the committer; the oldest entries are evicted first.

    ``first_id`` is the least id that this process may give (`format_version.first_id`).
    ``process_first_id`` is the least one that it gives: greater if the clock was set back.
    ``max_producers`` is the size of a generation of a stream's producers.
    """

    def __init__(self, first_id: int = 0, max_producers: int = limits.MAX_PRODUCERS) -> None:
        self.first_id = first_id
        self.max_producers = max_producers
        self.process_first_id: int | None = None
        self.by_path: BoundedCache[str, OpenStream] = BoundedCache(limits.STATE_CACHE)
        self.by_id: dict[int, OpenStream] = {}
        # Generation and state by stream id and producer id.
        self.producers: BoundedCache[tuple[int, str], tuple[int, ProducerState]] = BoundedCache(
            limits.PRODUCER_CACHE
        )
        self.next_id: int | None = None
        # Records by whole key, None if the key has no record.
        self.records: BoundedCache[bytes, Any] = BoundedCache(limits.RECORD_CACHE)
        self.index: SubscriptionIndex | None = None
        # Unfinished fan-outs by stream; None before they are loaded.
        self.fan_outs: OrderedDict[str, FanOut] | None = None
        # Bodies that are being written, by stream; None before they are loaded.
        self.staged: dict[str, StagedBody] | None = None
        # Keys of records read ahead, in reverse order, by the table's prefix and the number that
        # owns the records.
        self.ahead: BoundedCache[tuple[bytes, int], list[bytes]] = BoundedCache(
            limits.OWNED_AHEAD_CACHE
        )
        # Total size of the cached last data records.
        self._kept_bytes = 0

    def remember(self, stream: OpenStream) -> None:
        """Add a stream."""
        self.by_path.insert(stream.state.path, stream)
        self.by_id[stream.state.id] = stream

    def forget(self, state: StreamState) -> None:
        """Remove a stream that has ended."""
        self.by_path.pop(state.path)
        self.keep(self.by_id.pop(state.id), None)

    def keep(self, stream: OpenStream, value: bytes | None) -> None:
        """Cache the value of a stream's last data record, which the next batch may extend."""
        before, stream.last_value = stream.last_value, value
        if before is not None:
            self._kept_bytes -= len(before)
        if value is not None:
            self._kept_bytes += len(value)

    def trim(self) -> None:
        """Evict entries above the bounds. Call between batches."""
        for _, stream in self.by_path.trim():
            self.keep(self.by_id.pop(stream.state.id), None)
        self.producers.trim()
        self.records.trim()
        if self._kept_bytes > limits.PAYLOAD_CACHE:
            self._keep_less()

    def _keep_less(self) -> None:
        # Down to half of the bound: otherwise each batch would scan all streams.
        for stream in self.by_id.values():
            if self._kept_bytes <= limits.PAYLOAD_CACHE // 2:
                return
            self.keep(stream, None)

    def clear(self) -> None:
        """Clear the cache, because the disk may differ from it."""
        self.by_path.clear()
        self.by_id.clear()
        self.producers.clear()
        self.next_id = None
        self.records.clear()
        self.index = None
        self.fan_outs = None
        self.staged = None
        self.ahead.clear()
        self._kept_bytes = 0
