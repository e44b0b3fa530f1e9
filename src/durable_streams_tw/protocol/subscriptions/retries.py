"""Retry schedule of webhooks and wake events (PROTOCOL.md §7.1)."""

from __future__ import annotations

from durable_streams_tw.protocol.limits import RETRY_FIRST_MS, RETRY_JITTER, RETRY_LAST_MS


def retry_delay(failures: int, chance: float) -> int:
    """Return the delay in ms after a number of consecutive failures: exponential with jitter."""
    pause = RETRY_LAST_MS
    if failures < RETRY_LAST_MS.bit_length():
        pause = min(RETRY_FIRST_MS << (failures - 1), RETRY_LAST_MS)
    return round(pause * (1 + RETRY_JITTER * (2 * chance - 1)))
