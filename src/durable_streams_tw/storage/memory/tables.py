"""Tables of small records in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine.tables import OWNED, owned_range

T = TypeVar("T")


class MemoryTables:
    """Values by table and key, with keys in order."""

    def __init__(self) -> None:
        self._tables: dict[bytes, SortedDict] = {}

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """Return the value of a key."""
        records = self._tables.get(table.prefix)
        value: T | None = None if records is None else records.get(key)
        return value

    def put(self, table: RecordTable[T], key: bytes, value: T) -> None:
        """Set the value of a key."""
        records = self._tables.get(table.prefix)
        if records is None:
            records = self._tables[table.prefix] = SortedDict()
        records[key] = value

    def delete(self, table: RecordTable[Any], key: bytes) -> None:
        """Remove a key if it exists."""
        records = self._tables.get(table.prefix)
        if records is not None:
            records.pop(key, None)

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield pairs with ``first <= key < stop`` in order; ``stop=None`` has no bound.

        The table must not change during the iteration.
        """
        records = self._tables.get(table.prefix)
        if records is not None:
            for key in records.irange(first, stop, inclusive=(True, False)):
                yield key, records[key]

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns."""
        for table in OWNED:
            for key, _ in list(self.range(table, *owned_range(number))):
                del self._tables[table.prefix][key]
