"""Stream names in the order in which they are listed, in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Final

from durable_streams_tw.storage.engine.codec import listing_key, listing_range

_LARGEST: Final = 1024
"""How many names a run may have; one that grows beyond is halved."""


class SortedNames:
    """Names in the order of `listing_key`; adding and removing one costs little, however many
    there are.

    They are kept in runs, none of them empty, with the last key of each beside it.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        whole = sorted(names, key=listing_key)
        half = _LARGEST // 2
        self._runs = [whole[at : at + half] for at in range(0, len(whole), half)]
        self._lasts = [listing_key(run[-1]) for run in self._runs]

    def add(self, name: str) -> None:
        """Put in a name that is not there."""
        if not self._runs:
            self._runs, self._lasts = [[name]], [listing_key(name)]
            return
        at = min(bisect_left(self._lasts, listing_key(name)), len(self._runs) - 1)
        run = self._runs[at]
        insort(run, name, key=listing_key)
        if len(run) > _LARGEST:
            half = len(run) // 2
            self._runs[at : at + 1] = [run[:half], run[half:]]
            self._lasts.insert(at, listing_key(run[half - 1]))
            at += 1
        self._lasts[at] = listing_key(self._runs[at][-1])

    def remove(self, name: str) -> None:
        """Take out a name that is there."""
        key = listing_key(name)
        at = bisect_left(self._lasts, key)
        run = self._runs[at]
        del run[bisect_left(run, key, key=listing_key)]
        if run:
            self._lasts[at] = listing_key(run[-1])
        else:
            del self._runs[at], self._lasts[at]

    def following(self, prefix: str, after: str) -> Iterator[str]:
        """The names that begin with a text, and perhaps others, from behind ``after``.

        They must not change meanwhile.
        """
        first, stop = listing_range(prefix)
        passed = listing_key(after)
        key = max(first, passed)
        at = bisect_left(self._lasts, key)
        if at == len(self._runs):
            return
        find = bisect_right if key == passed else bisect_left
        run = self._runs[at]
        names = iter(run[find(run, key, key=listing_key) :])
        while True:
            for name in names:
                if listing_key(name) >= stop:
                    return
                yield name
            at += 1
            if at == len(self._runs):
                return
            names = iter(self._runs[at])
