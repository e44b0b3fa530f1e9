"""Retry policy: exponential backoff with jitter and a time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_FIRST: Final = 0.1
_LAST: Final = 10.0


class Patience:
    """Backoff of one operation: delays double from 0.1 s to 10 s, with jitter.

    ``limit`` is the maximum duration of consecutive failures in seconds, None for no limit.
    ``seconds`` returns a monotonic time in seconds, ``random`` a number from 0 to 1. A success
    resets the delay and the limit.
    """

    def __init__(
        self, limit: float | None, seconds: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._random = random
        self._since: float | None = None
        self._pause = _FIRST

    @property
    def tried(self) -> bool:
        """True if the last attempt has failed."""
        return self._since is not None

    def succeeded(self) -> None:
        """Record a successful attempt: reset the delay and the start of the failures."""
        self._since = None
        self._pause = _FIRST

    def failed(self, asked: float = 0.0) -> float | None:
        """Record a failed attempt; return the delay before the next one in seconds.

        Return None if that attempt would start after the limit. ``asked`` is the minimum delay
        that the server asks for (Retry-After), in seconds.
        """
        now = self._seconds()
        if self._since is None:
            self._since = now
        # Without jitter, all clients of a restarted server would reconnect at the same moment.
        pause = max(asked, self._pause * (0.5 + self._random() / 2))
        self._pause = min(self._pause * 2, _LAST)
        if self._limit is not None and now - self._since + pause > self._limit:
            return None
        return pause
