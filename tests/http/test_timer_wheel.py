"""Tests of `durable_streams_tw.http.timer_wheel`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.timer_wheel import TimerWheel


class Visited:
    """Object that records its checks, and asks for the next one after ``again`` seconds."""

    def __init__(self, clock: Clock, again: float = 0.0) -> None:
        self.wheel_slot = 0
        self.visits: list[float] = []
        self.again = again
        self._clock = clock

    def check_deadline(self, now: float) -> float:
        """Record a check."""
        self.visits.append(self._clock.seconds())
        return now + self.again if self.again else 0.0


class WheelTests(SynchronousTestCase):
    """Times of checks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_000.25
        self.ticks: list[float] = []
        self.wheel = TimerWheel(self.clock, self.ticks.append)

    def turn(self, seconds: float) -> None:
        """Advance the clock in small steps."""
        self.clock.pump([0.25] * int(seconds * 4))

    @given(st.lists(st.floats(0, 50), min_size=1, max_size=8))
    def test_in_time(self, delays: list[float]) -> None:
        """An object is checked within two seconds after its deadline, never before."""
        self.setUp()
        watched = [Visited(self.clock) for _ in delays]
        for one, delay in zip(watched, delays, strict=True):
            self.wheel.schedule(one, self.clock.seconds() + delay)
        self.turn(55)
        for one, delay in zip(watched, delays, strict=True):
            (visit,) = one.visits
            self.assertGreaterEqual(visit, 1_000.25 + delay)
            self.assertLessEqual(visit, 1_000.25 + delay + 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """A check returns the time of the next one."""
        one = Visited(self.clock, again=10)
        self.wheel.schedule(one, 1_005)
        self.turn(40)
        gaps = [later - sooner for sooner, later in zip(one.visits, one.visits[1:], strict=False)]
        self.assertEqual(len(one.visits), 4)
        self.assertTrue(all(10 <= gap <= 12 for gap in gaps), gaps)
        self.wheel.cancel(one)

    def test_sooner_not_later(self) -> None:
        """A second call counts if it is for an earlier time only."""
        one = Visited(self.clock)
        self.wheel.schedule(one, 1_030)
        self.wheel.schedule(one, 1_010)
        self.wheel.schedule(one, 1_020)
        self.turn(40)
        self.assertEqual(len(one.visits), 1)
        self.assertLessEqual(one.visits[0], 1_012)

    def test_removed(self) -> None:
        """A cancelled object is not checked; a second cancel does nothing."""
        one, other = Visited(self.clock), Visited(self.clock)
        self.wheel.schedule(one, 1_005)
        self.wheel.schedule(other, 1_005)
        self.wheel.cancel(one)
        self.wheel.cancel(one)
        self.turn(10)
        self.assertEqual((one.visits, len(other.visits)), ([], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_removed_by_a_visit(self) -> None:
        """A check may cancel its own object and others."""
        one, other = Visited(self.clock, again=1), Visited(self.clock, again=1)

        def end(now: float) -> float:
            self.wheel.cancel(one)
            self.wheel.cancel(other)
            return now + 1

        self.patch(one, "check_deadline", end)
        self.patch(other, "check_deadline", end)
        self.wheel.schedule(one, 1_001)
        self.wheel.schedule(other, 1_001)
        self.turn(5)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bug(self) -> None:
        """A check that raises is logged, and the others still run."""
        one, other = Visited(self.clock), Visited(self.clock)

        def fail(now: float) -> float:
            raise ValueError

        self.patch(one, "check_deadline", fail)
        self.wheel.schedule(one, 1_003)
        self.wheel.schedule(other, 1_003)
        self.turn(5)
        self.assertEqual(len(other.visits), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_ticks(self) -> None:
        """``on_tick`` is called only while something is scheduled."""
        self.turn(5)
        self.assertEqual(self.ticks, [])
        one = Visited(self.clock)
        self.wheel.schedule(one, 1_100)
        self.assertEqual(self.ticks, [1_005.25])
        self.turn(3)
        self.assertEqual((self.wheel.now, len(self.ticks)), (1_008.25, 4))
        self.wheel.cancel(one)

    def test_clock_that_jumps(self) -> None:
        """A clock that jumps forward makes everything due, with bounded work."""
        watched = [Visited(self.clock) for _ in range(3)]
        for number, one in enumerate(watched):
            self.wheel.schedule(one, 1_010 + 10 * number)
        self.clock.advance(1e9)
        self.assertEqual([len(one.visits) for one in watched], [1, 1, 1])
