"""Many equal timeouts on one timer.

Ten thousand idle readers that each hold a delayed call of the reactor's would cost a heap
operation for every touch. All timeouts of one length expire in the order in which they
began, so a queue and one delayed call for its head do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from durable_streams_tw.live.limits import TIMEOUT_SLICE


class Timeout:
    """One running timeout; `TimerQueue.add` makes it."""

    __slots__ = ("_fire", "_queue", "due")

    def __init__(self, queue: TimerQueue, due: float, fire: Callable[[], object]) -> None:
        self._queue = queue
        self._fire: Callable[[], object] | None = fire
        self.due = due

    def cancel(self) -> None:
        """Never fire. No error where it has fired already."""
        # Its owner holds the timeout, and the callback its owner: a reference cycle.
        self._fire = None
        self._queue.discard(self)

    def restart(self, now: float) -> None:
        """Count from ``now`` again, which is what the clock shows. Only while it runs."""
        self._queue.postpone(self, now)

    def fire(self) -> None:
        """Call the callback, unless the timeout was cancelled."""
        fire, self._fire = self._fire, None
        if fire is not None:
            fire()


class TimerQueue:
    """Timeouts of ``seconds`` each.

    ``slack`` is how many seconds early one may fire together with another that is due, so
    that readers who came one by one do not wake the reactor one by one for ever.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float, slack: float = 0.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._slack = slack
        self._queue: OrderedDict[Timeout, None] = OrderedDict()
        self._call: IDelayedCall | None = None

    @property
    def count(self) -> int:
        """How many are running."""
        return len(self._queue)

    def add(self, fire: Callable[[], object]) -> Timeout:
        """Call ``fire`` once when the time has passed. What it raises is logged."""
        timeout = Timeout(self, self._clock.seconds() + self._seconds, fire)
        self._queue[timeout] = None
        self._arm()
        return timeout

    def postpone(self, timeout: Timeout, now: float) -> None:
        """See `Timeout.restart`."""
        timeout.due = now + self._seconds
        self._queue.move_to_end(timeout)

    def discard(self, timeout: Timeout) -> None:
        """See `Timeout.cancel`."""
        self._queue.pop(timeout, None)
        if not self._queue and self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        # The head may be cancelled or postponed meanwhile: then the timer rings for nothing,
        # once, and is set anew.
        if self._call is None and self._queue:
            head = next(iter(self._queue))
            wait = max(0.0, head.due - self._clock.seconds())
            self._call = self._clock.callLater(wait, self._ring)

    def _ring(self) -> None:
        self._call = None
        horizon = self._clock.seconds() + self._slack
        for _ in range(TIMEOUT_SLICE):
            if not self._queue:
                return
            head = next(iter(self._queue))
            if head.due > horizon:
                break
            del self._queue[head]
            try:
                head.fire()
            except Exception:  # noqa: BLE001 - one reader's bug is not the others'
                self._log.failure("a timeout failed")
        self._arm()
