"""Cancellation of Deferreds with one kind of failure."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def cancellable(inner: Deferred[T]) -> Deferred[T]:
    """Return a Deferred that fails with `CancelledError` when it is cancelled.

    Twisted's and treq's Deferreds fail with errors of their own when cancelled. Others may fire
    the returned Deferred first; the result of ``inner`` is dropped then.
    """
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
