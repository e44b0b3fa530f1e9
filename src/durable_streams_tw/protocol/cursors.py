"""Cursors: what lets a CDN collapse live readers without looping (PROTOCOL.md §10.1)."""

from __future__ import annotations

from durable_streams_tw.protocol.limits import (
    CURSOR_EPOCH,
    CURSOR_INTERVAL,
    CURSOR_MAX_JITTER,
    MAX_CURSOR_DIGITS,
)


def interval_at(now: float) -> int:
    """The number of the interval that a time (seconds since 1970) falls in."""
    return max(0, int(now - CURSOR_EPOCH) // CURSOR_INTERVAL)


def parse_cursor(text: str) -> int | None:
    """The interval number that a client echoes, or None where it is not one of ours.

    A cursor only spreads cache keys, so a strange one is ignored, not refused. A large one is
    none: what answers it has to be larger still.
    """
    if text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS:
        return int(text)
    return None


def next_cursor(now: float, echoed: int | None, chance: float) -> int:
    """The cursor of an answer: the current interval, or beyond the client's.

    ``now`` is in seconds since 1970, ``echoed`` what `parse_cursor` made of the client's.
    ``chance`` is a random number in [0, 1): it spreads clients whose cursor is not behind
    over the next hour (1 to 3600 seconds, in whole intervals).
    """
    current = interval_at(now)
    if echoed is None or echoed < current:
        return current
    jitter = 1 + int(chance * CURSOR_MAX_JITTER)
    return echoed + max(1, jitter // CURSOR_INTERVAL)
