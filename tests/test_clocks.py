"""Clocks that are set while timers are pending, and the time that stores count by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw import clocks
from durable_streams_tw.clocks import StreamTime

NOON = 1_800_000_000.0


class WallReactor(ReactorBase):
    """A real reactor without I/O, whose clock the test sets."""

    def __init__(self, seconds: clocks.Seconds | None = None) -> None:
        ReactorBase.__init__(self)
        if seconds is not None:
            self.seconds = seconds

    def installWaker(self) -> None:
        """Nothing sleeps."""

    def wakeUp(self) -> None:
        """Nothing sleeps."""

    def turn(self) -> None:
        """Do what is due."""
        self.runUntilCurrent()


class Machine:
    """A machine's two clocks: ``step`` sets one of them, ``advance`` moves both."""

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
    """Calls in the order in which they are made."""

    def setUp(self) -> None:
        self.machine = Machine()
        self.made: list[str] = []


class SteadyTimersTests(TimersCase):
    """Timers beside a reactor whose clock is set."""

    def setUp(self) -> None:
        TimersCase.setUp(self)
        self.reactor = WallReactor(self.machine.read_wall)
        self.timers = clocks.MonotonicTimers(
            self.reactor, self.machine.read_monotonic, self.machine.read_wall
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of the watching thread's."""
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
        """The reactor's own timers freeze for the length of the step, these do not."""
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
        """A delay of 0 means the next turn, also where the clock was set back in between."""
        self.later(0, "next")
        self.machine.step(-8)
        self.assertEqual(self.made, [])
        self.reactor.turn()
        self.assertEqual(self.made, ["next"])

    def test_next_turn_of_a_next_turn(self) -> None:
        """Other events get their turn in between."""

        def first() -> None:
            self.made.append("a")
            self.later(0, "b")

        self.timers.callLater(0, first)
        self.reactor.turn()
        self.assertEqual(self.made, ["a"])
        self.reactor.turn()
        self.assertEqual(self.made, ["a", "b"])

    def test_cancelled(self) -> None:
        """The reactor has nothing left to do once every timer is cancelled."""
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

    def test_bug(self) -> None:
        """What one call raises is logged, and the next one is made."""
        self.timers.callLater(1, lambda: 1 // 0)
        self.later(1, "b")
        self.pass_time(1)
        self.assertEqual(self.made, ["b"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class MonotonicReactorTests(TimersCase):
    """A reactor of the server's own process."""

    def test_steps(self) -> None:
        """Calls of before and after keep their distance from now."""
        machine = self.machine
        fake = SimpleNamespace(time=machine.read_wall, monotonic=machine.read_monotonic)
        reactor = WallReactor()
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
        """A clock of a test's serves for everything; a foreign reactor gets timers beside it."""
        clock = Clock()
        clocks.make_monotonic(clock)
        self.assertIs(clocks.monotonic_timers(clock), clock)
        self.assertEqual(clocks.wall_clock(clock)(), 0)
        reactor = WallReactor()
        self.patch(clocks.MonotonicTimers, "watch", lambda self: None)
        timers = clocks.monotonic_timers(reactor)
        self.assertIsInstance(timers, clocks.MonotonicTimers)
        self.assertIs(clocks.monotonic_timers(reactor), timers)


class StreamTimeTests(SynchronousTestCase):
    """Milliseconds that no step moves."""

    def test_steps(self) -> None:
        machine = Machine()
        time = StreamTime(machine.read_wall, machine.read_monotonic)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000), 0))
        machine.step(3600)
        machine.advance(1.5)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000) + 1500, 3_600_000))
        machine.step(-7200)
        self.assertEqual((time.now(), time.lead()), (int(NOON * 1000) + 1500, -3_600_000))

    def test_of_this_machine(self) -> None:
        time = clocks.stream_time(WallReactor())
        self.assertLess(abs(time.lead()), 60_000)
        first = time.now()
        self.assertLessEqual(first, time.now())
        self.assertLessEqual(clocks.elapsed(), clocks.elapsed())
