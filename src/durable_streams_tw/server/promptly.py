"""Going on with what a Deferred has: at once, where it has it already.

Most answers are there when they are asked for, and the machinery that serves the others costs
more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

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
