"""Tests of `durable_streams_tw.concurrency`."""

from __future__ import annotations

from threading import Event, current_thread
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.concurrency import WorkerPool, continue_with, in_daemon_thread, stop_all
from tests.queued_reactor import PATIENCE, QueuedReactor


class ThreadTests(SynchronousTestCase):
    """`in_daemon_thread` and `WorkerPool`."""

    def setUp(self) -> None:
        self.reactor = QueuedReactor()

    def result(self, deferred: Deferred[Any]) -> Any:
        self.reactor.run_until(deferred)
        return self.successResultOf(deferred)

    def test_daemon_thread(self) -> None:
        """A call that hangs does not keep the process from exiting."""
        thread = self.result(in_daemon_thread(self.reactor, current_thread))
        self.assertTrue(thread.daemon)
        failed = in_daemon_thread(self.reactor, int, "x")
        self.reactor.turn()
        self.failureResultOf(failed, ValueError)

    def test_cancelled(self) -> None:
        """A cancelled Deferred fails at once, and the later result is dropped."""
        may_end = Event()
        waiting = in_daemon_thread(self.reactor, may_end.wait, PATIENCE)
        waiting.cancel()
        self.failureResultOf(waiting)
        may_end.set()
        self.reactor.turn()

    def test_pool(self) -> None:
        """Calls of a pool share a few threads, which end with it."""
        pool = WorkerPool(self.reactor, 2, "test")
        pool.stop()
        threads = {self.result(pool(current_thread)) for _ in range(10)}
        self.assertLessEqual(len(threads), 2)
        pool.stop()
        self.assertFalse(any(thread.is_alive() for thread in threads))


class StopTests(SynchronousTestCase):
    """`stop_all`."""

    def test_in_order(self) -> None:
        """Each step starts when the previous one has ended, also after a failure."""
        events: list[str] = []
        waiting: Deferred[None] = Deferred()

        def slow() -> Deferred[None]:
            events.append("slow")
            return waiting

        def raises() -> None:
            events.append("raises")
            raise ValueError("a bug")

        def fails() -> Deferred[None]:
            events.append("fails")
            return fail(ValueError("another"))

        stopped = stop_all(raises, slow, fails, lambda: events.append("last"))
        self.assertEqual(events, ["raises", "slow"])
        waiting.callback(None)
        self.assertEqual(events, ["raises", "slow", "fails", "last"])
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)


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
