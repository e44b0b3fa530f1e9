"""Fake name service.

As with the real one, a lookup cannot be cancelled: it occupies its thread until the name server
answers, and its result arrives through ``callFromThread``, in a later turn of the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock


class ThreadedMemoryReactor(MemoryReactorClock):
    """In-memory reactor whose `callFromThread` queues calls."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Call a function in the next turn."""
        self.callLater(0, callable, *args, **kwargs)


class FakeNameService:
    """Lookup function that answers at once, or on `answer` for names in ``hanging``."""

    def __init__(self) -> None:
        #: Results by name; other names have no address.
        self.known: dict[str, list[str]] = {}
        self.hanging: set[str] = set()
        #: Names in the order of their lookups.
        self.asked: list[str] = []
        self._stuck: dict[str, Callable[[list[str]], None]] = {}

    def __call__(self, name: str, on_result: Callable[[list[str]], None]) -> None:
        """Look up a name."""
        self.asked.append(name)
        if name in self.hanging:
            assert name not in self._stuck, "the name is being looked up already"
            self._stuck[name] = on_result
        else:
            on_result(self.known.get(name, []))

    @property
    def blocked(self) -> list[str]:
        """Return the names whose lookups occupy a thread."""
        return list(self._stuck)

    def answer(self, name: str) -> None:
        """Complete the lookups of a hanging name."""
        self._stuck.pop(name)(self.known.get(name, []))
