"""Clocks: monotonic time for timers, wall time for deadlines that clients name.

Twisted's reactors schedule by the wall clock. After a step back every pending call waits for the
length of the step, after a step forward every one is due at once. A process that runs nothing but
the server makes its reactor monotonic (`make_monotonic`). In a program that brings its own reactor
the reactor stays as it is, and only the timers of this package are monotonic (`monotonic_timers`).
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
"""Returns the time in seconds. Which clock it reads is the caller's choice."""

#: How often `MonotonicTimers` compares the two clocks (seconds).
STEP_CHECK: Final = 1.0

#: How far the wall clock moves against the monotonic one to count as a step (seconds).
STEP: Final = 0.2

# Linux counts the time that a machine was suspended for in this clock only.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Return monotonic time in seconds, a suspended machine's time included where possible."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class StreamTime:
    """Time by which TTLs, leases and retries run: milliseconds since the Unix epoch.

    It starts at the wall clock's time and goes on with ``steady``, so a step of ``wall`` while
    the process runs neither ends nor prolongs what is counted from "now". Both arguments return
    seconds. Thread-safe.
    """

    __slots__ = ("_offset", "_steady", "_wall")

    def __init__(self, wall: Seconds, steady: Seconds) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> int:
        """Return the stream time."""
        return int((self._steady() + self._offset) * 1000)

    def lead(self) -> int:
        """Return how far the wall clock is ahead of this time by now, in milliseconds."""
        return round((self._wall() - self._steady() - self._offset) * 1000)


def wall_clock(reactor: Any) -> Seconds:
    """Return the wall clock that belongs to a reactor; a test's clock is its own wall clock."""
    return time.time if isinstance(reactor, ReactorBase) else reactor.seconds


def stream_time(reactor: Any) -> StreamTime:
    """Return a new `StreamTime` that starts now; a test's clock serves for both clocks."""
    if isinstance(reactor, ReactorBase):
        return StreamTime(time.time, elapsed)
    return StreamTime(reactor.seconds, reactor.seconds)


def make_monotonic(reactor: Any) -> None:
    """Make a reactor schedule by monotonic time from now on.

    For a process that runs only this server. ``reactor.seconds()`` continues from the present
    time, so calls that are pending already keep their moment. Does nothing to a reactor that does
    not read the wall clock.
    """
    if _reads_wall_clock(reactor):
        monotonic = time.monotonic
        offset = time.time() - monotonic()
        reactor.seconds = lambda: monotonic() + offset


def monotonic_timers(reactor: Any) -> IReactorTime:
    """Return timers that survive steps of the wall clock.

    The reactor itself where it does not read the wall clock, `MonotonicTimers` beside it otherwise,
    the same ones for every caller.
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
    """Timers on monotonic time beside a reactor whose own timers follow the wall clock.

    The reactor is asked to call when the first timer is due. A step of the wall clock moves that
    call, so a daemon thread compares the clocks once a second and has the reactor asked again. All
    methods but `compare` run on the reactor's thread.
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
        # The reactor's call and when it was asked for; -inf stands for the next turn.
        self._wake: IDelayedCall | None = None
        self._wake_at = float("inf")

    def watch(self) -> None:
        """Start the thread that looks for steps of the wall clock."""
        Thread(target=self._watch, name="durable-streams-clock", daemon=True).start()

    def compare(self) -> None:
        """Have the reactor asked again if the wall clock was set. On the watching thread."""
        offset = self._wall() - self._seconds()
        if abs(offset - self._offset) > STEP:
            self._offset = offset
            self._reactor.callFromThread(self._ask_again)

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
        """Call a function in ``delay`` seconds; 0 means in the reactor's next turn."""
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        call = DelayedCall(
            self._seconds() + delay, callable, args, kw, self._cancel, self._move, self._seconds
        )
        heappush(self._calls, call)
        self._ask()
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return the calls that are pending."""
        return [call for call in self._calls if not call.cancelled]

    # -- the heap -------------------------------------------------------------------------------

    def _cancel(self, cancelled: DelayedCall) -> None:
        # Its flag is set only after this.
        if self._calls and self._calls[0] is cancelled:
            heappop(self._calls)
            self._ask()
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
        self._ask()

    def _drop_cancelled(self) -> None:
        while self._calls and self._calls[0].cancelled:
            heappop(self._calls)
            self._cancelled = max(0, self._cancelled - 1)

    # -- the reactor ----------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask the reactor to call when the first timer is due, if that is sooner than agreed."""
        self._drop_cancelled()
        if not self._calls:
            self._ask_no_more()
            return
        due = self._calls[0].time
        if due >= self._wake_at:
            return
        self._ask_no_more()
        delay = due - self._seconds()
        if delay > 0:
            self._wake_at = due
            self._wake = self._reactor.callLater(delay, self._ring)
        else:
            self._wake_at = float("-inf")
            self._reactor.callFromThread(self._ring)

    def _ask_no_more(self) -> None:
        if self._wake is not None:
            if self._wake.active():
                self._wake.cancel()
            self._wake = None
        self._wake_at = float("inf")

    def _ask_again(self) -> None:
        self._ask_no_more()
        self._ask()

    def _ring(self) -> None:
        self._ask_no_more()
        now = self._seconds()
        # Calls that these make for "now" have a later time, or wait for the next turn.
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
        self._ask()


_steady = WeakKeyDictionary()
