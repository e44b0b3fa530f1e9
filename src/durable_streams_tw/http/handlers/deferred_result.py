"""Going on at once with what is there, and later with what is not.

Most answers are there when they are asked for, and the machinery that serves the others costs
more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

A = TypeVar("A")
T = TypeVar("T")


def promptly(
    found: Deferred[Any], then: Callable[..., T | Deferred[T]], argument: object
) -> T | Deferred[T]:
    """What ``then(result, argument)`` returns: as it is, if the result is there; else later.

    ``found`` is nobody else's from here on. A failure stays in the Deferred that is returned.
    """
    if found.called and not found.paused:
        result = found.result
        if not isinstance(result, Failure | Deferred):
            return then(result, argument)
    later: Deferred[T] = found.addCallback(then, argument)
    return later


class Awaited(Generic[T]):
    """What comes later, for one who waits and makes nothing more of it: a Deferred costs several
    times as much, and was a sixth of a small append.

    ``then(result, argument)`` makes of a result what is waited for.
    """

    __slots__ = ("_argument", "_failed", "_failure", "_found", "_then", "_told")

    def __init__(self, then: Callable[[Any, A], T], argument: A) -> None:
        self._then = then
        self._argument: Any = argument
        self._told: Callable[[T], object] | None = None
        self._failed: Callable[[Failure], object] | None = None
        self._found: T | None = None
        self._failure: Failure | None = None

    def came(self, result: Any) -> None:
        """The result is there."""
        try:
            found = self._then(result, self._argument)
        except Exception:  # noqa: BLE001 - whoever waits has to hear of it
            self.failed(Failure())
            return
        if self._told is None:
            self._found = found
        else:
            self._told(found)

    def failed(self, failure: Failure) -> None:
        """There will be none."""
        if self._failed is None:
            self._failure = failure
        else:
            self._failed(failure)

    def now(self) -> T | Awaited[T]:
        """What has come already, or this. Raises what it has failed with."""
        if self._failure is not None:
            self._failure.raiseException()
        return self if self._found is None else self._found

    def addCallbacks(
        self, told: Callable[[T], object], failed: Callable[[Failure], object]
    ) -> None:
        """Tell somebody what comes. Once, and before it comes."""
        self._told, self._failed = told, failed

    def cancel(self) -> None:
        """Nobody waits any more. What has begun goes on, and may still be told."""


def at_leisure(answer: T | Deferred[T] | Awaited[T]) -> T | Deferred[T]:
    """The same for those who want more of what comes later: as a Deferred."""
    if not isinstance(answer, Awaited):
        return answer
    later: Deferred[T] = Deferred()
    answer.addCallbacks(later.callback, later.errback)
    return later
