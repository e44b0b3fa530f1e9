"""Limit on the memory for request bodies, over all connections of a process.

A body counts from its first byte until its response. When the limit is reached, the largest
incomplete body is refused, so that a few large uploads cannot keep out all small ones.
"""

from __future__ import annotations

from typing import Protocol

from durable_streams_tw.http import limits


class Upload(Protocol):
    """Holder of bytes: a connection or a request."""

    held: int
    """Number of its bytes that the budget counts; set by the budget."""

    def refuse_body(self) -> None:
        """Respond with 503 and drop the body; account for that before returning."""


class BodyBudget:
    """Budget of ``limit`` bytes, ``held`` of which are in use."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        # Holders of large incomplete bodies: at most `limit` / `LARGE_BODY`, few enough to scan.
        self._large: set[Upload] = set()

    def account(self, upload: Upload, size: int, arriving: bool) -> bool:
        """Count ``size`` bytes for a holder in place of its previous count.

        ``arriving`` is true for an incomplete body, which may be refused. Returns False if the
        caller has to refuse it, since the budget is exhausted and no larger one can be refused.
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
            largest = max(large, key=_held, default=None)
            if largest is None or largest.held <= size:
                return not arriving
            # Removed here, so that the loop ends whatever the holder does.
            large.discard(largest)
            largest.refuse_body()
        return True


def _held(upload: Upload) -> int:
    return upload.held
