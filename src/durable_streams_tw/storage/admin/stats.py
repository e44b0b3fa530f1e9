"""Statistics of a store: streams, bytes, producers, subscriptions."""

from __future__ import annotations

from heapq import nlargest

from msgspec import Struct

from durable_streams_tw.protocol.subscriptions.state import Kind
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.engine.tables import STREAMS, SUBSCRIPTIONS, scan_with_errors
from durable_streams_tw.storage.errors import CorruptRecord

# Number of streams to collect before the smaller ones are discarded.
_COLLECTED = 1_000


class StreamSize(Struct, frozen=True):
    """Name of a stream and the number of its own bytes."""

    path: str
    size: int


class StoreStatistics(Struct, kw_only=True):
    """Counts of a store.

    ``size`` is the number of bytes that streams own, without those that forks share with their
    sources. ``held`` streams are deleted, and kept for their forks; ``ended`` streams and
    subscriptions have records still to be deleted. ``pending`` subscriptions have unacknowledged
    work. ``unreadable`` records are in no other count. ``largest`` are the streams with the most
    bytes of their own.
    """

    streams: int = 0
    closed: int = 0
    expiring: int = 0
    forks: int = 0
    held: int = 0
    ended: int = 0
    size: int = 0
    records: int = 0
    producers: int = 0
    webhooks: int = 0
    pull_wakes: int = 0
    pending: int = 0
    unreadable: int = 0
    largest: list[StreamSize] = []


def count(view: View, top: int) -> StoreStatistics:
    """Scan a store and return its statistics, with the ``top`` largest streams."""
    found = StoreStatistics()
    largest: list[StreamSize] = []
    for _, record in scan_with_errors(view, STREAMS, b"", None):
        if isinstance(record, CorruptRecord):
            found.unreadable += 1
            continue
        state = record.state
        if state.deleted:
            found.held += 1
        else:
            found.streams += 1
            found.closed += state.closed
            found.expiring += state.deadline() is not None
        found.forks += state.fork is not None
        own = state.tail - state.origin
        found.size += own
        largest.append(StreamSize(state.path, own))
        if len(largest) >= max(_COLLECTED, 2 * top):
            largest = _top(largest, top)
    found.largest = _top(largest, top)
    found.records = _count_pairs(view, b"d", b"e")
    found.producers = _count_pairs(view, b"q", b"r")
    # Longer keys mark producers of older generations.
    found.ended = sum(1 for key, _ in view.scan(*codec.GARBAGE) if len(key) == 9)
    for _, subscription in scan_with_errors(view, SUBSCRIPTIONS, b"", None):
        if isinstance(subscription, CorruptRecord):
            found.unreadable += 1
            continue
        found.webhooks += subscription.config.kind is Kind.WEBHOOK
        found.pull_wakes += subscription.config.kind is not Kind.WEBHOOK
        found.pending += not subscription.idle
    return found


def _top(streams: list[StreamSize], number: int) -> list[StreamSize]:
    return nlargest(number, streams, key=lambda stream: stream.size)


def _count_pairs(view: View, first: bytes, stop: bytes) -> int:
    return sum(1 for _ in view.scan(first, stop))
