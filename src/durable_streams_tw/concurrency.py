"""Threads apart from the reactor's own pool, and steps that run whatever the earlier ones did."""

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
    """Call a function in a new thread that does not keep the process alive.

    For what is rare and may hang, such as a file on a network. Cancelling fails the Deferred; the
    thread goes on.
    """
    done: Deferred[T] = Deferred()

    def end(result: T | Failure) -> None:
        # A cancelled Deferred drops the first result that comes afterwards.
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def run() -> None:
        try:
            result: T | Failure = call(*arguments)
        except Exception:  # noqa: BLE001 - it is the caller's
            result = Failure()
        reactor.callFromThread(end, result)

    Thread(target=run, name="durable-streams-call", daemon=True).start()
    return done


class WorkerPool:
    """A bounded number of threads for one kind of work: ``pool(function, *arguments)``.

    The reactor's own pool serves whatever else the process does, so work whose amount strangers
    decide must not queue there. Threads start with the first call, and end with `stop`.
    """

    def __init__(self, reactor: Any, threads: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name=name)

    def __call__(self, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call a function in a thread of the pool."""
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, call, *arguments)

    def stop(self) -> None:
        """Wait for the calls that are under way or queued, and end the threads."""
        if self._pool.started:
            self._pool.stop()


def stop_all(*steps: Callable[[], Any]) -> Deferred[None]:
    """Call each step when the one before has ended, and log those that fail.

    A step may return a Deferred. Fires with None when the last one has ended.
    """
    stopped: Deferred[None] = Deferred()
    under_way: Deferred[Any] = succeed(None)
    for step in steps:
        under_way.addCallback(lambda _, step: maybeDeferred(step), step)
        under_way.addErrback(_failed)
    under_way.addCallback(lambda _: stopped.callback(None))
    return stopped


def _failed(failure: Failure) -> None:
    _log.failure("stopping failed", failure)
