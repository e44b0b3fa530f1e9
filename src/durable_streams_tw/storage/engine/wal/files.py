"""The journal's files: two of a fixed size, written in turn.

An append to a journal is one write and one flush of bytes that have their place on the disk
already, where a commit of LMDB's is two flushes and a path of pages. One file is written while
what the other holds goes into the map; then they change places.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress
from typing import Final

from msgspec import Struct

from durable_streams_tw.storage.engine.wal.checkpoint import CheckpointRecord
from durable_streams_tw.storage.engine.wal.format import (
    HEADER_SIZE,
    Entry,
    SegmentHeader,
    consecutive_after,
    entry_begins,
    find_later_entry,
    pack_header,
    read_entries,
    unpack_header,
)
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DRAFT, SEGMENT_FILES, open_file, sync_directory

# The unit of `st_blocks`, in bytes.
_BLOCK: Final = 512

_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class WriteAheadLog:
    """Journal of a data directory, made if it is missing.

    ``size`` is what each file takes, in bytes. Raises `OSError` if there cannot be one, and
    `StoreUnusable` if there is one of another store.
    """

    def __init__(self, directory: str, wal_id: bytes, size: int) -> None:
        self._files: list[int] = []
        try:
            for name in SEGMENT_FILES:
                self._files.append(_open(os.path.join(directory, name), wal_id, size))
            self._size = min(os.fstat(file).st_size for file in self._files)
        except BaseException:
            self.close()
            raise
        self._current = 0
        self._position = HEADER_SIZE

    @property
    def room(self) -> int:
        """How many bytes the file that is written still takes."""
        return self._size - self._position

    def append(self, entry: bytes) -> None:
        """Write an entry, and have it on the disk. Raises `OSError`: then it may be there."""
        file = self._files[self._current]
        _write_at(file, entry, self._position)
        _flush(file)
        self._position += len(entry)

    def turn(self) -> None:
        """From now on write the other file, whose entries nobody needs any more."""
        self._current = 1 - self._current
        self._position = HEADER_SIZE

    def close(self) -> None:
        """Close the files. Errors are ignored: what counts was flushed, and the descriptors are
        gone either way."""
        while self._files:
            with suppress(OSError):
                os.close(self._files.pop())


def read_wal(directory: str, wal_id: bytes) -> list[Entry]:
    """The entries in a directory's journal, whoever is writing it, in no order.

    Raises `StoreUnusable` where it cannot be read, or belongs to another store.
    """
    return [entry for file in _read(directory, wal_id) for entry in file.entries]


class WALAnalysis(Struct, frozen=True):
    """State of a journal that is not being written, beside its map.

    ``left`` are the entries that the map lacks, in order, up to the first gap. ``last`` is the
    number of the last batch that is accounted for: of ``left``, or of the map if that is empty.
    ``findings`` are sentences, one for each way in which acknowledged batches are lost.
    """

    left: list[Entry]
    last: int
    findings: list[str]


def analyze(directory: str, mark: CheckpointRecord) -> WALAnalysis:
    """Read the journal of a directory and compare it with the mark of the map.

    Each file gets its name when it is whole and on the disk, the first file first. Raises
    `StoreUnusable`.
    """
    read = _read(directory, mark.wal_id)
    found: list[str] = []
    used = any(file.entries for file in read)
    for file in read:
        beyond = find_later_entry(file.data, mark.wal_id, file.entries, mark.applied)
        if beyond is not None:
            newest = f"batch {file.entries[-1].number}" if file.entries else "its beginning"
            found.append(f"{file.path} cannot be read between {newest} and batch {beyond}")
        elif file.head is None and used and not file.entries:
            found.append(f"{file.path} cannot be read")
        elif file.head is not None and len(file.data) < file.head.size:
            found.append(f"{file.path} was cut short")
    if len(read) == 1 and (used or read[0].path != _paths(directory)[0]):
        found.append(f"{read[0].path} is there, and the other file of the journal is not")
    missed = [entry for file in read for entry in file.entries if entry.number > mark.applied]
    left = consecutive_after(missed, mark.applied)
    last = mark.applied + len(left)
    whole = len(read) == len(SEGMENT_FILES) and all(file.head is not None for file in read)
    if whole and not found and mark.begun == last + 1 and not _begins(read, mark):
        # Earlier servers marked a batch that the journal did not take as begun, and the map had no
        # room for the rest. That batch was answered with an error, and nothing of it is there.
        last = mark.begun
    if last < max(mark.begun, mark.applied + len(missed)):
        found.append(f"batch {last + 1} is missing in the journal in {directory}")
    return WALAnalysis(left, last, found)


def _begins(files: list[_File], mark: CheckpointRecord) -> bool:
    """Return whether the journal has anything of the last batch that the map has begun."""
    return any(entry_begins(file.data, mark.wal_id, mark.begun) for file in files)


class _File(Struct, frozen=True):
    path: str
    head: SegmentHeader | None
    entries: list[Entry]
    data: bytes


def _paths(directory: str) -> list[str]:
    return [os.path.join(directory, name) for name in SEGMENT_FILES]


def _read(directory: str, wal_id: bytes) -> list[_File]:
    found: list[_File] = []
    for path in _paths(directory):
        try:
            with open(open_file(path, os.O_RDONLY), "rb", buffering=0) as file:
                data = file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from None
        # Whatever became of its head: entries say themselves whose they are.
        found.append(_File(path, _head(path, data, wal_id), read_entries(data, wal_id), data))
    return found


def _head(path: str, data: bytes, wal_id: bytes) -> SegmentHeader | None:
    """A file's head. Raises `StoreUnusable` where it is another store's."""
    head = unpack_header(data)
    if head is not None and head.wal_id != wal_id:
        raise StoreUnusable(
            f"{path} belongs to another store: move it out of the data directory if the store "
            "was put there on purpose"
        )
    return head


def sync_segments(directory: str) -> None:
    """Flush what a killed process has written, before anything builds on it.

    Raises `StoreUnusable`.
    """
    for path in _paths(directory):
        try:
            file = open_file(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be opened: {error.strerror}") from None
        try:
            os.fsync(file)
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be written: {error.strerror}") from None
        finally:
            os.close(file)


def _open(path: str, wal_id: bytes, size: int) -> int:
    """Open a file of the journal; make it again unless it is whole. Raises `OSError`."""
    try:
        file = open_file(path, os.O_RDWR)
    except FileNotFoundError:
        return _make(path, SegmentHeader(wal_id, size))
    try:
        status = os.fstat(file)
        whole = SegmentHeader(wal_id, max(size, status.st_size))
        # Some ways of copying a file leave holes where it has zeros: an append there may find no
        # room on the disk.
        sparse = status.st_blocks * _BLOCK < status.st_size
        if not sparse and _head(path, os.pread(file, HEADER_SIZE, 0), wal_id) == whole:
            return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return _make(path, whole)


def _make(path: str, head: SegmentHeader) -> int:
    """Make a file of the journal without entries, in place of any other, and return its
    descriptor. Raises `OSError`.

    A crash leaves no file with that name that is not whole.
    """
    draft = path + DRAFT
    with suppress(FileNotFoundError):
        os.unlink(draft)
    file = open_file(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _allocate(file, head.size)
        _write_at(file, pack_header(head), 0)
        os.fsync(file)
        os.rename(draft, path)
        sync_directory(os.path.dirname(path))
    except BaseException:
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return file


def _allocate(file: int, size: int) -> None:
    """Give a file its place on the disk, so that no append ever needs more."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    piece = bytes(1 << 20)
    for start in range(0, size, len(piece)):
        _write_at(file, piece[: size - start], start)


def _write_at(file: int, data: bytes, position: int) -> None:
    """Write bytes at a position of a file. Raises `OSError`, also if some of them were written."""
    if os.pwrite(file, data, position) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _flush(file: int) -> None:
    if sys.platform == "darwin":
        # There fsync leaves bytes in the drive's own memory.
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)
