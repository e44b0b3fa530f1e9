"""Reader of stored bytes, those that a fork inherits included, over the records of any store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.fork_ranges import INSIDE_MESSAGE, Extent, extents, resolve_offset

Lookup = Callable[[int], StreamState | None]

StoredRecord = tuple[int, int, memoryview]
"""Position, flags (`codec.STARTS_MID_MESSAGE`, `codec.ENDS_MID_MESSAGE`) and bytes of a record."""


class ExtentReader:
    """Reader of streams whose records a subclass finds.

    ``lookup`` returns the state of a stream by its id; a source of a fork is always known. Returned
    bytes are copies. All methods that read may raise `CorruptRecord`.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def records(self, extent: Extent) -> Iterator[StoredRecord]:
        """Yield the records of an extent in order.

        The first one may begin before the extent, the last one end after it.
        """
        raise NotImplementedError

    def gather(self, state: StreamState, start: int, stop: int, limit: int) -> bytes:
        """Return about ``limit`` stored bytes of the positions ``[start, stop)``.

        In JSON mode the message that crosses the limit is included whole; otherwise the limit is
        exact.
        """
        return b"".join(self._parts(state, start, stop, limit))

    def response_end(self, state: StreamState, start: int, limit: int) -> int:
        """Return the end of a response of about ``limit`` bytes (at least 1) from ``start``.

        In JSON mode it is the end of the message that crosses the limit, otherwise the limit, in
        any case at most the tail. Copies no payload.
        """
        if limit >= state.tail - start:
            return state.tail
        last = start + limit - 1
        return last + sum(map(len, self._parts(state, last, state.tail, 1)))

    def _parts(self, state: StreamState, start: int, stop: int, limit: int) -> list[memoryview]:
        whole = content_types.is_json(state.content_type)
        parts: list[memoryview] = []
        for extent in extents(self._lookup, state, start, stop):
            limit = self._gather_extent(extent, limit, whole, parts)
            if limit <= 0:
                break
        return parts

    def _gather_extent(
        self, extent: Extent, limit: int, whole: bool, parts: list[memoryview]
    ) -> int:
        """Append an extent's bytes to ``parts``; return the rest of the limit, or less than 1."""
        position = start = extent.start
        stop = extent.stop
        for begin, flags, piece in self.records(extent):
            skipped, size = position - begin, len(piece)
            if not 0 <= skipped < size or (skipped and position != start):
                raise _corrupt(extent, f"bytes are missing or duplicated at {position}")
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
            raise _corrupt(extent, f"bytes are missing at {position}")
        return limit

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a JSON stream from a boundary to its tail.

        Yields size and bytes of runs of whole messages of at most a record each; the bytes of a
        single message that is larger than a record are None.
        """
        for extent in extents(self._lookup, state, start, state.tail):
            yield from self._extent_runs(extent)

    def _extent_runs(self, extent: Extent) -> Iterator[tuple[int, bytes | None]]:
        position = extent.start
        # Size so far of a message that continues in the next record.
        partial_size = 0
        for begin, flags, payload in self.records(extent):
            skipped = position - begin
            if not 0 <= skipped < len(payload) or (skipped and position != extent.start):
                raise _corrupt(extent, f"bytes are missing or duplicated at {position}")
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
            raise _corrupt(extent, f"bytes are missing at {position}")

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position lies between messages; always true outside JSON mode."""
        if position in (0, state.tail) or not content_types.is_json(state.content_type):
            return True
        (extent,) = extents(self._lookup, state, position, position + 1)
        for begin, flags, payload in self.records(extent):
            into = position - begin
            if into == 0:
                return not flags & codec.STARTS_MID_MESSAGE
            if into >= len(payload):
                break
            return not flags and json_mode.is_boundary(bytes(payload[:into]))
        raise _corrupt(extent, f"bytes are missing at {position}")

    def read_chunk(
        self,
        state: StreamState,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> Chunk | Refusal:
        """Read bytes of a usable stream as `IStreamStore.read` specifies."""
        position = resolve_offset(state, offset, stream_id)
        if isinstance(position, Refusal):
            return position
        if not self.is_boundary(state, position):
            return INSIDE_MESSAGE
        if not limit or position == state.tail:
            return Chunk(state, position, b"")
        stop, more = state.tail, 0
        if piece is not None:
            end = self.response_end(state, position, limit)
            stop, limit = min(end, position + piece), piece
            more = end - stop
        return Chunk(state, position, self.gather(state, position, stop, limit), more)


def _corrupt(extent: Extent, what: str) -> CorruptRecord:
    return CorruptRecord(codec.data_key(extent.stream_id, extent.start), what)
