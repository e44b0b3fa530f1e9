"""Calls at the end of an event's handler, which save a turn of the reactor.

One event may complete many requests: their commands make one batch, and their responses go out
together. ``callLater(0, ...)`` would start that work in the reactor's next turn, which costs a
timer and another call of epoll for each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger


class ReactorTurn:
    """Handlers of a reactor's events, and the calls at their end. For the reactor's thread."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: list[Callable[[], object]] = []
        self._running = False

    def run(self, handler: Callable[..., object], *arguments: Any) -> None:
        """Call the handler of an event, then the functions that were passed to `at_end`."""
        if self._running:
            handler(*arguments)
            return
        self._running = True
        try:
            handler(*arguments)
        finally:
            self._running = False
            if self._calls:
                self._call_all()

    def at_end(self, call: Callable[[], object]) -> None:
        """Call a function when the current handler has ended, or in the reactor's next turn.

        An error of the function is logged. A call that such a function adds is for the next turn.
        """
        if not self._calls and not self._running:
            self._clock.callLater(0, self._call_all)
        self._calls.append(call)

    def _call_all(self) -> None:
        # Also called by a timer after `run` has done it: then there is nothing left.
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except Exception:  # noqa: BLE001 - it must not prevent the other calls
                self._log.failure("A call at the end of a reactor turn failed")


# A turn refers to its reactor, so a dictionary with weak keys would keep both.
_turns: WeakValueDictionary[Any, ReactorTurn] = WeakValueDictionary()


def turn_of(reactor: Any) -> ReactorTurn:
    """Return the turns of a reactor, which all callers share."""
    turn = _turns.get(reactor)
    if turn is None:
        turn = _turns[reactor] = ReactorTurn(reactor)
    return turn
