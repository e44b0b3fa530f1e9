"""Copies of a store's files: written whole, flushed, counted and digested."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from durable_streams_tw.storage.admin.copy_completion import complete
from durable_streams_tw.storage.admin.fsck.findings import Finding
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.admin.inspect import Inspection, Leaking
from durable_streams_tw.storage.api import StoreUnusable
from durable_streams_tw.storage.engine.kv import Buffer, EngineFailed, Snapshot
from durable_streams_tw.storage.engine.wal.checkpoint import Mark
from durable_streams_tw.storage.engine.wal.format import Entry
from durable_streams_tw.storage.files import open_file

Progress = Callable[[str, int, int], None]
"""Told now and then: what is being done, how much of it is done, and how much there is."""

_PIECE: Final = 1 << 20
_TOLD_EVERY: Final = 4096
_NAMED: Final = 20


class CopiedFile(Struct, frozen=True):
    """A file of a copy: its name, its size in bytes, the SHA-256 of its content in hex."""

    name: str
    size: int
    sha256: str


class Flawed(Exception):
    """A copy is not sound; ``findings`` are the first of what is wrong, ``count`` is all."""

    def __init__(self, where: str, findings: list[Finding], count: int) -> None:
        first = findings[0]
        super().__init__(
            f"{where} has flaws ({count}), the first: {first.flaw.value}: {first.detail}"
        )
        self.findings = findings
        self.count = count


class Copy:
    """A new file that is being written, readable for its owner only.

    Use it as a context manager: where it ends well the file is flushed to the disk, otherwise
    it is taken away. Raises `StoreUnusable` where it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Copy:
        with _explained(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = open(os.open(self._path, flags, 0o600), "wb", buffering=0)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is not None:
                os.unlink(self._path)
                return
            with _explained(self._path):
                os.fsync(self._file.fileno())

    def write(self, data: bytes) -> None:
        """Append to it."""
        with _explained(self._path):
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        self._digest.update(data)
        self.size += len(data)

    def described(self) -> CopiedFile:
        """What has been written so far."""
        return CopiedFile(os.path.basename(self._path), self.size, self._digest.hexdigest())


def copy_store(source: Inspection, path: str, progress: Progress) -> CopiedFile:
    """Copy what the last commit of a store left, and no free pages, into a new file.

    Raises `StoreUnusable`.
    """
    try:
        # First of all: what leaves the journal in between is in the map by then.
        journaled = source.journaled()
        copied = _copy_map(source, path, progress)

        def unapplied(mark: Mark) -> list[Entry] | None:
            return source.unapplied(mark, journaled)

        return _described(path) if complete(path, unapplied) else copied
    except EngineFailed as failure:
        raise StoreUnusable(f"{path} cannot be made: {failure}") from None


def _copy_map(source: Inspection, path: str, progress: Progress) -> CopiedFile:
    # Pages of a tree that is being cut down to its pairs stay, and two that lead to all.
    size = source.figures().used

    def written(copy: Copy) -> Callable[[bytes], None]:
        def write(piece: bytes) -> None:
            copy.write(piece)
            progress("copying", copy.size, max(size, copy.size))

        return write

    try:
        with Copy(path) as copy:
            source.copy(written(copy))
    except Leaking:
        with Copy(path) as copy:
            source.copy_whole(written(copy))
    return copy.described()


def _described(path: str) -> CopiedFile:
    with _explained(path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return CopiedFile(os.path.basename(path), os.fstat(file.fileno()).st_size, digest)


def copy_file(source: str, path: str, progress: Progress) -> CopiedFile:
    """Copy a file into a new one. Raises `StoreUnusable`."""
    with _explained(source):
        descriptor = open_file(source, os.O_RDONLY)
    with open(descriptor, "rb", buffering=0) as original, Copy(path) as copy:
        size = os.fstat(original.fileno()).st_size
        while True:
            with _explained(source):
                piece = original.read(_PIECE)
            if not piece:
                break
            copy.write(piece)
            progress("copying", copy.size, max(size, copy.size))
    return copy.described()


def need_room(directory: str, size: int) -> None:
    """Raise `StoreUnusable` where a file system has no room for so many bytes."""
    with _explained(directory):
        free = shutil.disk_usage(directory).free
    if free < size:
        raise StoreUnusable(
            f"the disk of {directory} has {free:,} bytes free, and {size:,} are needed"
        )


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror
        raise StoreUnusable(f"{path}: {what}") from None


# -- proving that a copy is sound -----------------------------------------------------------


class Watched:
    """A store whose pairs are counted while they are walked through."""

    def __init__(self, source: Inspection, progress: Progress, what: str = "checking") -> None:
        self._source = source
        self._progress = progress
        self._what = what
        self._total = source.figures().entries
        self._count = 0

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The map as the last commit left it. Raises `EngineFailed`."""
        with self._source.snapshot() as view:
            yield _WatchedSnapshot(view, self._step)
        self._progress(self._what, self._count, self._count)

    def _step(self) -> None:
        # Some are walked through twice, so the end is a guess.
        self._count += 1
        if self._count % _TOLD_EVERY == 0:
            self._progress(self._what, self._count, max(self._total, self._count))


class _WatchedSnapshot:
    def __init__(self, view: Snapshot, step: Callable[[], None]) -> None:
        self.version = view.version
        self.get = view.get
        self.scan_from_floor = view.scan_from_floor
        self._scan = view.scan
        self._step = step

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from ``first`` up to ``stop``."""
        for pair in self._scan(first, stop):
            self._step()
            yield pair


def walk(source: Inspection, deep: bool, progress: Progress) -> Iterator[Finding]:
    """What is wrong with a store, while ``progress`` is told how far the walk is."""
    yield from source.journal_findings()
    yield from check(Watched(source, progress), deep)


def prove(
    source: Inspection,
    where: str,
    progress: Progress,
    *,
    deep: bool = False,
    tolerant: bool = False,
) -> int:
    """How many flaws a store has. Unless ``tolerant``, raises `Flawed` where that is not none."""
    first: list[Finding] = []
    count = 0
    for finding in walk(source, deep, progress):
        count += 1
        if len(first) < _NAMED:
            first.append(finding)
    if count and not tolerant:
        raise Flawed(where, first, count)
    return count


def refuse_flawed(source: Inspection, where: str, tolerant: bool) -> None:
    """Raise `Flawed` where a store's journal is damaged, unless ``tolerant``: a copy has what
    can be read of it, and would not show that there was more."""
    findings = source.journal_findings()
    if findings and not tolerant:
        raise Flawed(where, findings, len(findings))
