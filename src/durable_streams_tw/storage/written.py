"""What the committer remembers between batches: streams, producers, last records.

Only the committer's thread uses it, and one process owns a store, so what is remembered is
what the disk has; after a batch that failed everything is forgotten.
"""

from __future__ import annotations

from typing import Any

from durable_streams_tw.protocol.bodies import Body
from durable_streams_tw.protocol.limits import (
    PAYLOAD_CACHE,
    PRODUCER_CACHE,
    RECORD_CACHE,
    STATE_CACHE,
)
from durable_streams_tw.protocol.producers import ProducerState
from durable_streams_tw.protocol.state import StreamState
from durable_streams_tw.protocol.subscription_index import SubscriptionIndex
from durable_streams_tw.storage.records import StreamRecord


class OpenStream:
    """A stream's record, taken apart so that a batch can change it in place.

    ``pending`` are the bodies of the running batch, the first of which goes to the position
    ``pending_from``.
    """

    __slots__ = ("indexed_at", "last_start", "pending", "pending_from", "state")

    def __init__(self, record: StreamRecord) -> None:
        self.state: StreamState = record.state
        self.indexed_at = record.indexed_at
        self.last_start = record.last_start
        self.pending: list[Body] = []
        self.pending_from = 0

    def record(self) -> StreamRecord:
        """The record as it is to be written."""
        return StreamRecord(self.state, self.indexed_at, self.last_start)


class Written:
    """Bounded memories; what has been there longest goes first."""

    def __init__(self) -> None:
        self.by_path: dict[str, OpenStream] = {}
        self.by_id: dict[int, OpenStream] = {}
        self.producers: dict[tuple[int, str], ProducerState] = {}
        self.payloads: dict[int, bytes] = {}
        self.next_id: int | None = None
        # Records by whole key, None where there is none; and which subscriptions there are.
        self.records: dict[bytes, Any] = {}
        self.index: SubscriptionIndex | None = None
        self._payload_bytes = 0

    def remember(self, stream: OpenStream) -> None:
        """Keep a stream."""
        self.by_path[stream.state.path] = stream
        self.by_id[stream.state.id] = stream

    def forget(self, state: StreamState) -> None:
        """Drop a stream that is gone."""
        del self.by_path[state.path]
        del self.by_id[state.id]
        self.take_payload(state.id)

    def keep_payload(self, stream_id: int, payload: bytes) -> None:
        """Keep the bytes of a stream's last record, which the next batch may extend."""
        self.take_payload(stream_id)
        self.payloads[stream_id] = payload
        self._payload_bytes += len(payload)

    def take_payload(self, stream_id: int) -> bytes | None:
        """The bytes of a stream's last record where they are kept; they are dropped."""
        payload = self.payloads.pop(stream_id, None)
        if payload is not None:
            self._payload_bytes -= len(payload)
        return payload

    def trim(self) -> None:
        """Back within bounds, between batches."""
        while len(self.by_path) > STATE_CACHE:
            self.forget(next(iter(self.by_path.values())).state)
        while len(self.producers) > PRODUCER_CACHE:
            del self.producers[next(iter(self.producers))]
        while len(self.records) > RECORD_CACHE:
            del self.records[next(iter(self.records))]
        while self._payload_bytes > PAYLOAD_CACHE:
            self.take_payload(next(iter(self.payloads)))

    def clear(self) -> None:
        """Forget everything: the disk may differ."""
        self.by_path.clear()
        self.by_id.clear()
        self.producers.clear()
        self.payloads.clear()
        self.next_id = None
        self.records.clear()
        self.index = None
        self._payload_bytes = 0
