"""A name service that behaves as the real one.

A lookup that has begun cannot be cancelled: it keeps its thread until the name server answers, and
what was found comes back through ``callFromThread``, in a later turn of the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock


class LookupReactor(MemoryReactorClock):
    """A reactor in memory that is called from threads."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Call a function in the next turn."""
        self.callLater(0, callable, *args, **kwargs)


class NameService:
    """Answers lookups at once, unless the name is one of ``hanging``: these when `answer` says."""

    def __init__(self) -> None:
        #: What is found; names that are not here have no address.
        self.known: dict[str, list[str]] = {}
        self.hanging: set[str] = set()
        #: Names in the order in which a thread began to look them up.
        self.asked: list[str] = []
        self._stuck: dict[str, Callable[[list[str]], None]] = {}

    def __call__(self, name: str, told: Callable[[list[str]], None]) -> None:
        """Look up a name."""
        self.asked.append(name)
        if name in self.hanging:
            assert name not in self._stuck, "a name that is looked up already"
            self._stuck[name] = told
        else:
            told(self.known.get(name, []))

    @property
    def stuck(self) -> list[str]:
        """The names whose threads wait for an answer."""
        return list(self._stuck)

    def answer(self, name: str) -> None:
        """The name server of a hanging name answers."""
        self._stuck.pop(name)(self.known.get(name, []))
