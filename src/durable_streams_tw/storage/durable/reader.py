"""Reading a stream's bytes from a view of the engine, through its fork's sources too.

Nothing here keeps a window into the map: what is returned is copied before the view closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import starmap
from typing import TypeVar

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.fork_ranges import Extent, extents

T = TypeVar("T")

Lookup = Callable[[int], StreamState | None]


def load_stream(view: View, stream_id: int) -> codec.StreamRecord | None:
    """The record of a stream. Raises `CorruptRecord`."""
    key = codec.stream_key(stream_id)
    value = view.get(key)
    return None if value is None else codec.unpack_stream(key, value)


def load_stream_at(view: View, path: str) -> codec.StreamRecord | None:
    """The record of the stream that holds a path. Raises `CorruptRecord`."""
    key = codec.path_key(path)
    value = view.get(key)
    if value is None:
        return None
    record = load_stream(view, codec.unpack_path(codec.unseal(key, value)))
    if record is None or record.state.path != path:
        raise CorruptRecord(key, "a path leads to no stream")
    return record


def load_next_id(view: View) -> int:
    """The next stream id. Raises `CorruptRecord`: without it ids would be given twice."""
    value = view.get(codec.NEXT_ID_KEY)
    if value is None:
        raise CorruptRecord(codec.NEXT_ID_KEY, "the next stream id is missing")
    return codec.unpack_integer(codec.unseal(codec.NEXT_ID_KEY, value))


def lookup_in(view: View) -> Lookup:
    """States by id, as the view has them."""

    def lookup(stream_id: int) -> StreamState | None:
        record = load_stream(view, stream_id)
        return None if record is None else record.state

    return lookup


def gather(
    view: View, lookup: Lookup, state: StreamState, start: int, stop: int, limit: int
) -> bytes:
    """About ``limit`` stored bytes of the positions ``[start, stop)``.

    ``lookup`` gives the states of a fork's sources. In JSON mode the message that crosses
    the limit comes whole, in all others the limit is exact. Raises `CorruptRecord`.
    """
    return b"".join(_parts(view, lookup, state, start, stop, limit))


def answer_end(view: View, lookup: Lookup, state: StreamState, start: int, limit: int) -> int:
    """Return where an answer of about ``limit`` bytes (at least 1) from ``start`` ends.

    In JSON mode after the message that crosses the limit, in all others exactly at the limit; at
    the tail at the latest. Copies no payload. Raises `CorruptRecord`.
    """
    if limit >= state.tail - start:
        return state.tail
    last = start + limit - 1
    return last + sum(map(len, _parts(view, lookup, state, last, state.tail, 1)))


def _parts(
    view: View, lookup: Lookup, state: StreamState, start: int, stop: int, limit: int
) -> list[memoryview]:
    """Return windows into the map: valid while the view is open."""
    whole = content_types.is_json(state.content_type)
    parts: list[memoryview] = []
    for extent in extents(lookup, state, start, stop):
        limit = _gather_extent(view, extent, limit, whole, parts)
        if limit <= 0:
            break
    return parts


def _gather_extent(
    view: View, extent: Extent, limit: int, whole: bool, parts: list[memoryview]
) -> int:
    """Collect an extent's bytes; what is left of the limit, not above 0 when it is reached."""
    position = extent.start
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    behind = codec.data_key(extent.stream_id, extent.stop)
    start, stop = extent.start, extent.stop
    for raw, value in view.scan_from_floor(first, lowest, behind):
        key = bytes(raw)
        flags, piece = codec.unpack_data(key, value)
        begin = codec.position_of(key)
        skipped, size = position - begin, len(piece)
        if not 0 <= skipped < size or (skipped and position != start):
            raise CorruptRecord(key, f"bytes are missing or doubled at {position}")
        most = stop - position if whole else min(stop - position, limit)
        # Nearly all come whole, and need no cutting.
        if skipped or size > most:
            piece = piece[skipped : skipped + most]
            size = len(piece)
        parts.append(piece)
        position += size
        limit -= size
        if limit <= 0 and not (whole and flags & codec.ENDS_MID_MESSAGE):
            return limit
    if position < stop:
        raise CorruptRecord(first, f"bytes are missing at {position}")
    return limit


def message_runs(
    view: View, lookup: Lookup, state: StreamState, start: int
) -> Iterator[tuple[int, bytes | None]]:
    """The stored messages of a stream in JSON mode from a boundary up to its tail.

    Sizes of runs of whole messages, and their bytes, at most a record; None in their place for one
    message that is larger than a record. Raises `CorruptRecord`.
    """
    for extent in extents(lookup, state, start, state.tail):
        yield from _extent_runs(view, extent)


def _extent_runs(view: View, extent: Extent) -> Iterator[tuple[int, bytes | None]]:
    position = extent.start
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    behind = codec.data_key(extent.stream_id, extent.stop)
    # Bytes of a message that goes on in the next record.
    torn = 0
    for raw, value in view.scan_from_floor(first, lowest, behind):
        key = bytes(raw)
        flags, payload = codec.unpack_data(key, value)
        skipped = position - codec.position_of(key)
        if not 0 <= skipped < len(payload) or (skipped and position != extent.start):
            raise CorruptRecord(key, f"bytes are missing or doubled at {position}")
        piece = payload[skipped : skipped + extent.stop - position]
        position += len(piece)
        if not flags:
            yield len(piece), bytes(piece)
            continue
        torn += len(piece)
        if not flags & codec.ENDS_MID_MESSAGE:
            yield torn, None
            torn = 0
    if position < extent.stop or torn:
        raise CorruptRecord(first, f"bytes are missing at {position}")


class ViewReader:
    """What forks are counted with, over a view. Raises `CorruptRecord`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lookup = lookup_in(view)

    def stream_at(self, path: str) -> StreamState | None:
        """The stream that holds a path."""
        record = load_stream_at(self._view, path)
        return None if record is None else record.state

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of an id."""
        return self._lookup(stream_id)

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Whether a position lies between messages."""
        return is_boundary(self._view, self._lookup, state, position)

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """The stored messages of a stream."""
        return message_runs(self._view, self._lookup, state, start)


def is_boundary(view: View, lookup: Lookup, state: StreamState, position: int) -> bool:
    """Whether a position lies between messages (always, outside JSON mode).

    Raises `CorruptRecord`.
    """
    if position in (0, state.tail) or not content_types.is_json(state.content_type):
        return True
    (extent,) = extents(lookup, state, position, position + 1)
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    behind = codec.data_key(extent.stream_id, position + 1)
    for key, value in view.scan_from_floor(first, lowest, behind):
        flags, payload = codec.unpack_data(bytes(key), value)
        into = position - codec.position_of(key)
        if into == 0:
            return not flags & codec.STARTS_MID_MESSAGE
        if into >= len(payload):
            break
        return not flags and json_mode.is_boundary(bytes(payload[:into]))
    raise CorruptRecord(first, f"bytes are missing at {position}")


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
