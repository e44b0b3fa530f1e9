"""Copies of store files: written to a new name, flushed, measured and digested."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import lmdb
from msgspec import Struct

from durable_streams_tw.storage.admin.inspect import CHANGING, Inspection, LeakedPages
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import first_id
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.engine.lmdb import LMDBSnapshot, open_environment
from durable_streams_tw.storage.engine.wal import checkpoint
from durable_streams_tw.storage.engine.wal.format import Entry
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable, store_unusable
from durable_streams_tw.storage.files import open_file

Progress = Callable[[str, int, int], None]
"""Callback with an activity, the work done so far, and the expected total."""

_PIECE: Final = 1 << 20


class CopiedFile(Struct, frozen=True):
    """Name, size in bytes and SHA-256 (hex) of a copied file."""

    name: str
    size: int
    sha256: str


class FileWriter:
    """Context manager that writes a new file, readable by its owner only.

    The file is flushed on success and removed on an exception. Raises `StoreUnusable` if it
    cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> FileWriter:
        with store_unusable(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = open(os.open(self._path, flags, 0o600), "wb", buffering=0)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is not None:
                os.unlink(self._path)
                return
            with store_unusable(self._path):
                os.fsync(self._file.fileno())

    def write(self, data: bytes) -> None:
        """Append bytes to the file. Raises `StoreUnusable`."""
        with store_unusable(self._path):
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        self._digest.update(data)
        self.size += len(data)

    def copied_file(self) -> CopiedFile:
        """Return the name, size and digest of the bytes written so far."""
        return CopiedFile(os.path.basename(self._path), self.size, self._digest.hexdigest())


def copy_store(source: Inspection, path: str, progress: Progress) -> CopiedFile:
    """Copy the last commit of a store, without free pages, into a new data file.

    Raises `StoreUnusable`.
    """
    with store_unusable(f"{path} cannot be created", EngineFailed):
        # Read the WAL before LMDB: entries that leave it in between are in LMDB by then.
        entries = source.wal_entries()
        copied = _copy_data_file(source, path, progress)
        changed = _apply_wal(path, partial(source.unapplied, entries=entries))
        return _digest_file(path) if changed else copied


def _copy_data_file(source: Inspection, path: str, progress: Progress) -> CopiedFile:
    # A compacting copy has the used pages and the two meta pages.
    size = source.usage().used

    def write(writer: FileWriter, piece: bytes) -> None:
        writer.write(piece)
        progress("copying", writer.size, max(size, writer.size))

    try:
        with FileWriter(path) as writer:
            source.copy(partial(write, writer), compact=True)
    except LeakedPages:
        with FileWriter(path) as writer:
            source.copy(partial(write, writer), compact=False)
    return writer.copied_file()


def _digest_file(path: str) -> CopiedFile:
    with store_unusable(path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return CopiedFile(os.path.basename(path), os.fstat(file.fileno()).st_size, digest)


def copy_file(source: str, path: str, progress: Progress) -> CopiedFile:
    """Copy a file into a new one. Raises `StoreUnusable`."""
    with store_unusable(source):
        descriptor = open_file(source, os.O_RDONLY)
    with open(descriptor, "rb", buffering=0) as original, FileWriter(path) as writer:
        size = os.fstat(original.fileno()).st_size
        while True:
            with store_unusable(source):
                piece = original.read(_PIECE)
            if not piece:
                break
            writer.write(piece)
            progress("copying", writer.size, max(size, writer.size))
    return writer.copied_file()


def require_free_space(directory: str, size: int) -> None:
    """Raise `StoreUnusable` if a file system has fewer than ``size`` free bytes."""
    with store_unusable(directory):
        free = shutil.disk_usage(directory).free
    if free < size:
        raise StoreUnusable(
            f"the file system of {directory} has {free:,} bytes free; {size:,} are needed"
        )


# -- changes to a copy that no other process uses ---------------------------------------------


def _apply_wal(
    path: str, unapplied: Callable[[checkpoint.CheckpointRecord], Sequence[Entry] | None]
) -> bool:
    """Apply the WAL entries that a copied data file lacks. Return whether it changed.

    ``unapplied`` returns them for the copy's checkpoint record, or None if they are no longer
    available. Raises `StoreUnusable`, and what ``unapplied`` raises.
    """
    with _write_transaction(path) as transaction:
        record = checkpoint.read_checkpoint_record(LMDBSnapshot(transaction, 0))
        if record is None:
            return False
        entries = unapplied(record)
        if entries is None:
            raise StoreUnusable(CHANGING)
        if not entries and record.begun == record.applied:
            return False
        for entry in entries:
            checkpoint.apply_changes(transaction, entry.pairs.items())
        record = record.advanced_to(record.applied + len(entries))
        transaction.put(codec.CHECKPOINT_KEY, checkpoint.pack_checkpoint_record(record))
    return True


def detach(path: str, now: int) -> None:
    """Make a copied store independent of its original. ``now`` is in ms since the Unix epoch.

    The next stream id skips those that the original has given since, as caches may still hold
    their bytes. A new WAL id keeps the copy from reading the original's segments. Raises
    `StoreUnusable`.
    """
    with _write_transaction(path) as transaction:
        next_id = reader.load_next_id(LMDBSnapshot(transaction, 0))
        packed = codec.pack_integer(max(next_id, first_id(now)))
        transaction.put(codec.NEXT_ID_KEY, codec.seal(codec.NEXT_ID_KEY, packed))
        transaction.put(
            codec.CHECKPOINT_KEY,
            checkpoint.pack_checkpoint_record(checkpoint.new_checkpoint_record()),
        )


@contextmanager
def _write_transaction(path: str) -> Iterator[lmdb.Transaction[Any]]:
    # The environment's default is synchronous commits: the change is durable afterwards.
    environment = open_environment(path, path, subdir=False, lock=False, create=False)
    try:
        with environment.begin(write=True) as transaction:
            yield transaction
    except CorruptRecord as corrupt:
        raise StoreUnusable(f"{path} cannot be changed: {corrupt}") from None
    except lmdb.Error as error:
        raise StoreUnusable(f"{path} cannot be written: {error}") from None
    finally:
        environment.close()
