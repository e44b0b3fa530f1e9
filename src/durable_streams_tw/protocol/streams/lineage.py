"""Lineage: the incarnations that own the positions of a stream (PROTOCOL.md §8).

An incarnation is a number that is never reused, even by a copy of the store: the id of a
stream, or an id that a stream takes when a process first appends to it. An offset issued before
a deletion, or by a store of which this one is a copy, therefore has another incarnation than the
same position has now.

A fork inherits the lineage of its source up to the fork point, so inherited positions have the
same offsets in both streams.
"""

from __future__ import annotations

from bisect import bisect_left

from msgspec.structs import replace

from durable_streams_tw.protocol.limits import MAX_LINEAGE
from durable_streams_tw.protocol.streams.state import Lineage, StreamState


def incarnation(state: StreamState, position: int) -> int:
    """Return the incarnation that owns a position of a stream."""
    lineage = state.lineage
    if lineage is None:
        if state.fork is None:
            return state.id
        lineage = lineage_of(state)
    if position > lineage.starts[-1]:
        return lineage.ids[-1]
    return lineage.ids[_range(lineage, position)]


def owns(state: StreamState, number: int, position: int) -> bool:
    """Return whether an incarnation owns, or may have owned, a position of a stream."""
    lineage = lineage_of(state)
    found = _range(lineage, position)
    if number == lineage.ids[found]:
        return True
    return found == 0 and lineage.least <= number <= lineage.ids[0]


def newest_incarnation(state: StreamState) -> int:
    """Return the incarnation of the last bytes of a stream."""
    return state.id if state.lineage is None else state.lineage.ids[-1]


def lineage_of(state: StreamState) -> Lineage:
    """Return the lineage of a stream, derived if the state has none.

    A fork created before lineages were stored knows only its direct source, so every lower id
    is accepted as an ancestor.
    """
    if state.lineage is not None:
        return state.lineage
    if state.fork is None:
        return Lineage((state.id,), (0,), state.id)
    return Lineage((state.fork.source_id, state.id), (0, state.fork.position), 0)


def start_incarnation(state: StreamState, number: int, position: int) -> StreamState:
    """Return a stream with incarnation ``number`` for the positions after its tail ``position``."""
    lineage = _extended(lineage_of(state), number, position)
    if len(lineage.ids) > MAX_LINEAGE:
        # Merge the two oldest under the greater id, so that new offsets sort after those that
        # were issued before the merge.
        lineage = Lineage(lineage.ids[1:], (0, *lineage.starts[2:]), lineage.least)
    return replace(state, lineage=lineage)


def fork_lineage(source: StreamState, number: int, position: int) -> Lineage:
    """Return the lineage of the fork ``number`` of a source at a position."""
    lineage = lineage_of(source)
    kept = max(bisect_left(lineage.starts, position), 1)
    inherited = Lineage(lineage.ids[:kept], lineage.starts[:kept], lineage.least)
    return _extended(inherited, number, position)


def _extended(lineage: Lineage, number: int, position: int) -> Lineage:
    ids, starts = lineage.ids, lineage.starts
    if len(ids) > 1 and starts[-1] == position:
        # No bytes were written under the last incarnation.
        ids, starts = ids[:-1], starts[:-1]
    return Lineage((*ids, number), (*starts, position), lineage.least)


def _range(lineage: Lineage, position: int) -> int:
    return max(bisect_left(lineage.starts, position) - 1, 0)
