"""Queue of timeouts of one length, on a single delayed call of the reactor.

Timeouts of one length expire in the order in which they started. A queue with one delayed call for
its head avoids a heap operation of the reactor per start and cancellation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from durable_streams_tw.live.limits import TIMEOUT_SLICE


@dataclass(slots=True, eq=False)
class Timeout:
    """Running timeout, created by `TimerQueue.add`."""

    _queue: TimerQueue
    due: float
    _fire: Callable[[], object] | None

    def cancel(self) -> None:
        """Cancel the timeout; no effect if it has fired."""
        # The owner refers to the timeout and the callback to the owner: a reference cycle.
        self._fire = None
        self._queue.discard(self)

    def restart(self, now: float) -> None:
        """Start again at ``now``, the current time of the clock. Call only while it runs."""
        self._queue.postpone(self, now)

    def fire(self) -> None:
        """Call the callback unless the timeout was cancelled."""
        fire, self._fire = self._fire, None
        if fire is not None:
            fire()


class TimerQueue:
    """Timeouts of ``seconds`` each.

    A timeout may fire up to ``slack`` seconds early together with another that is due, which saves
    reactor turns when many readers connect one after the other.
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
        """Return the number of running timeouts."""
        return len(self._queue)

    def add(self, fire: Callable[[], object]) -> Timeout:
        """Call ``fire`` once when the time has passed; log what it raises."""
        timeout = Timeout(self, self._clock.seconds() + self._seconds, fire)
        self._queue[timeout] = None
        self._arm()
        return timeout

    def postpone(self, timeout: Timeout, now: float) -> None:
        """Restart a timeout at ``now``."""
        timeout.due = now + self._seconds
        self._queue.move_to_end(timeout)

    def discard(self, timeout: Timeout) -> None:
        """Remove a timeout."""
        self._queue.pop(timeout, None)
        if not self._queue and self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        # If the head is cancelled or postponed, the call fires once without effect and is set
        # again.
        if self._call is None and self._queue:
            head = next(iter(self._queue))
            wait = max(0.0, head.due - self._clock.seconds())
            self._call = self._clock.callLater(wait, self._fire_due)

    def _fire_due(self) -> None:
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
            except Exception:  # noqa: BLE001 - one reader's bug must not stop the others
                self._log.failure("The callback of a timeout failed")
        self._arm()
