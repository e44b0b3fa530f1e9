"""What is journaled and not in the map yet, laid over the map.

A layer is written by the committer alone, and read in any thread: an older value stays as long
as the layer does, so that whoever reads sees one batch whole and nothing of the next ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import islice
from threading import Lock
from typing import Final, Protocol

from durable_streams_tw.storage.engine.codec import OWNED_PREFIXES
from durable_streams_tw.storage.engine.kv import Buffer, View
from durable_streams_tw.storage.engine.wal.format import Entry, Pairs

_GROUP: Final = 9
"""Length of a group's name: the prefix and the number that owns the key."""


class Untouched:
    """Stands for a key of which a layer says nothing."""


UNTOUCHED: Final = Untouched()


class Overlay(Protocol):
    """Keys that were set or removed since."""

    def get(self, key: bytes) -> bytes | Untouched | None:
        """The value of a key, None where it was removed."""

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return the keys with ``first <= key < stop`` in order, removed and untouched ones too."""


_Version = tuple[int, bytes | None, "_Version | None"]
"""The number of the batch that set a value, the value, and what the layer had before."""


class Memtable:
    """Batches that were journaled one after the other."""

    def __init__(self) -> None:
        self._newest: dict[bytes, _Version] = {}
        # All keys, in the order in which they came.
        taken: list[bytes] = []
        self._taken = taken
        # A bound method here would be a cycle, which keeps the batches' bytes until a collection.
        self._groups = _Groups(lambda index: taken[index:])
        # Bytes of the newest keys and values: what the map may grow by.
        self.size = 0

    def __len__(self) -> int:
        return len(self._newest)

    def take(self, number: int, pairs: Pairs) -> None:
        """Take in the batch of a number, which is greater than all before."""
        newest, taken = self._newest, self._taken
        size = 0
        for key, value in pairs.items():
            before = newest.get(key)
            if before is None:
                taken.append(key)
                size += len(key)
            elif before[1] is not None:
                size -= len(before[1])
            if value is not None:
                size += len(value)
            newest[key] = (number, value, before)
        self.size += size

    def pairs(self) -> dict[bytes, bytes | None]:
        """Each key's newest value."""
        return {key: version[1] for key, version in self._newest.items()}

    def at(self, number: int) -> Overlay:
        """The layer as the batch of a number left it."""
        return _LayerAt(self._newest, self._groups, number)


class _Groups:
    """Sorted keys by group. Keys are sorted when a range is asked for: most never are.

    ``new`` returns the keys from an index on, in the order in which they came. Any thread may
    ask. A list that was returned from here is never changed.
    """

    def __init__(self, new: Callable[[int], Sequence[bytes]]) -> None:
        self._new = new
        self._count = 0
        self._sorted: dict[bytes, list[bytes]] = {}
        # Keys that came since their group was sorted.
        self._unsorted: dict[bytes, list[bytes]] = {}
        self._lock = Lock()

    def between(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return the keys with ``first <= key < stop`` in order."""
        name = _group(first)
        with self._lock:
            self._add(self._new(self._count))
            if stop <= _behind(name):
                return self._within(name, first, stop)
            found: list[bytes] = []
            for name in {*self._sorted, *self._unsorted}:
                if name < stop and (name >= first or first.startswith(name)):
                    found += self._within(name, first, stop)
        found.sort()
        return found

    def _add(self, new: Sequence[bytes]) -> None:
        unsorted = self._unsorted
        for key in new:
            unsorted.setdefault(_group(key), []).append(key)
        self._count += len(new)

    def _within(self, name: bytes, first: bytes, stop: bytes) -> Sequence[bytes]:
        more = self._unsorted.pop(name, None)
        keys = self._sorted.get(name, [])
        if more is not None:
            keys = self._sorted[name] = sorted(keys + more)
        return keys[bisect_left(keys, first) : bisect_left(keys, stop)]


def _group(key: bytes) -> bytes:
    """The name of a key's group: its prefix, and the number that owns it where there is one."""
    return key[:_GROUP] if key[:1] in OWNED_PREFIXES else key[:1]


def memtable_of(entries: Sequence[Entry]) -> Memtable:
    """A layer of batches that stand in the journal, in their order."""
    layer = Memtable()
    for entry in entries:
        layer.take(entry.number, entry.pairs)
    return layer


class _LayerAt:
    def __init__(self, newest: dict[bytes, _Version], groups: _Groups, number: int) -> None:
        self._newest = newest
        self._groups = groups
        self._number = number

    def get(self, key: bytes) -> bytes | Untouched | None:
        version = self._newest.get(key)
        while version is not None and version[0] > self._number:
            version = version[2]
        return UNTOUCHED if version is None else version[1]

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        return self._groups.between(first, stop)


def _behind(name: bytes) -> bytes:
    """The least bytes behind all keys of a group that is whole; of a shorter name, itself."""
    length = _GROUP if name[:1] in OWNED_PREFIXES else 1
    if len(name) < length or name[-1:] == b"\xff":
        return name
    return name[:-1] + bytes((name[-1] + 1,))


class BatchPairs:
    """What a batch has set and removed so far."""

    def __init__(self) -> None:
        pairs: dict[bytes, bytes | None] = {}
        self.pairs = pairs
        # Keys are only ever added, and a dictionary keeps their order. A bound method here would be
        # a cycle, which keeps the batch's bytes until a collection.
        self._groups = _Groups(
            lambda index: list(islice(pairs, index, None)) if index < len(pairs) else ()
        )

    def get(self, key: bytes) -> bytes | Untouched | None:
        """The value of a key, None where it was removed."""
        return self.pairs.get(key, UNTOUCHED)

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return the keys with ``first <= key < stop`` in order."""
        return self._groups.between(first, stop)


class MergedView:
    """View of the map with layers over it, the newest layer first.

    Subclasses override `_base`. It is a method and not a stored callable: a batch that held its
    own bound method would be a reference cycle, and its bytes would wait for the collector.
    """

    def __init__(self, layers: Sequence[Overlay]) -> None:
        self._layers = layers

    def _base(self) -> View:
        """Return the map's view. Called only where the layers do not have the answer."""
        raise NotImplementedError

    def get(self, key: bytes) -> Buffer | None:
        """The value of a key."""
        for layer in self._layers:
            value = layer.get(key)
            if not isinstance(value, Untouched):
                return value
        return self._base().get(key)

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from ``first`` up to ``stop``."""
        pairs = self._base().scan(first, stop)
        spans = [keys for layer in self._layers if (keys := layer.keys(first, stop))]
        return _merged(pairs, self._over(spans)) if spans else pairs

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from the greatest key that is not behind ``first``."""
        spans = [layer.keys(lowest, stop) for layer in self._layers]
        if not any(spans):
            return self._base().scan_from_floor(first, lowest, stop)
        return self.scan(self._floor(first, lowest, spans), stop)

    def _floor(self, first: bytes, lowest: bytes, spans: list[Sequence[bytes]]) -> bytes:
        """The greatest key in ``[lowest, first]``, or ``first`` where there is none."""
        known = b""
        for keys in spans:
            for index in range(bisect_right(keys, first) - 1, -1, -1):
                key = keys[index]
                if key <= known:
                    break
                if isinstance(self._look(key), bytes):
                    known = key
        for raw, _ in self._base().scan_from_floor(first, lowest, first + b"\x00"):
            below = bytes(raw)
            if below > known and self._look(below) is None:
                # It is gone: one before it may be the greatest. Rare, so it may cost a walk.
                for raw, _ in self.scan(lowest, first + b"\x00"):
                    known = bytes(raw)
            else:
                known = max(known, below)
            break
        return known or first

    def _look(self, key: bytes) -> bytes | Untouched | None:
        """The value of a key in the newest layer that says something of it."""
        for layer in self._layers:
            value = layer.get(key)
            if not isinstance(value, Untouched):
                return value
        return UNTOUCHED

    def _over(self, spans: list[Sequence[bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys of the layers in order, each once, and their values."""
        last = b""
        for key in spans[0] if len(spans) == 1 else merge(*spans):
            if key == last:
                continue
            last = key
            value = self._look(key)
            if not isinstance(value, Untouched):
                yield key, value


class MergedSnapshot(MergedView):
    """The map and what lies over it, as the batch of the number ``version`` left them."""

    def __init__(self, layers: Sequence[Overlay], view: View, version: int) -> None:
        super().__init__(layers)
        self._view = view
        self._version = version

    def _base(self) -> View:
        return self._view

    @property
    def version(self) -> int:
        """The number of that batch."""
        return self._version


def _merged(
    pairs: Iterator[tuple[Buffer, Buffer]], over: Iterator[tuple[bytes, bytes | None]]
) -> Iterator[tuple[Buffer, Buffer]]:
    """Pairs in order, with others laid over them, None for what was removed."""
    above = next(over, None)
    for raw, value in pairs:
        key = bytes(raw)
        while above is not None and above[0] < key:
            if above[1] is not None:
                yield above[0], above[1]
            above = next(over, None)
        if above is None or above[0] > key:
            yield key, value
    while above is not None:
        if above[1] is not None:
            yield above[0], above[1]
        above = next(over, None)
