"""Tables of small records in memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, TypeVar

from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine.tables import OWNED, owned_range

T = TypeVar("T")


class MemoryTables:
    """Values by table and key, keys in order."""

    def __init__(self) -> None:
        self._values: dict[bytes, dict[bytes, Any]] = {}
        self._keys: dict[bytes, list[bytes]] = {}

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """The value of a key."""
        value: T | None = self._values.get(table.prefix, {}).get(key)
        return value

    def put(self, table: RecordTable[T], key: bytes, value: T) -> None:
        """Set the value of a key."""
        values = self._values.setdefault(table.prefix, {})
        if key not in values:
            insort(self._keys.setdefault(table.prefix, []), key)
        values[key] = value

    def delete(self, table: RecordTable[T], key: bytes) -> None:
        """Remove a key, if it is there."""
        if self._values.get(table.prefix, {}).pop(key, None) is not None:
            keys = self._keys[table.prefix]
            del keys[bisect_left(keys, key)]

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Pairs with ``first <= key < stop`` in order; what is removed meanwhile is left out."""
        keys = self._keys.get(table.prefix, [])
        values = self._values.get(table.prefix, {})
        while True:
            at = bisect_left(keys, first)
            if at == len(keys) or (stop is not None and keys[at] >= stop):
                return
            key = keys[at]
            yield key, values[key]
            first = key + b"\x00"

    def remove_owned(self, number: int) -> None:
        """Remove all that a number owns."""
        for table in OWNED:
            first, stop = owned_range(number)
            keys = self._keys.get(table.prefix, [])
            begin, end = bisect_left(keys, first), bisect_left(keys, stop)
            values = self._values.get(table.prefix, {})
            for key in keys[begin:end]:
                del values[key]
            del keys[begin:end]
