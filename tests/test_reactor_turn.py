"""Tests of calls at the end of an event's handler."""

from __future__ import annotations

from gc import collect
from weakref import ref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.reactor_turn import ReactorTurn, turn_of


class ReactorTurnTests(SynchronousTestCase):
    """Calls at the end of a turn."""

    def setUp(self) -> None:
        """Make a turn and a list of what was called."""
        self.clock = Clock()
        self.turn = ReactorTurn(self.clock)
        self.called: list[str] = []

    def note(self, name: str) -> None:
        """Note a call."""
        self.called.append(name)

    def test_end_of_handler(self) -> None:
        """Calls that a handler adds are called once, in order, when it has ended."""

        def handle(name: str) -> None:
            self.turn.at_end(lambda: self.note("first"))
            self.turn.run(self.note, "inner handler")
            self.turn.at_end(lambda: self.note("second"))
            self.note(name)

        self.turn.run(handle, "handler")
        expected = ["inner handler", "handler", "first", "second"]
        self.assertEqual(self.called, expected)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1)
        self.assertEqual(self.called, expected)

    def test_next_turn(self) -> None:
        """One timer calls all functions in the reactor's next turn, if no handler runs."""
        self.turn.at_end(lambda: self.note("first"))
        self.turn.at_end(lambda: self.note("second"))
        self.assertEqual(self.called, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)
        self.assertEqual(self.called, ["first", "second"])

    def test_earlier_handler(self) -> None:
        """A handler that runs before the timer makes the calls, and the timer none again."""
        self.turn.at_end(lambda: self.note("call"))
        self.turn.run(self.note, "handler")
        self.assertEqual(self.called, ["handler", "call"])
        self.clock.advance(0)
        self.assertEqual(self.called, ["handler", "call"])

    def test_added_by_a_call(self) -> None:
        """A function that a call adds waits for the next turn and cannot starve other events."""
        self.turn.run(self.turn.at_end, lambda: self.turn.at_end(lambda: self.note("later")))
        self.assertEqual(self.called, [])
        self.clock.advance(0)
        self.assertEqual(self.called, ["later"])

    def test_errors(self) -> None:
        """An error of a handler or a call does not prevent the calls after it."""

        def fail() -> None:
            raise ZeroDivisionError

        def handle() -> None:
            self.turn.at_end(fail)
            self.turn.at_end(lambda: self.note("call"))
            fail()

        self.assertRaises(ZeroDivisionError, self.turn.run, handle)
        self.assertEqual(self.called, ["call"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.turn.run(self.note, "handler")
        self.assertEqual(self.called, ["call", "handler"])

    def test_shared(self) -> None:
        """All callers share the turns of a reactor; other reactors have their own."""
        self.assertIs(turn_of(self.clock), turn_of(self.clock))
        self.assertIsNot(turn_of(self.clock), turn_of(Clock()))

    def test_released(self) -> None:
        """A reactor is released when its last caller is."""
        clock = Clock()
        turn = turn_of(clock)
        turn.run(turn.at_end, lambda: None)
        released = ref(clock)
        del clock, turn
        collect()
        self.assertIsNone(released())
