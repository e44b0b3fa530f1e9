"""Lineage: which incarnation of a stream owns which of its positions (PROTOCOL.md §8).

An incarnation is a number that is never used twice, also not by a copy of the store: the id of
a stream, or an id that a stream takes when a process appends to it for the first time. So an
offset that was given before a deletion, or by a store of which this one is a copy, names bytes
of another incarnation, even where a position of the same number exists.

A fork takes over its source's lineage up to the fork point: inherited positions have the same
offsets in both.
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
    """Return the incarnation that a stream's last bytes were written under."""
    return state.id if state.lineage is None else state.lineage.ids[-1]


def lineage_of(state: StreamState) -> Lineage:
    """Return a stream's lineage, derived where the state has none.

    A fork made before lineages were recorded knows its direct source only, so every older id is
    taken for one of its ancestors.
    """
    if state.lineage is not None:
        return state.lineage
    if state.fork is None:
        return Lineage((state.id,), (0,), state.id)
    return Lineage((state.fork.source_id, state.id), (0, state.fork.position), 0)


def start_incarnation(state: StreamState, number: int, position: int) -> StreamState:
    """Return a stream whose positions after ``position``, its last one, get a new incarnation."""
    lineage = _extended(lineage_of(state), number, position)
    if len(lineage.ids) > MAX_LINEAGE:
        # The two oldest become one, under the greater id: what is read on sorts after what was
        # read before.
        lineage = Lineage(lineage.ids[1:], (0, *lineage.starts[2:]), lineage.least)
    return replace(state, lineage=lineage)


def fork_lineage(source: StreamState, number: int, position: int) -> Lineage:
    """Return the lineage of a fork with the id ``number`` that leaves its source at a position."""
    lineage = lineage_of(source)
    kept = max(bisect_left(lineage.starts, position), 1)
    inherited = Lineage(lineage.ids[:kept], lineage.starts[:kept], lineage.least)
    return _extended(inherited, number, position)


def _extended(lineage: Lineage, number: int, position: int) -> Lineage:
    ids, starts = lineage.ids, lineage.starts
    if len(ids) > 1 and starts[-1] == position:
        # Nothing was written under the last one.
        ids, starts = ids[:-1], starts[:-1]
    return Lineage((*ids, number), (*starts, position), lineage.least)


def _range(lineage: Lineage, position: int) -> int:
    return max(bisect_left(lineage.starts, position) - 1, 0)
