"""Division of bodies into data records at JSON message boundaries.

A record begins and ends at message boundaries where possible. A message that is larger than a
record is stored in several records of its own, whose flags tell which ends lie inside the message.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from msgspec import Struct

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.storage.engine import codec


class Piece(Struct, frozen=True):
    """Bytes ``[start, stop)`` of a body, to be stored in one record.

    ``torn_before`` and ``torn_after`` mean that the piece starts or ends inside a message.
    """

    start: int
    stop: int
    torn_before: bool = False
    torn_after: bool = False

    @property
    def flags(self) -> int:
        """Flags of the record (`codec`)."""
        before = codec.STARTS_MID_MESSAGE if self.torn_before else 0
        return before | (codec.ENDS_MID_MESSAGE if self.torn_after else 0)


def cut(body: Body, size: int) -> Iterator[Piece]:
    """Yield the pieces of a body, each of at most ``size`` bytes.

    A body without cuts is divided every ``size`` bytes. JSON bodies of at most MAX_UNDIVIDED_BODY
    bytes have no cuts either, so ``size`` must not be smaller: a message would be divided without
    flags. An empty body has no pieces.
    """
    length = len(body.data)
    if 0 < length <= size:
        yield Piece(0, length)
    elif not body.cuts:
        for start in range(0, length, size):
            yield Piece(start, min(start + size, length))
    else:
        yield from _between_messages(body.cuts, length, size)


def fill(bodies: Iterable[Body], size: int) -> Iterator[tuple[bytes, Piece]]:
    """Yield the records of consecutive bodies: bytes, and the piece that has its flags.

    Whole bodies share a record while they fit; larger ones are divided as by `cut`.
    """
    run: list[bytes] = []
    filled = 0
    for body in bodies:
        length = len(body.data)
        if filled + length <= size:
            run.append(body.data)
            filled += length
            continue
        if run:
            yield b"".join(run), Piece(0, filled)
            run, filled = [], 0
        if length <= size:
            run, filled = [body.data], length
            continue
        for piece in cut(body, size):
            yield body.data[piece.start : piece.stop], piece
    if run:
        yield b"".join(run), Piece(0, filled)


def _between_messages(cuts: tuple[int, ...], length: int, size: int) -> Iterator[Piece]:
    start = 0
    while start < length:
        following = bisect_right(cuts, start + size)
        stop = cuts[following - 1] if following else 0
        if stop > start:
            yield Piece(start, stop)
            start = stop
            continue
        # The next message is larger than a record: divide it into pieces with flags.
        stop = cuts[bisect_right(cuts, start)]
        first = start
        while start < stop:
            end = min(start + size, stop)
            yield Piece(start, end, torn_before=start > first, torn_after=end < stop)
            start = end
