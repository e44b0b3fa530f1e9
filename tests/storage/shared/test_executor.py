"""Tests of `durable_streams_tw.storage.shared.executor`, with real threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, get_ident
from time import monotonic, sleep
from typing import TypeVar
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.shared.executor import Job, ThreadExecutor
from tests.queued_reactor import PATIENCE, QueuedReactor

T = TypeVar("T")


class ThreadExecutorTests(SynchronousTestCase):
    """Order of jobs on the committer thread, and concurrency of reads."""

    def setUp(self) -> None:
        self.reactor = QueuedReactor()
        self.executor = ThreadExecutor(self.reactor, readers=2)
        self.batches: list[list[Job]] = []
        self.threads: set[int] = set()
        self.working, self.may_work = Event(), Event()

    def work(self, jobs: list[Job]) -> None:
        """Run jobs on the committer thread when the test permits."""
        self.threads.add(get_ident())
        self.working.set()
        assert self.may_work.wait(PATIENCE)
        self.batches.append(jobs)
        for job in jobs:
            self.executor.call_from_thread(job)

    def result(self, deferred: Deferred[T]) -> T:
        """Return the result of a Deferred, running calls of threads until it fires."""
        self.reactor.run_until(deferred)
        return self.successResultOf(deferred)

    def stop(self) -> None:
        """Stop the executor."""
        self.may_work.set()
        self.assertIsNone(self.result(self.executor.stop()))

    def test_jobs(self) -> None:
        """Queued jobs run together, in order, and report back in order."""
        told: list[tuple[int, int]] = []

        def job(number: int) -> Callable[[], None]:
            return lambda: told.append((number, get_ident()))

        self.executor.start(self.work)
        for number in range(20):
            self.executor.submit_write(job(number))
        self.assertEqual(told, [])
        self.stop()
        self.assertEqual(told, [(number, get_ident()) for number in range(20)])
        self.assertLessEqual(len(self.batches), 2)
        self.assertEqual(len(self.threads), 1)
        self.assertNotIn(get_ident(), self.threads)

    def test_jobs_are_released(self) -> None:
        """The committer thread keeps no reference to finished jobs while it waits."""
        done = Event()

        class Body:
            """Stand-in for the bytes of a command."""

        def work(jobs: list[Job]) -> None:
            self.executor.call_from_thread(done.set)

        body = Body()
        seen = ref(body)
        self.executor.start(work)
        self.executor.submit_write(body)
        del body
        while not done.is_set():
            self.reactor.turn()
        self.wait_until(lambda: seen() is None)
        self.assertIsNone(seen())
        self.stop()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition on another thread."""
        end = monotonic() + PATIENCE
        while not is_so() and monotonic() < end:
            sleep(0.001)

    def test_turns_that_gather_share_a_batch(self) -> None:
        """Jobs of several turns, queued while the committer is busy, are one batch."""
        self.executor.start(self.work)
        self.executor.submit_write(lambda: None)
        self.reactor.turn()
        self.assertTrue(self.working.wait(PATIENCE))
        for _ in range(5):
            self.executor.submit_write(lambda: None)
            self.reactor.turn()
        self.may_work.set()
        self.stop()
        self.assertEqual([len(jobs) for jobs in self.batches if jobs], [1, 5])

    def test_nothing_to_do(self) -> None:
        """Stopping an idle executor works."""
        self.executor.start(self.work)
        self.stop()
        self.assertEqual([job for jobs in self.batches for job in jobs], [])

    def test_job_after_stop(self) -> None:
        """A late job is refused, and does not keep the executor from stopping."""
        self.executor.start(self.work)
        self.executor.submit_write(lambda: None)
        self.reactor.turn()
        self.assertTrue(self.working.wait(PATIENCE))
        stopped = self.executor.stop()
        self.assertRaises(AssertionError, self.executor.submit_write, lambda: None)
        self.may_work.set()
        self.result(stopped)

    def test_reads(self) -> None:
        """Reads run concurrently, also while the committer thread is busy."""
        self.executor.start(self.work)
        self.executor.submit_write(lambda: None)
        both = [Event(), Event()]

        def look(own: Event, other: Event) -> int:
            own.set()
            assert other.wait(PATIENCE)
            return get_ident()

        reads = [
            self.executor.submit_read(lambda: look(*both)),
            self.executor.submit_read(lambda: look(*both[::-1])),
        ]
        threads = {self.result(read) for read in reads}
        self.assertEqual(len(threads), 2)
        self.assertNotIn(get_ident(), threads)
        self.assertEqual(self.batches, [])
        self.stop()

    def test_a_read_that_fails(self) -> None:
        self.executor.start(self.work)

        def look() -> None:
            raise ZeroDivisionError

        read = self.executor.submit_read(look)
        while not read.called:
            self.reactor.turn()
        self.failureResultOf(read, ZeroDivisionError)
        self.stop()

    def test_reads_under_way_at_the_end(self) -> None:
        """Stopping waits for pending reads: LMDB must stay open for them."""
        self.executor.start(self.work)
        begun, may_read = Event(), Event()

        def look() -> str:
            begun.set()
            assert may_read.wait(PATIENCE)
            return "read"

        read = self.executor.submit_read(look)
        self.assertTrue(begun.wait(PATIENCE))
        self.may_work.set()
        stopped = self.executor.stop()
        may_read.set()
        self.result(stopped)
        self.assertEqual(self.result(read), "read")
