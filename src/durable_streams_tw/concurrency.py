"""Threads outside the reactor's thread pool, results that are there, and sequential shutdown."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")

_log = Logger()


def in_daemon_thread(reactor: Any, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """Call a function in a new daemon thread and return its result.

    Use it for rare calls that may hang, such as reading a file on a network: a daemon thread does
    not keep the process alive. Cancelling the Deferred does not stop the thread.
    """
    done: Deferred[T] = Deferred()

    def end(result: T | Failure) -> None:
        # A cancelled Deferred ignores its first result.
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def run() -> None:
        try:
            result: T | Failure = call(*arguments)
        except Exception:  # noqa: BLE001 - passed to the caller
            result = Failure()
        reactor.callFromThread(end, result)

    Thread(target=run, name="durable-streams-call", daemon=True).start()
    return done


class WorkerPool:
    """Bounded thread pool for one kind of work: ``pool(function, *arguments)``.

    Work that clients cause must not queue in the reactor's thread pool, where it would delay all
    other work of the process. Threads start with the first call and end with `stop`.
    """

    def __init__(self, reactor: Any, threads: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name=name)

    def __call__(self, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call a function in a thread of the pool and return its result."""
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, call, *arguments)

    def stop(self) -> None:
        """Wait for running and queued calls, and end the threads."""
        if self._pool.started:
            self._pool.stop()


def continue_with(
    deferred: Deferred[Any], function: Callable[..., T | Deferred[T]], argument: object
) -> T | Deferred[T]:
    """Return ``function(result, argument)``, or a Deferred of it if the result is not there yet.

    Most results on the hot path are there, and a callback costs more than they do.
    The caller must not use ``deferred`` afterwards. A failure is returned as a Deferred.
    """
    if deferred.called and not deferred.paused:
        result = deferred.result
        if not isinstance(result, (Failure, Deferred)):
            return function(result, argument)
    later: Deferred[T] = deferred.addCallback(function, argument)
    return later


def stop_all(*steps: Callable[[], Any]) -> Deferred[None]:
    """Call each step after the previous one has finished, and log failures.

    A step may return a Deferred. The result fires with None after the last step.
    """
    stopped: Deferred[None] = Deferred()
    under_way: Deferred[Any] = succeed(None)
    for step in steps:
        under_way.addCallback(lambda _, step: maybeDeferred(step), step)
        under_way.addErrback(_failed)
    under_way.addCallback(lambda _: stopped.callback(None))
    return stopped


def _failed(failure: Failure) -> None:
    _log.failure("Shutdown step failed", failure)
