"""Ranges of a fork: bytes in its own log and in the logs of its sources.

A fork shares positions with its source, so a range of a fork is a sequence of ranges, each in the
log of one ancestor (PROTOCOL.md §4.2, §8).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import offsets
from durable_streams_tw.protocol.streams.state import StreamState

INSIDE_MESSAGE = Refusal(
    Problem.OFFSET_OUT_OF_RANGE,
    "the offset lies inside a message: use one that this server returned in Stream-Next-Offset",
)
STREAM_REPLACED = Refusal(Problem.STREAM_NOT_FOUND, "the stream is gone")


class Extent(Struct, frozen=True):
    """Positions ``[start, stop)`` in the log of one stream."""

    stream_id: int
    start: int
    stop: int


def extents(
    lookup: Callable[[int], StreamState | None], state: StreamState, start: int, stop: int
) -> list[Extent]:
    """Return the extents of a stream's positions ``[start, stop)``, in order.

    ``lookup`` returns the state of a stream by its id.
    """
    found: list[Extent] = []
    # A loop, not recursion: forks may be MAX_FORK_DEPTH deep.
    while start < stop:
        origin = state.origin
        if origin < stop:
            found.append(Extent(state.id, max(start, origin), stop))
            stop = max(start, origin)
        if start < stop:
            assert state.fork is not None, "positions before a stream's origin belong to its source"
            source = lookup(state.fork.source_id)
            assert source is not None, "a source outlives its forks"
            state = source
    found.reverse()
    return found


def resolve_offset(
    state: StreamState, offset: offsets.RequestedOffset, stream_id: int | None
) -> int | Refusal:
    """Return the position of a requested offset, or a refusal if the stream does not have it.

    ``stream_id`` is the stream that the reader has read so far, None on its first read.
    """
    if stream_id is not None and stream_id != state.id:
        return STREAM_REPLACED
    return offsets.resolve(state, offset)


def check_same_stream(found: StreamState | Refusal, stream_id: int) -> StreamState | Refusal:
    """Return the state found at a path, or a refusal if it belongs to another stream."""
    if isinstance(found, Refusal) or found.id == stream_id:
        return found
    return STREAM_REPLACED
