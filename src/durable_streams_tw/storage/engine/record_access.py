"""Small records of a view of the keyspace (see `tables`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import starmap
from typing import TypeVar

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.storage.commands.subscriptions import register
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.codec import CorruptRecord
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.engine.tables import NAMED, SUBSCRIPTIONS, Table

T = TypeVar("T")


def load(view: View, table: Table[T], key: bytes) -> T | None:
    """The record of a key. Raises `CorruptRecord`."""
    whole = table.prefix + key
    value = view.get(whole)
    return None if value is None else table.unpack(whole, value)


def scan(
    view: View, table: Table[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T]]:
    """Records with ``first <= key < stop`` in order. Raises `CorruptRecord`."""
    for key, record in scan_all(view, table, first, stop):
        if isinstance(record, CorruptRecord):
            raise record
        yield key, record


def scan_all(
    view: View, table: Table[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T | CorruptRecord]]:
    """The same, with what is wrong in place of what cannot be read."""
    prefix = table.prefix
    behind = bytes((prefix[0] + 1,)) if stop is None else prefix + stop
    for raw, value in view.scan(prefix + first, behind):
        whole = bytes(raw)
        try:
            yield whole[1:], table.unpack(whole, value)
        except CorruptRecord as corrupt:
            yield whole[1:], corrupt


def load_index(view: View, complain: Callable[[CorruptRecord], None]) -> SubscriptionIndex:
    """All subscriptions by their streams, but for those that cannot be read."""
    index = SubscriptionIndex()
    names: dict[int, str] = {}
    for _, state in scan_all(view, SUBSCRIPTIONS, b"", None):
        if isinstance(state, CorruptRecord):
            complain(state)
            continue
        register(index, state)
        if state.explicit:
            names[state.number] = state.id
    if names:
        for key, link in scan_all(view, NAMED, b"", None):
            number = int.from_bytes(key[:8], "big")
            if isinstance(link, CorruptRecord):
                complain(link)
            elif number in names:
                index.link((number, names[number]), link.path)
    return index


class ViewSnapshot:
    """A `Moment` over a view; ``usable`` says whether a client may use a stream."""

    def __init__(self, view: View, usable: Callable[[StreamState], bool]) -> None:
        self._view = view
        self._usable = usable

    def get(self, table: Table[T], key: bytes) -> T | None:
        """The record of a key."""
        return load(self._view, table, key)

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """Records in order."""
        return scan(self._view, table, first, stop)

    def living(self, path: str) -> StreamState | None:
        """The stream at a path."""
        record = reader.load_stream_at(self._view, path)
        return None if record is None or not self._usable(record.state) else record.state

    def names(self, prefix: str, after: str = "") -> Iterator[str]:
        """The names of streams that begin with a text, and perhaps others."""
        ranges = codec.path_ranges(prefix, after)
        return merge(*starmap(self._names, ranges), key=codec.order_key)

    def _names(self, first: bytes, stop: bytes) -> Iterator[str]:
        for raw, value in self._view.scan(first, stop):
            key = bytes(raw)
            # A short path is its key: it can be told, and passed, where the record is damaged.
            payload = b"" if codec.is_short(key) else codec.unseal(key, value)
            yield codec.path_of(key, payload)
