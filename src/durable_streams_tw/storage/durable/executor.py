"""Where disk work happens: a pool of threads that read, and one thread that commits.

The reactor's thread hands work over and is called back; it never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from durable_streams_tw.storage.limits import READ_THREADS

T = TypeVar("T")
Job = Any


class Executor(Protocol):
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


class ThreadExecutor:
    """Lanes of real threads beside a reactor; ``timers`` (default: the reactor's) say when a
    turn is over."""

    def __init__(
        self, reactor: Any, timers: IReactorTime | None = None, readers: int = READ_THREADS
    ) -> None:
        self._reactor = reactor
        self._timers: IReactorTime = timers or reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=readers, name="durable-streams-read")
        # Jobs of the running turn, and those of turns before it.
        self._turn: list[Job] = []
        self._queue: SimpleQueue[list[Job] | None] = SimpleQueue()
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
        """Queue a job; the committing thread takes all that has queued at once.

        It gets those of one turn of the reactor together: a commit of the first would make
        the others wait for the next.
        """
        if not self._turn:
            self._timers.callLater(0, self._hand_over)
        self._turn.append(job)

    def _hand_over(self) -> None:
        # Nothing may come behind the end.
        if self._turn:
            turn, self._turn = self._turn, []
            self._queue.put(turn)

    def tell(self, what: Callable[[], None]) -> None:
        """Call something on the reactor's thread."""
        self._reactor.callFromThread(what)

    def stop(self) -> Deferred[None]:
        """End both lanes; fires when the last job is done."""
        self._hand_over()
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
            # Or the last batch's bytes live for as long as this thread waits for the next.
            turns.clear()
        self._reactor.callFromThread(self._end)

    def _end(self) -> None:
        self._pool.stop()
        self._stopped.callback(None)
