"""Memtable: batches that are in the write-ahead log and not yet in LMDB, read over LMDB.

The committer's thread adds batches; any thread reads. Values are versioned by batch number and kept
as long as the memtable, so that a snapshot sees whole batches only and none that came later.
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

# Bytes of an owned key's group name: the prefix, and the number of the owner.
_GROUP: Final = 9


class NotFound:
    """Type of `NOT_FOUND`."""


NOT_FOUND: Final = NotFound()
"""Result of a lookup of a key that an overlay neither sets nor deletes."""


class Overlay(Protocol):
    """Changes that take precedence over an older view."""

    def get(self, key: bytes) -> bytes | NotFound | None:
        """Return the value of a key, None if it was deleted, or `NOT_FOUND`."""

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return all keys with ``first <= key < stop``, in order.

        Deleted keys are among them, and keys that were set in later batches.
        """


_Version = tuple[int, bytes | None, "_Version | None"]
"""Number of the batch that set a value, the value, and the version before."""


class Memtable:
    """Consecutive batches in memory."""

    def __init__(self) -> None:
        self._newest: dict[bytes, _Version] = {}
        # All keys, in order of insertion.
        inserted: list[bytes] = []
        self._inserted = inserted
        # A bound method would be a reference cycle: the batches would stay in memory until a
        # garbage collection.
        self._groups = _KeyGroups(lambda index: inserted[index:])
        # Bytes of the newest keys and values: the growth of LMDB at the next checkpoint.
        self.size = 0

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, number: int, pairs: Pairs) -> None:
        """Add a batch, whose number is greater than all before."""
        newest, inserted = self._newest, self._inserted
        size = 0
        for key, value in pairs.items():
            before = newest.get(key)
            if before is None:
                inserted.append(key)
                size += len(key)
            elif before[1] is not None:
                size -= len(before[1])
            if value is not None:
                size += len(value)
            newest[key] = (number, value, before)
        self.size += size

    def pairs(self) -> dict[bytes, bytes | None]:
        """Return the newest value of each key, None for deleted keys."""
        return {key: version[1] for key, version in self._newest.items()}

    def as_of(self, number: int) -> Overlay:
        """Return the memtable as of a batch number."""
        return _MemtableAsOf(self._newest, self._groups, number)


class _KeyGroups:
    """Keys by group, sorted when a scan first needs a group; most groups are never scanned.

    ``new`` returns the keys from an index on, in order of insertion. Safe to call on any thread:
    lists that were returned are never changed.
    """

    def __init__(self, new: Callable[[int], Sequence[bytes]]) -> None:
        self._new = new
        self._count = 0
        self._sorted: dict[bytes, list[bytes]] = {}
        # Keys inserted since their group was sorted.
        self._unsorted: dict[bytes, list[bytes]] = {}
        self._lock = Lock()

    def between(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return the keys with ``first <= key < stop``, in order."""
        name = _group(first)
        with self._lock:
            self._add(self._new(self._count))
            if stop <= _group_end(name):
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
    """Return the group of a key: its prefix, and the number of its owner if it has one."""
    return key[:_GROUP] if key[:1] in OWNED_PREFIXES else key[:1]


def memtable_of(entries: Sequence[Entry]) -> Memtable:
    """Return a memtable of WAL entries in their order."""
    memtable = Memtable()
    for entry in entries:
        memtable.add(entry.number, entry.pairs)
    return memtable


class _MemtableAsOf:
    def __init__(self, newest: dict[bytes, _Version], groups: _KeyGroups, number: int) -> None:
        self._newest = newest
        self._groups = groups
        self._number = number

    def get(self, key: bytes) -> bytes | NotFound | None:
        version = self._newest.get(key)
        while version is not None and version[0] > self._number:
            version = version[2]
        return NOT_FOUND if version is None else version[1]

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        return self._groups.between(first, stop)


def _group_end(name: bytes) -> bytes:
    """Return the least bytes above all keys of a full group name; a shorter name unchanged."""
    length = _GROUP if name[:1] in OWNED_PREFIXES else 1
    if len(name) < length or name[-1:] == b"\xff":
        return name
    return name[:-1] + bytes((name[-1] + 1,))


class BatchPairs:
    """Overlay of the keys that an open batch has set and deleted so far."""

    def __init__(self) -> None:
        pairs: dict[bytes, bytes | None] = {}
        self.pairs = pairs
        # Keys are only added, and a dict keeps their order. A bound method would be a reference
        # cycle: the batch's bytes would stay in memory until a garbage collection.
        self._groups = _KeyGroups(
            lambda index: list(islice(pairs, index, None)) if index < len(pairs) else ()
        )

    def get(self, key: bytes) -> bytes | NotFound | None:
        """Return the value of a key, None if it was deleted, or `NOT_FOUND`."""
        return self.pairs.get(key, NOT_FOUND)

    def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
        """Return the keys with ``first <= key < stop``, in order."""
        return self._groups.between(first, stop)


class MergedView:
    """Merge of overlays, newest first, with a base view.

    Subclasses override `_base`. A stored callable in its place would make each batch a reference
    cycle, and its bytes would stay in memory until a garbage collection.
    """

    def __init__(self, overlays: Sequence[Overlay]) -> None:
        self._overlays = overlays

    def _base(self) -> View:
        """Return the base view. Called only for lookups that the overlays cannot answer."""
        raise NotImplementedError

    def get(self, key: bytes) -> Buffer | None:
        """Return the value of a key, or None."""
        for overlay in self._overlays:
            value = overlay.get(key)
            if not isinstance(value, NotFound):
                return value
        return self._base().get(key)

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Return an iterator over the pairs with ``first <= key < stop``, in order."""
        pairs = self._base().scan(first, stop)
        spans = [keys for overlay in self._overlays if (keys := overlay.keys(first, stop))]
        return _merged(pairs, self._overlaid(spans)) if spans else pairs

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Return an iterator over the pairs from the greatest key in ``[lowest, first]`` on."""
        # ``first`` may be ``stop``, and is the floor then too if an overlay has it.
        end = max(stop, first + b"\x00")
        spans = [overlay.keys(lowest, end) for overlay in self._overlays]
        if not any(spans):
            return self._base().scan_from_floor(first, lowest, stop)
        return self.scan(self._floor(first, lowest, spans), stop)

    def _floor(self, first: bytes, lowest: bytes, spans: list[Sequence[bytes]]) -> bytes:
        """Return the greatest key in ``[lowest, first]``, or ``first`` if there is none."""
        known = b""
        for keys in spans:
            for index in range(bisect_right(keys, first) - 1, -1, -1):
                key = keys[index]
                if key <= known:
                    break
                if isinstance(self._lookup(key), bytes):
                    known = key
        for raw, _ in self._base().scan_from_floor(first, lowest, first + b"\x00"):
            below = bytes(raw)
            if below > known and self._lookup(below) is None:
                # An overlay deletes the base's floor, so an earlier key may be the greatest: scan
                # for it. Rare.
                for raw, _ in self.scan(lowest, first + b"\x00"):
                    known = bytes(raw)
            else:
                known = max(known, below)
            break
        return known or first

    def _lookup(self, key: bytes) -> bytes | NotFound | None:
        """Return the value of a key in the newest overlay that has it."""
        for overlay in self._overlays:
            value = overlay.get(key)
            if not isinstance(value, NotFound):
                return value
        return NOT_FOUND

    def _overlaid(self, spans: list[Sequence[bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the keys of all overlays once, in order, with their values."""
        last = b""
        for key in spans[0] if len(spans) == 1 else merge(*spans):
            if key == last:
                continue
            last = key
            value = self._lookup(key)
            if not isinstance(value, NotFound):
                yield key, value


class MergedSnapshot(MergedView):
    """Snapshot of LMDB and memtables as of the batch ``version``."""

    def __init__(self, overlays: Sequence[Overlay], view: View, version: int) -> None:
        super().__init__(overlays)
        self._view = view
        self.version = version

    def _base(self) -> View:
        return self._view


def _merged(
    pairs: Iterator[tuple[Buffer, Buffer]], overlaid: Iterator[tuple[bytes, bytes | None]]
) -> Iterator[tuple[Buffer, Buffer]]:
    """Yield the pairs of a base view with an overlay's changes, in order."""
    above = next(overlaid, None)
    for raw, value in pairs:
        key = bytes(raw)
        while above is not None and above[0] < key:
            if above[1] is not None:
                yield above[0], above[1]
            above = next(overlaid, None)
        if above is None or above[0] > key:
            yield key, value
    while above is not None:
        if above[1] is not None:
            yield above[0], above[1]
        above = next(overlaid, None)
