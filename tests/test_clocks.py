"""Tests of `durable_streams_tw.clocks`: clocks that are set while timers are pending."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw import clocks
from durable_streams_tw.clocks import StreamTime

NOON = 1_800_000_000.0


class SettableReactor(ReactorBase):
    """Reactor without I/O whose clock the test sets."""

    def __init__(self, seconds: clocks.Seconds | None = None) -> None:
        self.wakes = self.searches = 0
        ReactorBase.__init__(self)
        if seconds is not None:
            self.seconds = seconds

    def installWaker(self) -> None:
        """Do nothing: no thread sleeps."""

    def wakeUp(self) -> None:
        """Count the calls: no thread sleeps."""
        self.wakes += 1

    def _moveCallLaterSooner(self, delayedCall: DelayedCall) -> None:
        """Count the searches among all calls."""
        self.searches += 1
        ReactorBase._moveCallLaterSooner(self, delayedCall)

    def turn(self) -> None:
        """Run due calls."""
        self.runUntilCurrent()


class FakeClocks:
    """Monotonic and wall clock: ``step`` sets one of them, ``advance`` moves both."""

    def __init__(self) -> None:
        self.wall = NOON
        self.monotonic = 5.0

    def read_wall(self) -> float:
        return self.wall

    def read_monotonic(self) -> float:
        return self.monotonic

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def step(self, seconds: float) -> None:
        self.wall += seconds


class TimersCase(SynchronousTestCase):
    """Test case that records calls in their order."""

    def setUp(self) -> None:
        self.machine = FakeClocks()
        self.made: list[str] = []


class SteadyTimersTests(TimersCase):
    """Timers beside a reactor whose clock is set."""

    def setUp(self) -> None:
        TimersCase.setUp(self)
        self.reactor = SettableReactor(self.machine.read_wall)
        self.timers = clocks.MonotonicTimers(
            self.reactor, self.machine.read_monotonic, self.machine.read_wall
        )

    def pass_time(self, seconds: float) -> None:
        """Advance time in steps of the watching thread."""
        while seconds > 0:
            self.machine.advance(min(seconds, clocks.STEP_CHECK))
            seconds -= clocks.STEP_CHECK
            self.timers.compare()
            self.reactor.turn()
            self.reactor.turn()

    def later(self, delay: float, name: str) -> Any:
        return self.timers.callLater(delay, self.made.append, name)

    def test_in_order(self) -> None:
        self.later(3, "c")
        self.later(1, "a")
        self.later(2, "b")
        for _ in range(3):
            self.pass_time(1)
        self.assertEqual(self.made, ["a", "b", "c"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_set_back(self) -> None:
        """When the clock is set back, `SteadyTimers` fire in time, unlike the reactor's timers."""
        self.reactor.callLater(1, self.made.append, "reactor")
        self.later(1, "steady")
        self.later(5, "later")
        self.machine.step(-3600)
        self.pass_time(1)
        self.assertEqual(self.made, ["steady"])
        self.pass_time(4)
        self.assertEqual(self.made, ["steady", "later"])

    def test_set_forward(self) -> None:
        self.later(5, "steady")
        self.machine.step(3600)
        self.pass_time(4)
        self.assertEqual(self.made, [])
        self.pass_time(1)
        self.assertEqual(self.made, ["steady"])

    def test_next_turn(self) -> None:
        """A delay of 0 fires in the next turn; when the clock is set back, after the clocks have
        been compared.
        """
        self.later(0, "next")
        self.assertEqual(self.made, [])
        self.reactor.turn()
        self.assertEqual(self.made, ["next"])
        self.later(0, "set back")
        self.machine.step(-8)
        self.timers.compare()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(self.made, ["next", "set back"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_little_work(self) -> None:
        """The reactor, on whose thread timers are made, is not woken for them, and does not search
        its other calls.
        """
        for delay in (0, 1, 0):
            self.later(delay, "x")
        self.reactor.turn()
        self.assertEqual((self.made, self.reactor.wakes, self.reactor.searches), (["x", "x"], 0, 0))

    def test_rescheduled_in_a_turn(self) -> None:
        """Other events run between two calls with delay 0."""

        def first() -> None:
            self.made.append("a")
            self.later(0, "b")

        self.timers.callLater(0, first)
        self.reactor.turn()
        self.assertEqual(self.made, ["a"])
        self.reactor.turn()
        self.assertEqual(self.made, ["a", "b"])

    def test_cancelled(self) -> None:
        """When all timers are cancelled, the reactor has no delayed call."""
        calls = [self.later(seconds, "x") for seconds in (3, 1, 2)]
        for call in calls:
            call.cancel()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.timers.getDelayedCalls(), [])
        many = [self.later(100 + number, "x") for number in range(1000)]
        for call in many[1:]:
            call.cancel()
        self.assertLess(len(self.timers._calls), 200)
        self.assertEqual(self.timers.getDelayedCalls(), [many[0]])

    def test_cancelled_by_another(self) -> None:
        second = self.later(1, "second")
        self.timers.callLater(0.5, lambda: second.cancel())
        self.pass_time(2)
        self.assertEqual(self.made, [])

    def test_moved(self) -> None:
        call = self.later(5, "a")
        call.reset(1)
        self.pass_time(1)
        self.assertEqual(self.made, ["a"])
        call = self.later(1, "b")
        call.delay(2)
        self.pass_time(2)
        self.assertEqual(self.made, ["a"])
        self.pass_time(1)
        self.assertEqual(self.made, ["a", "b"])

    def test_exception(self) -> None:
        """An exception of a call is logged, and the next call runs."""
        self.timers.callLater(1, lambda: 1 // 0)
        self.later(1, "b")
        self.pass_time(1)
        self.assertEqual(self.made, ["b"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class MonotonicReactorTests(TimersCase):
    """Reactor of the server's own process."""

    def test_steps(self) -> None:
        """Calls scheduled before and after a step keep their delays."""
        machine = self.machine
        fake = SimpleNamespace(time=machine.read_wall, monotonic=machine.read_monotonic)
        reactor = SettableReactor()
        self.patch(clocks, "time", fake)
        self.patch(clocks, "twisted_seconds", reactor.seconds)
        clocks.make_monotonic(reactor)
        reactor.callLater(2, self.made.append, "two")
        machine.step(-3600)
        reactor.callLater(1, self.made.append, "one")
        reactor.callLater(0, self.made.append, "next")
        reactor.turn()
        self.assertEqual(self.made, ["next"])
        machine.step(7200)
        reactor.turn()
        self.assertEqual(self.made, ["next"])
        for _ in range(2):
            machine.advance(1)
            reactor.turn()
        self.assertEqual(self.made, ["next", "one", "two"])
        self.assertIs(clocks.monotonic_timers(reactor), reactor)

    def test_choice(self) -> None:
        """A test's clock is used for everything; a foreign reactor gets separate timers."""
        clock = Clock()
        clocks.make_monotonic(clock)
        self.assertIs(clocks.monotonic_timers(clock), clock)
        self.assertEqual(clocks.wall_clock(clock)(), 0)
        reactor = SettableReactor()
        self.patch(clocks.MonotonicTimers, "watch", lambda self: None)
        timers = clocks.monotonic_timers(reactor)
        self.assertIsInstance(timers, clocks.MonotonicTimers)
        self.assertIs(clocks.monotonic_timers(reactor), timers)


class StreamTimeTests(SynchronousTestCase):
    """Milliseconds that no clock step changes."""

    def test_steps(self) -> None:
        machine = FakeClocks()
        time = StreamTime(machine.read_wall, machine.read_monotonic)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000), 0))
        machine.step(3600)
        machine.advance(1.5)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000) + 1500, 3_600_000))
        machine.step(-7200)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000) + 1500, -3_600_000))

    def test_of_this_machine(self) -> None:
        time = clocks.stream_time(SettableReactor())
        self.assertLess(abs(time.lead()), 60_000)
        first = time.now()
        self.assertLessEqual(first, time.now())
        self.assertLessEqual(clocks.elapsed(), clocks.elapsed())
