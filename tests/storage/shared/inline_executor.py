"""Executor without threads, for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from durable_streams_tw.storage.shared.executor import Job

T = TypeVar("T")


class InlineExecutor:
    """`Executor` on the calling thread.

    While ``held`` is true jobs and reads queue; `release` runs them, all queued jobs together.
    ``batches`` are the numbers of jobs that the committer was given.
    """

    def __init__(self) -> None:
        self.held = False
        self.stopped = False
        self.batches: list[int] = []
        self._jobs: deque[Job] = deque()
        self._reads: deque[Callable[[], None]] = deque()
        self._told: deque[Callable[[], None]] = deque()
        self._running = False

    def start(self, work: Callable[[list[Job]], None]) -> None:
        self._work = work

    def submit_read(self, look: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def read() -> None:
            maybeDeferred(look).chainDeferred(done)

        self._reads.append(read)
        self._run()
        return done

    def submit_write(self, job: Job) -> None:
        assert not self.stopped, "a job came after the executor was stopped"
        self._jobs.append(job)
        self._run()

    def call_from_thread(self, what: Callable[[], None]) -> None:
        self._told.append(what)

    def stop(self) -> Deferred[None]:
        self.drain()
        self.stopped = True
        return succeed(None)

    @property
    def busy(self) -> bool:
        """Return True if work is queued."""
        return bool(self._jobs or self._reads)

    def release(self) -> None:
        """Run all queued work, and later work at once."""
        self.held = False
        self._run()

    def drain(self) -> None:
        """Run all queued work and what it queues; keep holding."""
        while self.busy:
            self.turn()

    def turn(self) -> None:
        """Run all queued work; keep holding."""
        jobs, self._jobs = list(self._jobs), deque()
        reads, self._reads = list(self._reads), deque()
        if jobs:
            self._commit(jobs)
        for read in reads:
            read()

    def _run(self) -> None:
        # Callbacks may submit more work, which runs after this, not inside of it.
        if self._running or self.held:
            return
        self._running = True
        try:
            while self._jobs or self._reads:
                self.turn()
        finally:
            self._running = False

    def _commit(self, jobs: list[Job]) -> None:
        self.batches.append(len(jobs))
        self._work(jobs)
        while self._told:
            self._told.popleft()()
