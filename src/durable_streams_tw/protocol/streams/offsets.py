"""Offsets: opaque tokens that name positions of a stream (PROTOCOL.md §8).

A token is two decimal numbers of fixed width joined by an underscore: the incarnation that
owns the position (see `lineage`), and the position in the stored bytes. Tokens of a stream sort
like their positions, and a token of another incarnation is detected. Incarnation 0 means that
the token names none: earlier versions issued such tokens, and they remain valid.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams import lineage
from durable_streams_tw.protocol.streams.state import StreamState

START: Final = 0
"""Position of the sentinel ``-1``."""

NOW: Final = -1
"""Pseudo-position of the sentinel ``now``: the tail at the time of the read."""

BEYOND_TAIL: Final = Refusal(
    Problem.OFFSET_OUT_OF_RANGE, "the offset is beyond the end of the stream"
)
OTHER_INCARNATION: Final = Refusal(
    Problem.OFFSET_GONE,
    "the offset belongs to another incarnation of this stream: the stream was deleted and created "
    "again, its store was restored or copied, or the offset is of a fork or its source after the "
    "fork point. Read the stream again from offset -1",
)

_TOKEN: Final = re.compile(r"([0-9]{1,32})_([0-9]{1,32})")


class Offset(Struct, frozen=True, array_like=True):
    """Position of a stream, and the incarnation that owned it when the offset was issued."""

    incarnation: int
    position: int


RequestedOffset = int | Offset
"""Offset of a request: a position, `NOW`, or an `Offset` whose incarnation is to be checked."""


def format_offset(state: StreamState | None, position: int) -> str:
    """Return the token of a position, in bytes from the start of the stream.

    If ``state`` is None the token names no incarnation.
    """
    if state is None:
        return f"{0:016d}_{position:016d}"
    return offset_bytes(state, position).decode("ascii")


def offset_bytes(state: StreamState, position: int) -> bytes:
    """Return the token of a position as bytes."""
    if state.lineage is None and state.fork is None:
        return _prefix(state.id) + b"%016d" % position
    return _prefix(lineage.incarnation(state, position)) + b"%016d" % position


@lru_cache(maxsize=4096)
def _prefix(incarnation: int) -> bytes:
    # Cached, because formatting twenty digits takes as long as the rest of an offset.
    return b"%020d_" % incarnation


def offset_at(state: StreamState, position: int) -> Offset:
    """Return the offset of a position of a stream."""
    return Offset(lineage.incarnation(state, position), position)


def parse_offset(token: str) -> RequestedOffset:
    """Return the offset that a token names; `NOW` for ``now``, `START` for ``-1``.

    The width of either number is not checked. Raises `Refused`: MALFORMED_OFFSET if the token is
    invalid, OFFSET_OUT_OF_RANGE if its position is greater than `MAX_POSITION`.
    """
    if token == "-1":
        return START
    if token == "now":
        return NOW
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Refused(
            Problem.MALFORMED_OFFSET,
            "an offset must be '-1', 'now', or a value of Stream-Next-Offset from this server",
        )
    number, position = int(match[1]), int(match[2])
    if position > MAX_POSITION:
        raise Refused(BEYOND_TAIL.problem, BEYOND_TAIL.detail)
    return Offset(number, position) if number else position


def resolve(state: StreamState, offset: RequestedOffset) -> int | Refusal:
    """Return the position that an offset names in a stream, or a refusal.

    A position beyond the tail with an incarnation of this stream was issued by a store of which
    this one is an older copy, so it is refused like an offset of another incarnation.
    """
    if isinstance(offset, Offset):
        position = offset.position
        if position > state.tail or not lineage.owns(state, offset.incarnation, position):
            return OTHER_INCARNATION
        return position
    if offset == NOW:
        return state.tail
    return BEYOND_TAIL if offset > state.tail else offset
