"""Reactor double for tests with real threads."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

#: When a thread that does nothing has failed (seconds).
PATIENCE = 30.0


@implementer(IReactorFromThreads)
class QueuedReactor:
    """Reactor that queues the calls of threads, one per turn."""

    def __init__(self) -> None:
        self._calls: Queue[Callable[[], Any]] = Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Queue a call."""
        self._calls.put(lambda: callable(*args, **kwargs))

    def callLater(self, seconds: float, callable: Callable[..., Any]) -> None:
        """Queue a call, without waiting."""
        self._calls.put(callable)

    def turn(self) -> None:
        """Run the next call."""
        self._calls.get(timeout=PATIENCE)()

    def run_until(self, deferred: Deferred[Any]) -> None:
        """Run calls until a Deferred has fired."""
        while not deferred.called:
            self.turn()
