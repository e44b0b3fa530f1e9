"""Output of streamed response bodies: the sink, and the size of what is written at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from durable_streams_tw.live import limits


class BodySink(Protocol):
    """Body of one response, as transfers and SSE subscribers write it."""

    def write(self, data: bytes) -> None:
        """Send bytes. May pause, resume or stop its producer before it returns."""

    def finish(self) -> None:
        """End the body as complete."""

    def abort(self) -> None:
        """Close the connection, so that the client sees that the body is incomplete."""


@dataclass(slots=True, eq=False)
class PieceSize:
    """Size of the pieces written to clients, smaller the more clients do not read.

    Each client that stops reading leaves the last piece written to it in the server's memory.
    ``slow_readers`` is the number of such clients; the code that writes to a client maintains it.
    """

    slow_readers: int = 0

    @property
    def current(self) -> int:
        """Return the approximate size of the next piece in bytes."""
        slow = self.slow_readers
        if not slow:
            return limits.READ_PIECE
        share = limits.SLOW_READERS // (slow + 1)
        return min(limits.READ_PIECE, max(limits.LEAST_PIECE, share))
