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
from typing import Final

from durable_streams_tw.storage.directory import persist
from durable_streams_tw.storage.interfaces import StoreUnusable
from durable_streams_tw.storage.journal_entries import (
    HEAD_SIZE,
    Entry,
    cut_off,
    following,
    pack_head,
    run,
    unpack_head,
)

JOURNAL_FILES: Final = ("journal.a", "journal.b")

_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Journal:
    """The journal of a data directory, made where it is missing.

    ``size`` is what each file takes, in bytes. Raises `OSError` where there cannot be one, and
    `StoreUnusable` where there is another store's.
    """

    def __init__(self, directory: str, lineage: bytes, size: int) -> None:
        self._files: list[int] = []
        try:
            for name in JOURNAL_FILES:
                self._files.append(_open(os.path.join(directory, name), lineage, size))
            persist(directory)
            self._size = min(os.fstat(file).st_size for file in self._files)
        except BaseException:
            self.close()
            raise
        self._current = 0
        self._position = HEAD_SIZE

    @property
    def room(self) -> int:
        """How many bytes the file that is written still takes."""
        return self._size - self._position

    @property
    def capacity(self) -> int:
        """How many bytes a file takes."""
        return self._size - HEAD_SIZE

    def append(self, entry: bytes) -> None:
        """Write an entry, and have it on the disk. Raises `OSError`: then it may be there."""
        file = self._files[self._current]
        if os.pwrite(file, entry, self._position) != len(entry):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _flush(file)
        self._position += len(entry)

    def turn(self) -> None:
        """From now on write the other file, whose entries nobody needs any more."""
        self._current = 1 - self._current
        self._position = HEAD_SIZE

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.pop())


def read_journal(directory: str, lineage: bytes) -> list[Entry]:
    """The entries in a directory's journal, whoever is writing it, in no order.

    Raises `StoreUnusable` where it cannot be read, or belongs to another store.
    """
    return [entry for _, entries, _ in _read(directory, lineage) for entry in entries]


def flaws(directory: str, lineage: bytes, applied: int) -> list[str]:
    """What is wrong with a journal that nobody is writing, in sentences.

    ``applied`` is the number of the last batch that is in the map. Raises `StoreUnusable`.
    """
    found: list[str] = []
    missed: list[Entry] = []
    used: list[str] = []
    read = _read(directory, lineage)
    for path, entries, data in read:
        beyond = cut_off(data, lineage, entries, applied)
        if beyond is not None:
            newest = f"batch {entries[-1].number}" if entries else "its beginning"
            found.append(f"{path} cannot be read between {newest} and batch {beyond}")
        missed += [entry for entry in entries if entry.number > applied]
        used += [path] if entries else []
    # A crash while they are made leaves the first alone, and nothing in it.
    first = os.path.join(directory, JOURNAL_FILES[0])
    if len(read) == 1 and (used or read[0][0] != first):
        found.append(f"{read[0][0]} is there, and the other file of the journal is not")
    left = following(missed, applied)
    if len(left) < len(missed):
        found.append(f"batch {applied + len(left) + 1} is missing in the journal in {directory}")
    return found


def _read(directory: str, lineage: bytes) -> list[tuple[str, list[Entry], bytes]]:
    found: list[tuple[str, list[Entry], bytes]] = []
    for name in JOURNAL_FILES:
        path = os.path.join(directory, name)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from None
        _refuse_foreign(path, data, lineage)
        # Whatever became of its head: entries say themselves whose they are.
        found.append((path, run(data, lineage), data))
    return found


def _refuse_foreign(path: str, data: bytes, lineage: bytes) -> bool:
    """Whether a file says that it is ours. Raises `StoreUnusable` where it is another store's."""
    owner = unpack_head(data)
    if owner is not None and owner != lineage:
        raise StoreUnusable(
            f"{path} belongs to another store: move it out of the data directory if the store "
            "was put there on purpose"
        )
    return owner is not None


def _open(path: str, lineage: bytes, size: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ours = _refuse_foreign(path, os.pread(file, HEAD_SIZE, 0), lineage)
        whole = os.fstat(file).st_size >= size
        if not whole:
            _allocate(file, size)
        if not ours:
            os.pwrite(file, pack_head(lineage), 0)
        if not (whole and ours):
            os.fsync(file)
    except BaseException:
        os.close(file)
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
    for start in range(os.fstat(file).st_size, size, len(piece)):
        os.pwrite(file, piece[: size - start], start)


def _flush(file: int) -> None:
    if sys.platform == "darwin":
        # There fsync leaves bytes in the drive's own memory.
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)
