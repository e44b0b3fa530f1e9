"""Offsets: the tokens by which clients name positions (PROTOCOL.md §8).

A token is two decimal numbers of fixed width joined by an underscore: the incarnation of the
stream that owns the position (`lineage`), and the position in the stream's stored
bytes. So tokens of one stream sort as their positions do, and a token of another life of the
stream is recognised. A first number of zero names a position without an incarnation: clients
may have saved such tokens of earlier versions, and they remain readable.
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
"""The position that the sentinel ``-1`` stands for."""

NOW: Final = -1
"""Stands for the sentinel ``now`` among positions: the tail, wherever it is when read."""

BEYOND_TAIL: Final = Refusal(
    Problem.OFFSET_OUT_OF_RANGE, "the offset lies beyond the end of the stream"
)
OTHER_INCARNATION: Final = Refusal(
    Problem.OFFSET_GONE,
    "the offset belongs to another incarnation of this stream: the stream was deleted and created "
    "again, its store was restored or copied, or the offset is one of a fork or its source after "
    "the fork point. Read the stream again from offset -1",
)

_TOKEN: Final = re.compile(r"([0-9]{1,32})_([0-9]{1,32})")


class Offset(Struct, frozen=True):
    """A position, and the incarnation that owned it when the offset was given."""

    incarnation: int
    position: int


RequestedOffset = int | Offset
"""What a client asks for: a bare position (`NOW` among them), or an `Offset` to be checked."""


def format_offset(state: StreamState | None, position: int) -> str:
    """Return the token of a position (bytes from the stream's start).

    Without a stream the token names no incarnation.
    """
    if state is None:
        return f"{0:016d}_{position:016d}"
    return offset_bytes(state, position).decode("ascii")


def offset_bytes(state: StreamState, position: int) -> bytes:
    """Return the token of a position as a header field has it."""
    if state.lineage is None and state.fork is None:
        return _prefix(state.id) + b"%016d" % position
    return _prefix(lineage.incarnation(state, position)) + b"%016d" % position


@lru_cache(maxsize=4096)
def _prefix(incarnation: int) -> bytes:
    # Kept, for twenty digits take as long to write as all the rest of an offset.
    return b"%020d_" % incarnation


def offset_at(state: StreamState, position: int) -> Offset:
    """Return the offset of a position of a stream."""
    return Offset(lineage.incarnation(state, position), position)


def parse_offset(token: str) -> RequestedOffset:
    """Return what a token names; `NOW` for ``now``, `START` for ``-1``.

    The width of either number does not matter. Raises `Refused` (MALFORMED_OFFSET) for
    everything that is not an offset.
    """
    if token == "-1":
        return START
    if token == "now":
        return NOW
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Refused(
            Problem.MALFORMED_OFFSET,
            "an offset is '-1', 'now', or a value that this server returned in Stream-Next-Offset",
        )
    number, position = int(match[1]), int(match[2])
    if position > MAX_POSITION:
        raise Refused(BEYOND_TAIL.problem, BEYOND_TAIL.detail)
    return Offset(number, position) if number else position


def resolve(state: StreamState, asked: RequestedOffset) -> int | Refusal:
    """Return the position of a stream that a client asks for, or why the stream has none.

    A position beyond the tail under an incarnation of this very stream was given by a store of
    which this one is an older copy.
    """
    if isinstance(asked, Offset):
        position = asked.position
        if position > state.tail or not lineage.owns(state, asked.incarnation, position):
            return OTHER_INCARNATION
        return position
    if asked == NOW:
        return state.tail
    return BEYOND_TAIL if asked > state.tail else asked
