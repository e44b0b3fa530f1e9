"""An ordered map of bytes on a disk: all that the durable store asks of LMDB.

Kept this small so that another engine, or one that fails on purpose, can stand in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Buffer = bytes | memoryview


class EngineFull(Exception):
    """There is no room; nothing of the batch was written."""


class EngineFailed(Exception):
    """The disk or the map failed: a batch under way may be written or not."""


class View(Protocol):
    """Reading. Values may be windows into the map: copy what has to outlive the view."""

    def get(self, key: bytes) -> Buffer | None:
        """The value of a key, None where it has none."""

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs with ``first <= key < stop``, in order."""

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Like `scan`, beginning at the greatest key that is not behind ``first``.

        Where no such key lies in ``[lowest, first]`` it begins at ``first``.
        """


class Snapshot(View, Protocol):
    """The map as one commit left it. Close it soon: it keeps that commit's pages."""

    @property
    def version(self) -> int:
        """The number of that commit; later commits have greater ones.

        So has whatever is seen after a failed commit.
        """


class WriteBatch(View, Protocol):
    """Changes that become durable together, read back within the batch."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value. Raises `EngineFull` or `EngineFailed`."""

    def delete(self, key: bytes) -> None:
        """Remove a key, if it is there. Raises `EngineFull` or `EngineFailed`."""

    def commit(self) -> int:
        """Make the batch durable; the number of this commit.

        Raises `EngineFull` where nothing was written, `EngineFailed` where that is not
        known.
        """

    def abort(self) -> None:
        """Drop the batch."""


class SnapshotSource(Protocol):
    """The map, for those who only look."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """The map as it is now. Raises `EngineFailed`."""


class KeyValueEngine(SnapshotSource, Protocol):
    """The map. SnapshotSource may be taken in any thread; there is one batch at a time."""

    @property
    def min_version(self) -> int:
        """Below every version that is seen from now on. A failed commit raises it: what was
        seen before may not be what the disk has."""

    def begin(self) -> WriteBatch:
        """Begin a batch. Raises `EngineFailed`."""

    def has_space(self, reserve: int) -> bool:
        """Whether so many bytes can still be written (on the disk and in freed pages).

        Raises `EngineFailed`.
        """

    def used_bytes(self) -> int:
        """How many bytes the stored pairs take. Raises `EngineFailed`."""

    def close(self) -> None:
        """Release the map. No snapshot or batch may be open."""
