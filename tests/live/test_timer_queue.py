"""Tests of `durable_streams_tw.live.timer_queue`."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.limits import TIMEOUT_SLICE
from durable_streams_tw.live.timer_queue import Timeout, TimerQueue


class TimerQueueTests(SynchronousTestCase):
    """Timeouts of ten seconds on one delayed call."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.timeouts = TimerQueue(self.clock, 10)
        self.fired: list[str] = []

    def add(self, name: str) -> Timeout:
        """Add a timeout that records its name."""
        return self.timeouts.add(lambda: self.fired.append(name))

    def test_each_after_its_time(self) -> None:
        """A timeout fires once, not before it is due."""
        self.add("a")
        self.clock.advance(4)
        self.add("b")
        self.clock.advance(5.75)
        self.assertEqual(self.fired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.fired, ["a"])
        self.clock.advance(4)
        self.assertEqual(self.fired, ["a", "b"])
        self.clock.advance(100)
        self.assertEqual(self.fired, ["a", "b"])

    def test_one_timer(self) -> None:
        """There is one delayed call for all timeouts, and none without timeouts."""
        running = [self.add(str(number)) for number in range(50)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for timeout in running:
            timeout.cancel()
        self.assertEqual(self.timeouts.count, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A cancelled timeout does not fire."""
        first, _ = self.add("a"), self.add("b")
        first.cancel()
        self.clock.advance(10)
        self.assertEqual(self.fired, ["b"])
        first.cancel()

    def test_restarted(self) -> None:
        first, _ = self.add("a"), self.add("b")
        self.clock.advance(6)
        first.restart(self.clock.seconds())
        self.clock.advance(4)
        self.assertEqual(self.fired, ["b"])
        self.clock.advance(5.75)
        self.assertEqual(self.fired, ["b"])
        self.clock.advance(0.25)
        self.assertEqual(self.fired, ["b", "a"])

    def test_added_by_one_that_fires(self) -> None:
        """A callback may add a timeout."""
        self.timeouts.add(lambda: self.add("again"))
        self.clock.advance(10)
        self.assertEqual(self.fired, [])
        self.clock.advance(10)
        self.assertEqual(self.fired, ["again"])

    def test_cancelled_by_one_that_fires(self) -> None:
        """A callback may cancel a timeout that is due at the same time."""
        self.timeouts.add(lambda: second.cancel())
        second = self.add("second")
        self.add("third")
        self.clock.advance(10)
        self.assertEqual(self.fired, ["third"])

    def test_a_failure_is_logged(self) -> None:
        """An exception of a callback is logged, and the other timeouts fire."""
        self.timeouts.add(lambda: 1 // 0)
        self.add("a")
        self.clock.advance(10)
        self.assertEqual(self.fired, ["a"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_slices(self) -> None:
        """Thousands of timeouts that are due at once fire in several turns."""
        for number in range(TIMEOUT_SLICE * 2 + 1):
            self.add(str(number))
        other: list[int] = []
        self.clock.callLater(10, lambda: other.append(len(self.fired)))
        self.clock.advance(10)
        self.assertEqual(other, [TIMEOUT_SLICE])
        self.assertEqual(len(self.fired), TIMEOUT_SLICE * 2 + 1)

    def test_slack(self) -> None:
        """Timeouts that are nearly due fire together with one that is due."""
        timeouts = TimerQueue(self.clock, 10, 0.5)
        for begun in (0, 0.25, 0.5, 0.75):
            timeouts.add(partial(self.fired.append, str(begun)))
            self.clock.advance(0.25)
        self.clock.advance(8.75)
        self.assertEqual(self.fired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.fired, ["0", "0.25", "0.5"])
        self.clock.advance(0.75)
        self.assertEqual(self.fired[3:], ["0.75"])
