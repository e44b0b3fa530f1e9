"""Synchronous continuation of Deferreds that have already fired.

Most results are available when they are requested, and a callback costs more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def continue_with(
    deferred: Deferred[Any], function: Callable[..., T | Deferred[T]], argument: object
) -> T | Deferred[T]:
    """Return ``function(result, argument)``, or a Deferred of it if the result is not there yet.

    The caller must not use ``deferred`` afterwards. A failure is returned as a Deferred.
    """
    if deferred.called and not deferred.paused:
        result = deferred.result
        if not isinstance(result, Failure | Deferred):
            return function(result, argument)
    later: Deferred[T] = deferred.addCallback(function, argument)
    return later
