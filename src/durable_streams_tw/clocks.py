"""Clocks: monotonic time for timers, wall-clock time for deadlines of clients.

Twisted's reactors schedule by the wall clock. If it is set back, every pending call is delayed by
the step; if it is set forward, every one is due at once. A process that runs only the server
makes its reactor monotonic (`make_monotonic`). A program that embeds the server keeps its reactor,
and only the timers of this package are monotonic (`monotonic_timers`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from threading import Thread
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.runtime import seconds as twisted_seconds
from zope.interface import implementer

Seconds = Callable[[], float]
"""Function that returns the time of some clock in seconds."""

#: Interval at which `MonotonicTimers` compares the two clocks, in seconds.
STEP_CHECK: Final = 1.0

#: Shortest change of the wall clock against the monotonic one that counts as a step, in seconds.
STEP: Final = 0.2

# On Linux only this clock counts the time for which the machine was suspended.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Return monotonic time in seconds, including suspension of the machine if supported."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class StreamTime:
    """Clock of TTLs, leases and retries, in ms since the Unix epoch.

    It starts at the time of ``wall`` and advances with ``steady``, so a step of the wall clock
    neither shortens nor prolongs a TTL while the process runs. Thread-safe.
    """

    __slots__ = ("_offset", "_steady", "_wall")

    def __init__(self, wall: Seconds, steady: Seconds) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> int:
        """Return the time in ms since the Unix epoch."""
        return int((self._steady() + self._offset) * 1000)

    def lead(self) -> int:
        """Return by how many ms the wall clock is ahead of this clock."""
        return round((self._wall() - self._steady() - self._offset) * 1000)


def cancel(call: IDelayedCall | None) -> None:
    """Cancel a delayed call that has not run yet."""
    if call is not None and call.active():
        call.cancel()


def wall_clock(reactor: Any) -> Seconds:
    """Return the wall clock of a reactor. For `twisted.internet.task.Clock`, return its time."""
    return time.time if isinstance(reactor, ReactorBase) else reactor.seconds


def stream_time(reactor: Any) -> StreamTime:
    """Return a `StreamTime` that starts now; `twisted.internet.task.Clock` is both clocks."""
    if isinstance(reactor, ReactorBase):
        return StreamTime(time.time, elapsed)
    return StreamTime(reactor.seconds, reactor.seconds)


def make_monotonic(reactor: Any) -> None:
    """Make a reactor schedule by monotonic time.

    Only for a process that runs nothing but this server. ``reactor.seconds()`` continues from the
    current time, so pending calls keep their due times. A reactor that does not read the wall
    clock is left unchanged.
    """
    if _reads_wall_clock(reactor):
        monotonic = time.monotonic
        offset = time.time() - monotonic()
        reactor.seconds = lambda: monotonic() + offset


def monotonic_timers(reactor: Any) -> IReactorTime:
    """Return timers that steps of the wall clock do not affect.

    Return the reactor itself if it does not read the wall clock, and otherwise its
    `MonotonicTimers`, which all callers share.
    """
    if not _reads_wall_clock(reactor):
        timers: IReactorTime = reactor
        return timers
    steady = _steady.get(reactor)
    if steady is None:
        steady = _steady[reactor] = MonotonicTimers(reactor)
        steady.watch()
    return steady


_steady: WeakKeyDictionary[Any, MonotonicTimers]


def _reads_wall_clock(reactor: Any) -> bool:
    return isinstance(reactor, ReactorBase) and reactor.seconds is twisted_seconds


@implementer(IReactorTime)
class MonotonicTimers:
    """Monotonic timers for a reactor whose own timers follow the wall clock.

    One reactor call is scheduled for the first timer. A step of the wall clock moves that call, so
    a daemon thread compares the clocks every `STEP_CHECK` seconds and reschedules it. All methods
    except `compare` run on the reactor's thread.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, seconds: Seconds = time.monotonic, wall: Seconds = time.time
    ) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._wall = wall
        self._offset = wall() - seconds()
        self._calls: list[DelayedCall] = []
        self._cancelled = 0
        # The reactor's call and when it is due; -inf means the next iteration of the reactor.
        self._wake: IDelayedCall | None = None
        self._wake_at = float("inf")

    def watch(self) -> None:
        """Start the daemon thread that detects steps of the wall clock."""
        Thread(target=self._watch, name="durable-streams-clock", daemon=True).start()

    def compare(self) -> None:
        """Reschedule the reactor's call if the wall clock was set. Runs on the daemon thread."""
        offset = self._wall() - self._seconds()
        if abs(offset - self._offset) > STEP:
            self._offset = offset
            self._reactor.callFromThread(self._reschedule)

    def _watch(self) -> None:
        while True:
            time.sleep(STEP_CHECK)
            self.compare()

    # -- IReactorTime ---------------------------------------------------------------------------

    def seconds(self) -> float:
        """Return monotonic time in seconds."""
        return self._seconds()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> DelayedCall:
        """Call a function after ``delay`` seconds; 0 means in the reactor's next iteration."""
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        call = DelayedCall(
            self._seconds() + delay, callable, args, kw, self._cancel, self._move, self._seconds
        )
        heappush(self._calls, call)
        self._schedule()
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return the pending calls."""
        return [call for call in self._calls if not call.cancelled]

    # -- the heap -------------------------------------------------------------------------------

    def _cancel(self, cancelled: DelayedCall) -> None:
        # DelayedCall sets ``cancelled`` after this returns.
        if self._calls and self._calls[0] is cancelled:
            heappop(self._calls)
            self._schedule()
            return
        self._cancelled += 1
        if self._cancelled > 50 and self._cancelled > len(self._calls) // 2:
            self._calls = [
                call for call in self._calls if not call.cancelled and call is not cancelled
            ]
            heapify(self._calls)
            self._cancelled = 0

    def _move(self, _: DelayedCall) -> None:
        heapify(self._calls)
        self._schedule()

    def _drop_cancelled(self) -> None:
        while self._calls and self._calls[0].cancelled:
            heappop(self._calls)
            self._cancelled = max(0, self._cancelled - 1)

    # -- the reactor ----------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Schedule the reactor's call for the first timer if that is earlier than scheduled."""
        self._drop_cancelled()
        if not self._calls:
            self._unschedule()
            return
        due = self._calls[0].time
        if due >= self._wake_at:
            return
        self._unschedule()
        delay = max(0, due - self._seconds())
        self._wake_at = due if delay else float("-inf")
        # Not reset to the past, in case that the clock is set back before the next iteration:
        # the reactor would search all of its calls for this one.
        self._wake = self._reactor.callLater(delay, self._fire)

    def _unschedule(self) -> None:
        cancel(self._wake)
        self._wake, self._wake_at = None, float("inf")

    def _reschedule(self) -> None:
        self._unschedule()
        self._schedule()

    def _fire(self) -> None:
        self._unschedule()
        now = self._seconds()
        # Collect the due calls first: timers that they add wait for the next iteration.
        due: list[DelayedCall] = []
        while self._calls and self._calls[0].time <= now:
            due.append(heappop(self._calls))
        for call in due:
            if call.cancelled:
                self._cancelled = max(0, self._cancelled - 1)
            elif call.delayed_time > 0:
                call.activate_delay()
                heappush(self._calls, call)
            else:
                call.called = 1
                with self._log.failuresHandled("while handling a timed call"):
                    call.func(*call.args, **call.kw)
        self._schedule()


_steady = WeakKeyDictionary()
