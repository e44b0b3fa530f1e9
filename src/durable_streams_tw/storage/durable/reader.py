"""Reader of streams in an engine view: records, and bytes that forks inherit included.

Returned bytes are copies: memory of LMDB is valid only while the view is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import starmap
from typing import TypeVar

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk, RecordTable
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.fork_ranges import INSIDE_MESSAGE, Extent, extents, resolve_offset

T = TypeVar("T")

Lookup = Callable[[int], StreamState | None]


def load_stream(view: View, stream_id: int) -> codec.StreamRecord | None:
    """Return the record of a stream. Raises `CorruptRecord`."""
    key = codec.stream_key(stream_id)
    value = view.get(key)
    return None if value is None else codec.unpack_stream(key, value)


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


def lookup_in(view: View) -> Lookup:
    """Return a function that loads the state of a stream by its id."""

    def lookup(stream_id: int) -> StreamState | None:
        record = load_stream(view, stream_id)
        return None if record is None else record.state

    return lookup


def gather(
    view: View, lookup: Lookup, state: StreamState, start: int, stop: int, limit: int
) -> bytes:
    """Return about ``limit`` stored bytes of the positions ``[start, stop)``.

    In JSON mode the message that crosses the limit is included whole; otherwise the limit is exact.
    Raises `CorruptRecord`.
    """
    return b"".join(_parts(view, lookup, state, start, stop, limit))


def response_end(view: View, lookup: Lookup, state: StreamState, start: int, limit: int) -> int:
    """Return the end of a response of about ``limit`` bytes (at least 1) from ``start``.

    In JSON mode it is the end of the message that crosses the limit, otherwise the limit, in any
    case at most the tail. Copies no payload. Raises `CorruptRecord`.
    """
    if limit >= state.tail - start:
        return state.tail
    last = start + limit - 1
    return last + sum(map(len, _parts(view, lookup, state, last, state.tail, 1)))


def _parts(
    view: View, lookup: Lookup, state: StreamState, start: int, stop: int, limit: int
) -> list[memoryview]:
    """Return memory of LMDB, valid while the view is open."""
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
    """Append an extent's bytes to ``parts``; return the rest of the limit, at most 0 if reached."""
    position = extent.start
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    stop_key = codec.data_key(extent.stream_id, extent.stop)
    start, stop = extent.start, extent.stop
    for raw, value in view.scan_from_floor(first, lowest, stop_key):
        key = bytes(raw)
        flags, piece = codec.unpack_data(key, value)
        begin = codec.position_of(key)
        skipped, size = position - begin, len(piece)
        if not 0 <= skipped < size or (skipped and position != start):
            raise CorruptRecord(key, f"bytes are missing or duplicated at {position}")
        most = stop - position if whole else min(stop - position, limit)
        # Most records are used whole: slice only if needed.
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
    """Yield the stored messages of a JSON stream from a boundary to its tail.

    Yields size and bytes of runs of whole messages of at most a record each; the bytes of a single
    message that is larger than a record are None. Raises `CorruptRecord`.
    """
    for extent in extents(lookup, state, start, state.tail):
        yield from _extent_runs(view, extent)


def _extent_runs(view: View, extent: Extent) -> Iterator[tuple[int, bytes | None]]:
    position = extent.start
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    stop_key = codec.data_key(extent.stream_id, extent.stop)
    # Size so far of a message that continues in the next record.
    partial_size = 0
    for raw, value in view.scan_from_floor(first, lowest, stop_key):
        key = bytes(raw)
        flags, payload = codec.unpack_data(key, value)
        skipped = position - codec.position_of(key)
        if not 0 <= skipped < len(payload) or (skipped and position != extent.start):
            raise CorruptRecord(key, f"bytes are missing or duplicated at {position}")
        piece = payload[skipped : skipped + extent.stop - position]
        position += len(piece)
        if not flags:
            yield len(piece), bytes(piece)
            continue
        partial_size += len(piece)
        if not flags & codec.ENDS_MID_MESSAGE:
            yield partial_size, None
            partial_size = 0
    if position < extent.stop or partial_size:
        raise CorruptRecord(first, f"bytes are missing at {position}")


def read_chunk(
    view: View,
    state: StreamState,
    offset: RequestedOffset,
    limit: int,
    stream_id: int | None,
    piece: int | None,
) -> Chunk | Refusal:
    """Read bytes of a usable stream as `IStreamStore.read` specifies. Raises `CorruptRecord`."""
    position = resolve_offset(state, offset, stream_id)
    if isinstance(position, Refusal):
        return position
    lookup = lookup_in(view)
    if not is_boundary(view, lookup, state, position):
        return INSIDE_MESSAGE
    if not limit or position == state.tail:
        return Chunk(state, position, b"")
    stop, more = state.tail, 0
    if piece is not None:
        end = response_end(view, lookup, state, position, limit)
        stop, limit = min(end, position + piece), piece
        more = end - stop
    return Chunk(state, position, gather(view, lookup, state, position, stop, limit), more)


class ViewReader:
    """Reader that the commands use to count forks and check acks. Raises `CorruptRecord`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lookup = lookup_in(view)

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream that holds a path."""
        record = load_stream_at(self._view, path)
        return None if record is None else record.state

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream of an id."""
        return self._lookup(stream_id)

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position lies between messages."""
        return is_boundary(self._view, self._lookup, state, position)

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a JSON stream from a boundary to its tail."""
        return message_runs(self._view, self._lookup, state, start)


def is_boundary(view: View, lookup: Lookup, state: StreamState, position: int) -> bool:
    """Return whether a position lies between messages; always true outside JSON mode.

    Raises `CorruptRecord`.
    """
    if position in (0, state.tail) or not content_types.is_json(state.content_type):
        return True
    (extent,) = extents(lookup, state, position, position + 1)
    first = codec.data_key(extent.stream_id, position)
    lowest = codec.data_key(extent.stream_id, 0)
    stop_key = codec.data_key(extent.stream_id, position + 1)
    for key, value in view.scan_from_floor(first, lowest, stop_key):
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
