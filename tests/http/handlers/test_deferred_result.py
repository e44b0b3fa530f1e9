"""Going on with results: at once, later, or not at all."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.deferred_result import Awaited, at_leisure, promptly


def quotient(result: int, argument: int) -> int:
    """What is made of a result; not of zero."""
    return argument // result


class PromptlyTests(SynchronousTestCase):
    """What a Deferred has."""

    def test_there(self) -> None:
        self.assertEqual(promptly(succeed(2), quotient, 6), 3)

    def test_later(self) -> None:
        """Also where it waits for another, or has failed."""
        waiting: Deferred[int] = Deferred()
        chained: Deferred[Any] = succeed(1)
        chained.addCallback(lambda _: waiting)
        later = promptly(chained, quotient, 6)
        assert isinstance(later, Deferred)
        waiting.callback(2)
        self.assertEqual(self.successResultOf(later), 3)
        failed = promptly(fail(KeyError()), quotient, 6)
        assert isinstance(failed, Deferred)
        self.failureResultOf(failed, KeyError)


class AwaitedTests(SynchronousTestCase):
    """The lighter way."""

    def setUp(self) -> None:
        self.awaited: Awaited[int] = Awaited(quotient, 6)
        self.told: list[Any] = []

    def wait(self) -> None:
        self.assertIs(self.awaited.now(), self.awaited)
        self.awaited.addCallbacks(self.told.append, lambda why: self.told.append(why.type))

    def test_there(self) -> None:
        """What has come before anybody waits."""
        self.awaited.came(2)
        self.assertEqual(self.awaited.now(), 3)

    def test_failed_already(self) -> None:
        self.awaited.failed(Failure(KeyError()))
        self.assertRaises(KeyError, self.awaited.now)

    def test_later(self) -> None:
        self.wait()
        self.awaited.came(2)
        self.assertEqual(self.told, [3])

    def test_fails_later(self) -> None:
        self.wait()
        self.awaited.failed(Failure(KeyError()))
        self.assertEqual(self.told, [KeyError])

    def test_nothing_can_be_made_of_it(self) -> None:
        """Whoever waits hears of it, whenever that is."""
        self.awaited.came(0)
        self.assertRaises(ZeroDivisionError, self.awaited.now)
        self.awaited = Awaited(quotient, 6)
        self.wait()
        self.awaited.came(0)
        self.assertEqual(self.told, [ZeroDivisionError])

    def test_at_leisure(self) -> None:
        """As a Deferred, which can be cancelled; what comes then is nobody's."""
        later: int | Deferred[int] = at_leisure(self.awaited)
        assert isinstance(later, Deferred)
        self.awaited.came(2)
        self.assertEqual(self.successResultOf(later), 3)
        self.awaited = Awaited(quotient, 6)
        cancelled: Any = at_leisure(self.awaited)
        cancelled.addErrback(lambda _: None)
        cancelled.cancel()
        self.awaited.came(2)
        self.assertIsNone(self.successResultOf(cancelled))

    def test_all_else_stays(self) -> None:
        waiting: Deferred[int] = Deferred()
        self.assertIs(at_leisure(waiting), waiting)
        self.assertEqual(at_leisure(5), 5)
