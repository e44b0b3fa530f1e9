"""Where the bytes of a stream stand: in its own log, and in those of its fork's sources.

A fork shares its source's positions, so a range of a fork is a chain of ranges, each in
the log of one ancestor (PROTOCOL.md §4.2, §8).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import offsets
from durable_streams_tw.protocol.streams.state import StreamState

TORN = Refusal(
    Problem.OFFSET_OUT_OF_RANGE,
    "the offset lies inside a message: use one that this server returned in Stream-Next-Offset",
)
REPLACED = Refusal(Problem.STREAM_NOT_FOUND, "the stream is gone")


class Extent(Struct, frozen=True):
    """The positions ``[start, stop)`` of a log: the own bytes of the stream ``stream_id``."""

    stream_id: int
    start: int
    stop: int


def extents(
    lookup: Callable[[int], StreamState | None], state: StreamState, start: int, stop: int
) -> list[Extent]:
    """The extents of a stream's positions ``[start, stop)``, in order.

    ``lookup`` gives the state of a stream by id. Walks up the sources in a loop: chains may
    be deep.
    """
    found: list[Extent] = []
    while start < stop:
        origin = state.origin
        if origin < stop:
            found.append(Extent(state.id, max(start, origin), stop))
            stop = max(start, origin)
        if start < stop:
            assert state.fork is not None, "positions before a stream's origin are a source's"
            source = lookup(state.fork.source_id)
            assert source is not None, "a source outlives its forks"
            state = source
    found.reverse()
    return found


def resolve(
    state: StreamState, offset: offsets.RequestedOffset, stream_id: int | None
) -> int | Refusal:
    """The position that a reader asks for, where the stream has it.

    ``stream_id`` is the stream that the reader has been reading, None where it begins.
    """
    if stream_id is not None and stream_id != state.id:
        return REPLACED
    return offsets.resolve(state, offset)


def same_stream(found: StreamState | Refusal, stream_id: int) -> StreamState | Refusal:
    """Return what was found at a path, or a refusal where that is another stream."""
    if isinstance(found, Refusal) or found.id == stream_id:
        return found
    return REPLACED
