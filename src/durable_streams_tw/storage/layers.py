"""What is journaled and not in the map yet, laid over the map.

A layer is written by the committer alone, and read in any thread: an older value stays as long
as the layer does, so that whoever reads sees one batch whole and nothing of the next ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final, Protocol

from durable_streams_tw.storage.journal_entries import Entry, Pairs
from durable_streams_tw.storage.keyspace import Buffer, View

_GROUP: Final = 9
"""Keys are grouped by their prefix and, where they have one, the number that owns them."""


class Untouched:
    """Stands for a key of which a layer says nothing."""


UNTOUCHED: Final = Untouched()


class Overlay(Protocol):
    """Keys that were set or removed since."""

    def get(self, key: bytes) -> bytes | Untouched | None:
        """The value of a key, None where it was removed."""

    def keys(self, first: bytes, stop: bytes) -> list[bytes]:
        """The keys with ``first <= key < stop``, in any order; removed ones too."""


_Version = tuple[int, bytes | None, "_Version | None"]
"""The number of the batch that set a value, the value, and what the layer had before."""


class Layer:
    """Batches that were journaled one after the other."""

    def __init__(self) -> None:
        self._newest: dict[bytes, _Version] = {}
        self._groups = _Groups()
        # Bytes of the newest keys and values: what the map may grow by.
        self.size = 0

    def __len__(self) -> int:
        return len(self._newest)

    def take(self, number: int, pairs: Pairs) -> None:
        """Take in the batch of a number, which is greater than all before."""
        newest, taken = self._newest, self._groups.taken
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
    """Keys by their groups, put there when somebody first looks: most are never looked for.

    ``taken`` are all keys in the order in which they came, each once.
    """

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self._groups: dict[bytes, list[bytes]] = {}
        self._grouped = 0
        self._lock = Lock()

    def up_to_date(self) -> dict[bytes, list[bytes]]:
        """The keys of each group. Others may be adding to it."""
        with self._lock:
            groups = self._groups
            new = self.taken[self._grouped :]
            for key in new:
                groups.setdefault(key[:_GROUP], []).append(key)
            self._grouped += len(new)
        return groups


def layer_of(entries: Sequence[Entry]) -> Layer:
    """A layer of batches that stand in the journal, in their order."""
    layer = Layer()
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

    def keys(self, first: bytes, stop: bytes) -> list[bytes]:
        # Copied at one stroke, for other threads may be adding to them.
        groups = self._groups.up_to_date()
        group = first[:_GROUP]
        if stop <= _behind(group):
            chosen = [group]
        else:
            chosen = [name for name in list(groups) if group <= name < stop]
        found: list[bytes] = []
        for name in chosen:
            found += [key for key in list(groups.get(name, ())) if first <= key < stop]
        return [key for key in found if self.get(key) is not UNTOUCHED]


def _behind(group: bytes) -> bytes:
    """The least bytes behind all keys of a group that is whole; of a shorter one, itself."""
    if len(group) < _GROUP or group[1:] == b"\xff" * (_GROUP - 1):
        return group
    return group[:1] + (int.from_bytes(group[1:], "big") + 1).to_bytes(_GROUP - 1, "big")


class BatchPairs:
    """What a batch has set and removed so far."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | Untouched | None:
        """The value of a key, None where it was removed."""
        return self.pairs.get(key, UNTOUCHED)

    def keys(self, first: bytes, stop: bytes) -> list[bytes]:
        """The keys with ``first <= key < stop``."""
        return [key for key in self.pairs if first <= key < stop]


class LayeredView:
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
        over = self._over(first, stop)
        return _merged(pairs, over) if over else pairs

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from the greatest key that is not behind ``first``."""
        over = self._over(lowest, stop)
        if not over:
            return self._base().scan_from_floor(first, lowest, stop)
        return self.scan(self._floor(first, lowest, over), stop)

    def _floor(self, first: bytes, lowest: bytes, over: dict[bytes, bytes | None]) -> bytes:
        """The greatest key in ``[lowest, first]``, or ``first`` where there is none."""
        known = max((key for key in over if key <= first and over[key] is not None), default=b"")
        for raw, _ in self._base().scan_from_floor(first, lowest, first + b"\x00"):
            below = bytes(raw)
            if below in over and over[below] is None and below > known:
                # It is gone: one before it may be the greatest. Rare, so it may cost a walk.
                for raw, _ in self.scan(lowest, first + b"\x00"):
                    known = bytes(raw)
            else:
                known = max(known, below)
            break
        return known or first

    def _over(self, first: bytes, stop: bytes) -> dict[bytes, bytes | None]:
        over: dict[bytes, bytes | None] = {}
        for layer in reversed(self._layers):
            for key in layer.keys(first, stop):
                value = layer.get(key)
                if not isinstance(value, Untouched):
                    over[key] = value
        return over


class LayeredSnapshot(LayeredView):
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
    pairs: Iterator[tuple[Buffer, Buffer]], over: dict[bytes, bytes | None]
) -> Iterator[tuple[Buffer, Buffer]]:
    """Pairs in order, with others laid over them."""
    waiting = sorted(over, reverse=True)
    for raw, value in pairs:
        key = bytes(raw)
        while waiting and waiting[-1] < key:
            yield from _live(waiting.pop(), over)
        if waiting and waiting[-1] == key:
            yield from _live(waiting.pop(), over)
        else:
            yield key, value
    while waiting:
        yield from _live(waiting.pop(), over)


def _live(key: bytes, over: dict[bytes, bytes | None]) -> Iterator[tuple[Buffer, Buffer]]:
    value = over[key]
    if value is not None:
        yield key, value
