"""Timeouts of many connections on one delayed call.

A busy connection moves its deadline with every request, and a delayed call for each would cost a
heap operation per request. Here the deadline is a number that the connection keeps; the wheel
checks each connection once, at its earliest deadline or before, and asks it for the next one.

`live.timer_queue.TimerQueue` serves timeouts that are all of one length. The timeout of a
connection depends on its phase, so it would leave one queue and enter another at each change.
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
    """Object with a deadline."""

    wheel_slot: int
    """Second of its next check, set by the wheel alone; 0 while none is scheduled."""

    def check_deadline(self, now: float) -> float:
        """Act if the deadline has passed. Return the time of the next check, or 0 for none."""


class TimerWheel:
    """Timer that checks objects at their deadlines, with a resolution of one second.

    ``now`` is the time of the last tick in seconds, for callers that need no better resolution.
    ``on_tick`` is called with the time of each tick. There is no delayed call while nothing is
    scheduled.
    """

    def __init__(self, clock: IReactorTime, on_tick: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._slots: dict[int, set[Timed]] = {}
        self._last = 0
        self._call: IDelayedCall | None = None
        self._count = 0
        self.now = 0.0

    def schedule(self, timed: Timed, due: float) -> None:
        """Check an object at ``due`` (seconds) or before. A later time than before is ignored."""
        if not timed.wheel_slot:
            if self._call is None:
                self._update_now()
                self._call = self._clock.callLater(_TICK, self._tick)
            self._count += 1
            self._place(timed, due)
        elif ceil(due) < timed.wheel_slot:
            self._discard(timed)
            self._place(timed, due)

    def cancel(self, timed: Timed) -> None:
        """Drop the scheduled check of an object, if there is one."""
        if timed.wheel_slot:
            self._discard(timed)
            self._forget(timed)

    def _discard(self, timed: Timed) -> None:
        slot = self._slots.get(timed.wheel_slot)
        if slot is not None:
            slot.discard(timed)

    def _place(self, timed: Timed, due: float) -> None:
        second = max(ceil(due), self._last + 1)
        timed.wheel_slot = second
        self._slots.setdefault(second, set()).add(timed)

    def _forget(self, timed: Timed) -> None:
        timed.wheel_slot = 0
        self._count -= 1
        if not self._count and self._call is not None:
            self._call.cancel()
            self._call = None
            self._slots.clear()

    def _update_now(self) -> None:
        self.now = self._clock.seconds()
        self._last = int(self.now)
        self._on_tick(self.now)

    def _tick(self) -> None:
        self._call = self._clock.callLater(_TICK, self._tick)
        self._update_now()
        slots = self._slots
        for second in sorted([second for second in slots if second <= self._last]):
            for timed in slots.pop(second):
                # An earlier check may have cancelled or moved this one.
                if timed.wheel_slot == second:
                    try:
                        due = timed.check_deadline(self.now)
                    except Exception:  # noqa: BLE001 - one error must not stop all timeouts
                        _log.failure("Error in the timeout of a connection")
                        due = 0.0
                    # The check may have closed and cancelled its connection.
                    if timed.wheel_slot == second:
                        if due:
                            self._place(timed, due)
                        else:
                            self._forget(timed)
