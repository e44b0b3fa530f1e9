"""Cursors of live reads, which let a CDN collapse readers without loops (PROTOCOL.md §10.1)."""

from __future__ import annotations

from durable_streams_tw.protocol import limits


def interval_at(now: float) -> int:
    """Return the number of the interval that contains a time (seconds since the Unix epoch)."""
    return max(0, int(now - limits.CURSOR_EPOCH) // limits.CURSOR_INTERVAL)


def parse_cursor(text: str) -> int | None:
    """Return the interval number that a client echoes, or None if it is invalid.

    An invalid cursor is ignored, not refused, because a cursor only varies cache keys. One of
    more than `MAX_CURSOR_DIGITS` digits is invalid: the next cursor has to be greater.
    """
    if text.isascii() and text.isdigit() and len(text) <= limits.MAX_CURSOR_DIGITS:
        return int(text)
    return None


def next_cursor(now: float, echoed: int | None, chance: float) -> int:
    """Return the cursor of a response: the current interval, or one after the client's.

    ``now`` is in seconds since the Unix epoch and ``echoed`` the result of `parse_cursor`.
    ``chance``, a random number in [0, 1), spreads clients whose cursor is current over the next
    1 to 3600 seconds, in whole intervals.
    """
    current = interval_at(now)
    if echoed is None or echoed < current:
        return current
    jitter = 1 + int(chance * limits.CURSOR_MAX_JITTER)
    return echoed + max(1, jitter // limits.CURSOR_INTERVAL)
