"""Size of what is written to one reader at a time.

A reader that stops reading leaves the piece that it was sent last in memory. So the more readers
stop, the smaller pieces get. All of them together hold little, and while few are slow, pieces are
large.
"""

from __future__ import annotations

from durable_streams_tw.live import limits


class PieceSize:
    """The readers of one process that do not take what they are sent.

    ``slow`` counts them; whoever serves a reader keeps the count.
    """

    __slots__ = ("slow",)

    def __init__(self) -> None:
        self.slow = 0

    @property
    def bytes(self) -> int:
        """About how much the next piece of any reader may have."""
        slow = self.slow
        if not slow:
            return limits.READ_PIECE
        share = limits.SLOW_READERS // (slow + 1)
        return min(limits.READ_PIECE, max(limits.LEAST_PIECE, share))
