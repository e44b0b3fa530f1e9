"""Timeouts of many connections on one timer.

A connection that is busy moves its deadline with every request. A delayed call for each would
cost a heap operation every time; here the deadline is a number that its owner keeps, and the
wheel looks at each owner now and then: never later than the deadline that it was told of.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()

_TICK = 1.0


class Timed(Protocol):
    """What the wheel looks at."""

    watch: int
    """The wheel's own: when it looks next. 0 where it does not."""

    def visit(self, now: float) -> float:
        """Do what is due; returns when to look next, or 0 for never again."""


class TimerWheel:
    """Looks at what it watches, to the second; stands still while it watches nothing.

    ``now`` is the time of the last tick, good enough where a second does not matter, and
    free. ``ticked`` is told of every tick.
    """

    def __init__(self, clock: IReactorTime, ticked: Callable[[float], None]) -> None:
        self._clock = clock
        self._ticked = ticked
        self._slots: dict[int, set[Timed]] = {}
        self._last = 0
        self._call: IDelayedCall | None = None
        self._count = 0
        self.now = 0.0

    def look(self, watched: Timed, due: float) -> None:
        """Look at it at ``due``, or before."""
        if not watched.watch:
            if self._call is None:
                self._catch_up()
                self._call = self._clock.callLater(_TICK, self._tick)
            self._count += 1
            self._place(watched, due)
        elif ceil(due) < watched.watch:
            self._discard(watched)
            self._place(watched, due)

    def remove(self, watched: Timed) -> None:
        """Never look at it again."""
        if watched.watch:
            self._discard(watched)
            self._forget(watched)

    def _discard(self, watched: Timed) -> None:
        slot = self._slots.get(watched.watch)
        if slot is not None:
            slot.discard(watched)

    def _place(self, watched: Timed, due: float) -> None:
        second = max(ceil(due), self._last + 1)
        watched.watch = second
        self._slots.setdefault(second, set()).add(watched)

    def _forget(self, watched: Timed) -> None:
        watched.watch = 0
        self._count -= 1
        if not self._count and self._call is not None:
            self._call.cancel()
            self._call = None
            self._slots.clear()

    def _catch_up(self) -> None:
        self.now = self._clock.seconds()
        self._last = int(self.now)
        self._ticked(self.now)

    def _tick(self) -> None:
        self._call = self._clock.callLater(_TICK, self._tick)
        self._catch_up()
        slots = self._slots
        for second in sorted([second for second in slots if second <= self._last]):
            for watched in slots.pop(second):
                if watched.watch == second:
                    try:
                        due = watched.visit(self.now)
                    except Exception:  # noqa: BLE001 - one bug must not stop all timeouts
                        _log.failure("a timeout failed")
                        due = 0.0
                    # The visit may have ended it.
                    if watched.watch == second:
                        if due:
                            self._place(watched, due)
                        else:
                            self._forget(watched)
