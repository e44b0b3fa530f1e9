"""Tests of `durable_streams_tw.http.handlers.deferred_result`."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.deferred_result import PendingResult, as_deferred


def join(result: str, argument: object) -> str:
    """Return the result and the argument as one string."""
    return f"{result} {argument}"


class PendingResultTests(SynchronousTestCase):
    """`PendingResult` and `as_deferred`."""

    def setUp(self) -> None:
        self.pending: PendingResult[str] = PendingResult(join, "b")

    def test_result_is_there(self) -> None:
        self.pending.callback("a")
        self.assertEqual(self.pending.result_or_self(), "a b")

    def test_failure_is_there(self) -> None:
        self.pending.errback(Failure(ValueError()))
        self.assertRaises(ValueError, self.pending.result_or_self)

    def test_later(self) -> None:
        """The waiter gets the converted result."""
        self.assertIs(self.pending.result_or_self(), self.pending)
        deferred: str | Deferred[str] = as_deferred(self.pending)
        assert isinstance(deferred, Deferred)
        self.assertNoResult(deferred)
        self.pending.callback("a")
        self.assertEqual(self.successResultOf(deferred), "a b")

    def test_later_failure(self) -> None:
        """An error of the function is the waiter's, not the caller's."""
        broken: PendingResult[str] = PendingResult(lambda result, _: result["x"], None)
        deferred: str | Deferred[str] = as_deferred(broken)
        assert isinstance(deferred, Deferred)
        broken.callback("a")
        self.failureResultOf(deferred, TypeError)

    def test_other_results(self) -> None:
        self.assertEqual(as_deferred("a"), "a")
