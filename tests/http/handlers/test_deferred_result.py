"""Tests of `durable_streams_tw.http.handlers.deferred_result`."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.deferred_result import continue_with


def join(result: str, argument: object) -> str:
    """Return the result and the argument as one string."""
    return f"{result} {argument}"


class ContinueWithTests(SynchronousTestCase):
    """`continue_with`."""

    def test_fired(self) -> None:
        """A result that is there is passed on synchronously."""
        self.assertEqual(continue_with(succeed("a"), join, "b"), "a b")

    def test_pending(self) -> None:
        """A pending result is passed on when it comes."""
        pending: Deferred[str] = Deferred()
        later = continue_with(pending, join, "b")
        assert isinstance(later, Deferred)
        self.assertNoResult(later)
        pending.callback("a")
        self.assertEqual(self.successResultOf(later), "a b")

    def test_failed(self) -> None:
        """A failure stays in the Deferred, and the function is not called."""
        later = continue_with(fail(ValueError()), join, "b")
        assert isinstance(later, Deferred)
        self.failureResultOf(later, ValueError)

    def test_chained(self) -> None:
        """A fired Deferred that waits for another one counts as pending."""
        inner: Deferred[str] = Deferred()
        outer = succeed("x").addCallback(lambda _: inner)
        later = continue_with(outer, join, "b")
        assert isinstance(later, Deferred)
        inner.callback("a")
        self.assertEqual(self.successResultOf(later), "a b")
