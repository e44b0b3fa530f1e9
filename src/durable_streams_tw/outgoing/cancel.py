"""Cancelling what has many names for that."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def cancellable(inner: Deferred[T]) -> Deferred[T]:
    """The same, failing with `CancelledError` when it is cancelled: what is under way has many
    names for that. It may be settled by others too, and what comes then is dropped."""
    cancelled = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True
        inner.cancel()

    def settle(result: T | Failure) -> None:
        if outer.called or cancelled:
            return
        if isinstance(result, Failure):
            outer.errback(result)
        else:
            outer.callback(result)

    outer: Deferred[T] = Deferred(cancel)
    inner.addBoth(settle)
    return outer
