"""Cache with a bound on its size that evicts its oldest entries in constant time.

A plain ``dict`` does not serve: ``next(iter(d))`` skips every slot deleted before it, so evicting
from the front takes longer with each eviction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Mapping that keeps its newest entries up to a total weight.

    An entry weighs 1, or the result of ``weigh`` for its value. Replacing an entry makes it the
    newest. Not thread-safe.

    ``get(key, default=None)`` is the bound method of the inner dictionary, which saves a call.
    """

    __slots__ = ("_entries", "_weigh", "get", "max_weight", "weight")

    def __init__(self, max_weight: int, weigh: Callable[[V], int] | None = None) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._weigh = weigh
        self.get = self._entries.get
        self.max_weight = max_weight
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Store an entry; evict the oldest entries beyond the bound and return them."""
        self.insert(key, value)
        return self.trim() if self.weight > self.max_weight else []

    def insert(self, key: K, value: V) -> None:
        """Store an entry without evicting any. Call `trim` later to evict."""
        entries, weigh = self._entries, self._weigh
        if key in entries:
            if weigh is not None:
                self.weight += weigh(value) - weigh(entries[key])
            entries.move_to_end(key)
        else:
            self.weight += 1 if weigh is None else weigh(value)
        entries[key] = value

    def trim(self) -> list[tuple[K, V]]:
        """Evict the oldest entries beyond the bound and return them."""
        entries, weigh = self._entries, self._weigh
        evicted = []
        while self.weight > self.max_weight:
            entry = entries.popitem(last=False)
            self.weight -= 1 if weigh is None else weigh(entry[1])
            evicted.append(entry)
        return evicted

    def oldest(self) -> tuple[K, V]:
        """Return the oldest entry. Raises StopIteration if there is none."""
        return next(iter(self._entries.items()))

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value, or None if there is none."""
        try:
            value = self._entries.pop(key)
        except KeyError:
            return None
        self.weight -= 1 if self._weigh is None else self._weigh(value)
        return value

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.weight = 0
