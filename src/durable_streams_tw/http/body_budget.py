"""Bound on the bytes of request bodies that a process holds at once, over all connections.

A body counts from its first byte until its request is answered. Where there are too many bytes,
the largest body that is still arriving is refused: clients that hold much make room for those that
hold little, so a few large uploads cannot keep out all others.
"""

from __future__ import annotations

from typing import Final, Protocol

from durable_streams_tw.http import limits
from durable_streams_tw.protocol.errors import Problem, Refusal

NO_ROOM: Final = Refusal(
    Problem.OVERLOADED, "too many bodies are on their way at once", ((b"Retry-After", b"1"),)
)


class Upload(Protocol):
    """Holder of a body: a connection, or a request."""

    held: int
    """The bytes that the budget counts for it. Set by the budget alone."""

    def refuse_body(self) -> None:
        """Answer 503 and drop the body; account for that before this returns."""


class BodyBudget:
    """The bodies of one process. ``limit`` and ``held`` are bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        # The holders of bodies that are still arriving, as far as they are large: few enough to
        # be looked through, `limit` / `LARGE_BODY` at most.
        self._large: set[Upload] = set()

    def account(self, upload: Upload, size: int, arriving: bool) -> bool:
        """Count ``size`` bytes for a holder, in place of what was counted before.

        ``arriving`` says that its body is not complete, and may be refused. Returns false where
        the holder has to refuse it: there is no room, and no larger body that could make some.
        """
        grown = size - upload.held
        if not grown and not upload.held:
            return True
        upload.held = size
        self.held += grown
        large = self._large
        if arriving and size >= limits.LARGE_BODY:
            large.add(upload)
        else:
            large.discard(upload)
        while grown > 0 and self.held > self.limit:
            largest = max(large, key=_size, default=None)
            if largest is None or largest.held <= size:
                return not arriving
            # Dropped here, so that this ends whatever the holder does.
            large.discard(largest)
            largest.refuse_body()
        return True


def _size(upload: Upload) -> int:
    return upload.held
