"""Interface of an ordered key-value engine, as far as the durable store needs it.

Small on purpose: tests replace the engine by one that fails on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Buffer = bytes | memoryview


class EngineFull(Exception):
    """Refusal of a write for lack of disk space; nothing of the batch was written."""


class EngineFailed(Exception):
    """Failure of the disk or the engine; the outcome of a batch in progress is unknown."""


class View(Protocol):
    """Read access. Values may point into mapped memory: copy them to use them after the view."""

    def get(self, key: bytes) -> Buffer | None:
        """Return the value of a key, or None."""

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs with ``first <= key < stop``, in order."""

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs up to ``stop``, starting at the greatest key in ``[lowest, first]``.

        Start at ``first`` if there is no such key.
        """


class Snapshot(View, Protocol):
    """Read access to one commit. Close it soon: LMDB cannot reuse that commit's pages before."""

    @property
    def version(self) -> int:
        """Return the number of the commit.

        Later commits have greater numbers, also after a failed commit.
        """


class WriteBatch(View, Protocol):
    """Changes that become durable together. Reads of the batch see them."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key. Raises `EngineFull` or `EngineFailed`."""

    def delete(self, key: bytes) -> None:
        """Remove a key, if it exists. Raises `EngineFull` or `EngineFailed`."""

    def commit(self) -> int:
        """Make the batch durable and return the number of the commit.

        Raises `EngineFull` if nothing was written, and `EngineFailed` if the outcome is unknown.
        """

    def abort(self) -> None:
        """Discard the batch."""


class SnapshotSource(Protocol):
    """Source of snapshots, for code that only reads."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Return a snapshot of the last commit. Raises `EngineFailed`."""


class KeyValueEngine(SnapshotSource, Protocol):
    """Key-value engine with snapshots on any thread and one write batch at a time."""

    @property
    def min_version(self) -> int:
        """Return a number below the versions of all later snapshots.

        A failed commit raises it: what snapshots showed before may not be on the disk.
        """

    def begin(self) -> WriteBatch:
        """Begin a batch. Raises `EngineFailed`."""

    def has_space(self, reserve: int) -> bool:
        """Return whether ``reserve`` bytes can still be written, free pages included.

        Raises `EngineFailed`.
        """

    def used_bytes(self) -> int:
        """Return the size of all stored pairs in bytes. Raises `EngineFailed`."""

    def close(self) -> None:
        """Close the engine. No snapshot or batch may be open."""
