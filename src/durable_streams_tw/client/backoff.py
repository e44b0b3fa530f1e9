"""How long to wait between attempts, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_FIRST: Final = 0.1
_LAST: Final = 10.0


class Patience:
    """Attempts at one thing: doubling pauses, with chance in them, for so long and no longer.

    ``limit`` is how many seconds of nothing but failures are endured, None for any number;
    ``seconds`` gives the time and ``random`` a number from 0 to 1. A success begins anew.
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
        """Whether the last attempt has failed."""
        return self._since is not None

    def succeeded(self) -> None:
        """Record a successful attempt: the next delay is the shortest again."""
        self._since = None
        self._pause = _FIRST

    def failed(self, asked: float = 0.0) -> float | None:
        """How long to wait before the next attempt, in seconds; None: give up.

        ``asked`` is what the server would have.
        """
        now = self._seconds()
        if self._since is None:
            self._since = now
        # Half of it is left to chance, lest all clients come back at once.
        pause = max(asked, self._pause * (0.5 + self._random() / 2))
        self._pause = min(self._pause * 2, _LAST)
        if self._limit is not None and now - self._since + pause > self._limit:
            return None
        return pause
