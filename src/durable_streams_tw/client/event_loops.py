"""Awaiting of Deferreds in coroutines that Twisted or asyncio runs.

A coroutine that awaits only through `settled` works in both: as ``Deferred.fromCoroutine(work())``,
and as ``await work()`` in a program of asyncio on Twisted's asyncio reactor.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from twisted.internet import asyncioreactor
from twisted.internet.defer import CancelledError, Deferred

T = TypeVar("T")

CANCELLED: Final = (CancelledError, asyncio.CancelledError)
"""Exceptions that a coroutine gets when it is cancelled, from Twisted and from asyncio."""

Starter = Callable[[Coroutine[Any, Any, None]], object]
"""Function that runs a coroutine in the background."""


async def settled(deferred: Deferred[T]) -> T:
    """Wait for a Deferred and return its result. Cancelling the caller cancels the Deferred."""
    loop = _loop_of_task()
    return await (deferred if loop is None else deferred.asFuture(loop))


def starter() -> Starter:
    """Return a function that starts coroutines in the way in which the caller runs.

    Timers of the reactor run outside of tasks, so the choice is made once, by the caller.
    """
    loop = _loop_of_task()
    return Deferred.fromCoroutine if loop is None else loop.create_task


async def value_of(value: T | Awaitable[T]) -> T:
    """Return the value itself, or the result of an awaitable."""
    if isinstance(value, Deferred):
        result: T = await settled(value)
        return result
    if isinstance(value, Awaitable):
        return await value
    return value


def installed_reactor() -> Any:
    """Return the reactor of this process.

    In a program of asyncio that has none yet, install Twisted's asyncio reactor on the running
    event loop. Raises RuntimeError if the reactor belongs to another event loop, which would never
    call back.
    """
    loop = asyncio._get_running_loop()
    if loop is not None and "twisted.internet.reactor" not in sys.modules:
        asyncioreactor.install(loop)
        from twisted.internet import reactor as created

        running: Any = created
        running.startRunning(installSignalHandlers=False)
    from twisted.internet import reactor

    own = getattr(reactor, "_asyncioEventloop", None)
    if loop is not None and own is not loop:
        raise RuntimeError(
            "Twisted's reactor does not run on this event loop: a process has one reactor, and "
            "asyncio programs need that of twisted.internet.asyncioreactor"
        )
    return reactor


def _loop_of_task() -> asyncio.AbstractEventLoop | None:
    """Return the event loop if an asyncio task runs, None if Twisted runs the coroutine."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.get_loop()
