"""Threads of a durable store: one committer thread and a pool of reader threads.

The reactor's thread submits work and is called back; it never waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from durable_streams_tw.concurrency import in_daemon_thread
from durable_streams_tw.reactor_turn import turn_of
from durable_streams_tw.storage.limits import READ_THREADS

T = TypeVar("T")
Job = Any


class Executor(Protocol):
    """Executor of a store: a committer thread, reader threads, and calls back into the reactor."""

    def start(self, work: Callable[[list[Job]], None]) -> None:
        """Start the threads. The committer thread calls ``work`` with all queued jobs."""

    def submit_read(self, function: Callable[[], T]) -> Deferred[T]:
        """Call a function on a reader thread and return its result."""

    def submit_write(self, job: Job) -> None:
        """Queue a job for the committer thread."""

    def call_from_thread(self, function: Callable[[], None]) -> None:
        """Call a function on the reactor's thread. For the committer thread."""

    def stop(self) -> Deferred[None]:
        """Finish all queued jobs and reads, then stop the threads. No job may be queued later."""


class ThreadExecutor:
    """Executor with real threads.

    ``readers`` is the maximum number of reader threads.
    """

    def __init__(self, reactor: Any, readers: int = READ_THREADS) -> None:
        self._reactor = reactor
        self._reactor_turn = turn_of(reactor)
        self._pool = ThreadPool(minthreads=0, maxthreads=readers, name="durable-streams-read")
        # Jobs of the current reactor turn, then batches of jobs of earlier turns.
        self._turn: list[Job] = []
        self._queue: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._stopping = False
        self._stopped: Deferred[None] = Deferred()

    def start(self, work: Callable[[list[Job]], None]) -> None:
        """Start the threads."""
        self._pool.start()
        Thread(
            target=self._commit, args=(work,), name="durable-streams-commit", daemon=True
        ).start()

    def submit_read(self, function: Callable[[], T]) -> Deferred[T]:
        """Call a function on a thread of the pool."""
        return deferToThreadPool(self._reactor, self._pool, function)

    def submit_write(self, job: Job) -> None:
        """Queue a job for the committer thread.

        Jobs of one reactor turn are handed over together: if the first were handed over alone,
        the others would wait for its commit.
        """
        assert not self._stopping, "a job came after the executor was stopped"
        if not self._turn:
            self._reactor_turn.at_end(self._hand_over)
        self._turn.append(job)

    def _hand_over(self) -> None:
        # Also called after `stop`: then there is nothing left.
        if self._turn:
            turn, self._turn = self._turn, []
            self._queue.put(turn)

    def call_from_thread(self, function: Callable[[], None]) -> None:
        """Call a function on the reactor's thread."""
        self._reactor.callFromThread(self._reactor_turn.run, function)

    def stop(self) -> Deferred[None]:
        """Stop all threads; fires when the last job is done."""
        self._hand_over()
        self._stopping = True
        self._queue.put(None)
        return self._stopped

    def _commit(self, work: Callable[[list[Job]], None]) -> None:
        queue = self._queue
        last = False
        while not last:
            turns = [queue.get()]
            turns += [queue.get_nowait() for _ in range(queue.qsize())]
            last = turns[-1] is None
            work([job for turn in turns if turn for job in turn])
            # Without this the bodies of the last batch stay in memory until the next one.
            turns.clear()
        self._reactor.callFromThread(self._end)

    def _end(self) -> None:
        # Not on the reactor's thread: reads may wait for timers.
        stopped = in_daemon_thread(self._reactor, self._pool.stop)
        stopped.addCallback(self._stopped.callback)
