"""Offsets: the tokens by which clients name positions (PROTOCOL.md §8).

A token is two runs of sixteen digits joined by an underscore, so tokens sort as their
positions do. The first half is reserved and zero; the second is a position in the
stream's stored bytes.
"""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_POSITION

START: Final = 0
"""The position that the sentinel ``-1`` stands for."""

NOW: Final = -1
"""Stands for the sentinel ``now`` among positions: the tail, wherever it is when read."""

_TOKEN: Final = re.compile(r"([0-9]{1,32})_([0-9]{1,32})")


def format_offset(position: int) -> str:
    """The token of a position (bytes from the stream's start)."""
    return offset_bytes(position).decode("ascii")


def offset_bytes(position: int) -> bytes:
    """The same, as a header field has it."""
    return b"0000000000000000_%016d" % position


def parse_offset(token: str) -> int:
    """The position that a token names; `NOW` for ``now``, `START` for ``-1``.

    Fewer digits than sixteen are read as the same number. Raises `Refused`
    (MALFORMED_OFFSET) for everything that is not an offset.
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
    reserved, position = int(match[1]), int(match[2])
    if reserved != 0 or position > MAX_POSITION:
        raise Refused(Problem.OFFSET_OUT_OF_RANGE, "the offset lies beyond the end of the stream")
    return position
