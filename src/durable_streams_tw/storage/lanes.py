"""Where disk work happens: a pool of threads that read, and one thread that commits.

The reactor's thread hands work over and is called back; it never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from durable_streams_tw.protocol.limits import READ_THREADS

T = TypeVar("T")
Job = Any


class Lanes(Protocol):
    """How a store gets its work done elsewhere."""

    def start(self, work: Callable[[list[Job]], None]) -> None:
        """Begin. ``work`` is called in the committing lane with what has queued."""

    def read(self, look: Callable[[], T]) -> Deferred[T]:
        """Call something in a reading lane."""

    def write(self, job: Job) -> None:
        """Queue a job for the committing lane."""

    def tell(self, what: Callable[[], None]) -> None:
        """Call something on the reactor's thread. For the committing lane."""

    def stop(self) -> Deferred[None]:
        """Finish what has queued, then end."""


class ThreadLanes:
    """Lanes of real threads beside a reactor."""

    def __init__(self, reactor: IReactorFromThreads, readers: int = READ_THREADS) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=readers, name="durable-streams-read")
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._stopped: Deferred[None] = Deferred()

    def start(self, work: Callable[[list[Job]], None]) -> None:
        """Start the threads."""
        self._pool.start()
        Thread(
            target=self._commit, args=(work,), name="durable-streams-commit", daemon=True
        ).start()

    def read(self, look: Callable[[], T]) -> Deferred[T]:
        """Call something in a thread of the pool."""
        return deferToThreadPool(self._reactor, self._pool, look)

    def write(self, job: Job) -> None:
        """Queue a job; the committing thread takes all that has queued at once."""
        self._queue.put(job)

    def tell(self, what: Callable[[], None]) -> None:
        """Call something on the reactor's thread."""
        self._reactor.callFromThread(what)

    def stop(self) -> Deferred[None]:
        """End both lanes; fires when the last job is done."""
        self._queue.put(None)
        return self._stopped

    def _commit(self, work: Callable[[list[Job]], None]) -> None:
        queue = self._queue
        while True:
            jobs = [queue.get()]
            jobs += [queue.get_nowait() for _ in range(queue.qsize())]
            if jobs[-1] is None:
                work(jobs[:-1])
                break
            work(jobs)
        self._reactor.callFromThread(self._end)

    def _end(self) -> None:
        self._pool.stop()
        self._stopped.callback(None)
