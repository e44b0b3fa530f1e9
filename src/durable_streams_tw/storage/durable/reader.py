"""Reader of streams in an engine view: records, and bytes that forks inherit included.

Returned bytes are copies: memory of LMDB is valid only while the view is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from heapq import merge
from itertools import starmap
from typing import TypeVar

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.fork_ranges import Extent
from durable_streams_tw.storage.shared.extent_reader import ExtentReader, Lookup, StoredRecord

T = TypeVar("T")


def load_stream(view: View, stream_id: int) -> codec.StreamRecord | None:
    """Return the record of a stream. Raises `CorruptRecord`."""
    key = codec.stream_key(stream_id)
    value = view.get(key)
    return None if value is None else tables.STREAMS.unpack(key, value)


def load_state(view: View, stream_id: int) -> StreamState | None:
    """Return the state of a stream. Raises `CorruptRecord`."""
    record = load_stream(view, stream_id)
    return None if record is None else record.state


def load_stream_at(view: View, path: str) -> codec.StreamRecord | None:
    """Return the record of the stream that holds a path. Raises `CorruptRecord`."""
    key = codec.path_key(path)
    value = view.get(key)
    if value is None:
        return None
    record = load_stream(view, codec.unpack_path(codec.unseal(key, value)))
    if record is None or record.state.path != path:
        raise CorruptRecord(key, "the path refers to a missing stream")
    return record


def load_next_id(view: View) -> int:
    """Return the next stream id. Raises `CorruptRecord`; a guess could repeat ids."""
    value = view.get(codec.NEXT_ID_KEY)
    if value is None:
        raise CorruptRecord(codec.NEXT_ID_KEY, "the next stream id is missing")
    return codec.unpack_integer(codec.unseal(codec.NEXT_ID_KEY, value))


class ViewReader(ExtentReader):
    """Reader of streams in an engine view. ``lookup`` replaces the view's states of streams.

    All methods raise `CorruptRecord`.
    """

    def __init__(self, view: View, lookup: Lookup | None = None) -> None:
        # Not `self.stream`: a reference cycle would keep the view's LMDB transaction, and its
        # reader slot, until the next garbage collection.
        super().__init__(lookup or partial(load_state, view))
        self._view = view

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream that holds a path."""
        record = load_stream_at(self._view, path)
        return None if record is None else record.state

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream of an id."""
        return load_state(self._view, stream_id)

    def records(self, extent: Extent) -> Iterator[StoredRecord]:
        """Yield the records of an extent. The bytes are memory of LMDB."""
        stream_id = extent.stream_id
        first = codec.data_key(stream_id, extent.start)
        lowest = codec.data_key(stream_id, 0)
        stop = codec.data_key(stream_id, extent.stop)
        for raw, value in self._view.scan_from_floor(first, lowest, stop):
            key = bytes(raw)
            flags, payload = codec.unpack_data(key, value)
            yield codec.position_of(key), flags, payload


class ViewSnapshot:
    """`StoreSnapshot` over an engine view. ``usable`` tells whether clients may use a stream."""

    def __init__(self, view: View, usable: Callable[[StreamState], bool]) -> None:
        self._view = view
        self._usable = usable

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """Return the record of a key, or None."""
        return tables.load(self._view, table, key)

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop``, in order."""
        return tables.scan(self._view, table, first, stop)

    def active_stream(self, path: str) -> StreamState | None:
        """Return the state of the stream at a path, or None if no client may use it."""
        record = load_stream_at(self._view, path)
        return None if record is None or not self._usable(record.state) else record.state

    def stream_names(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield stream names with a prefix, in listing order; a few others may be among them."""
        ranges = codec.path_ranges(prefix, after)
        return merge(*starmap(self._names, ranges), key=codec.listing_key)

    def _names(self, first: bytes, stop: bytes) -> Iterator[str]:
        for raw, value in self._view.scan(first, stop):
            key = bytes(raw)
            # The key of a short path is the path: a damaged record does not end the listing.
            payload = b"" if codec.is_short(key) else codec.unseal(key, value)
            yield codec.path_of(key, payload)
