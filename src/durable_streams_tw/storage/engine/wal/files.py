"""Segment files of the write-ahead log: two of fixed size, written alternately.

An append is one write and one flush of blocks that are already allocated; an LMDB commit is two
flushes and a path of pages. While one segment is written, a checkpoint applies the batches of the
other to LMDB; then they switch.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress
from typing import Final

from msgspec import Struct

from durable_streams_tw.storage.engine.wal import format as wal_format
from durable_streams_tw.storage.engine.wal.checkpoint import CheckpointRecord
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable
from durable_streams_tw.storage.files import DRAFT, SEGMENT_FILES, open_file, sync_directory

# Unit of `st_blocks`, in bytes.
_BLOCK: Final = 512

_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class WriteAheadLog:
    """Write-ahead log of a data directory, created if missing.

    ``size`` is the size of each segment in bytes. Raises `OSError` if the segments cannot be opened
    or created, and `StoreUnusable` if they belong to another store.
    """

    def __init__(self, directory: str, wal_id: bytes, size: int) -> None:
        self._files: list[int] = []
        try:
            for name in SEGMENT_FILES:
                self._files.append(_open_segment(os.path.join(directory, name), wal_id, size))
            self._size = min(os.fstat(file).st_size for file in self._files)
        except BaseException:
            self.close()
            raise
        self._current = 0
        self._position = wal_format.HEADER_SIZE

    @property
    def free_bytes(self) -> int:
        """Return the number of bytes that the current segment can still take."""
        return self._size - self._position

    def append(self, entry: bytes) -> None:
        """Write and flush an entry. Raises `OSError`; the entry may then be on the disk."""
        file = self._files[self._current]
        _write_at(file, entry, self._position)
        _flush(file)
        self._position += len(entry)

    def switch_segment(self) -> None:
        """Continue at the beginning of the other segment, whose entries LMDB contains."""
        self._current = 1 - self._current
        self._position = wal_format.HEADER_SIZE

    def close(self) -> None:
        """Close the files. Ignore errors: entries were flushed, and close frees the descriptors."""
        while self._files:
            with suppress(OSError):
                os.close(self._files.pop())


def read_wal(directory: str, wal_id: bytes) -> list[wal_format.Entry]:
    """Return the entries in a directory's segments, in no order. A server may be writing them.

    Raises `StoreUnusable` if they cannot be read or belong to another store.
    """
    return [entry for segment in _read_segments(directory, wal_id) for entry in segment.entries]


class WALAnalysis(Struct, frozen=True):
    """Content of a WAL that no server is writing, compared with LMDB's checkpoint record.

    ``unapplied`` are the entries that LMDB lacks, in order, up to the first gap. ``last`` is the
    number of the last batch in them, or in LMDB if there are none. ``findings`` has one sentence
    for each kind of loss of acknowledged batches.
    """

    unapplied: list[wal_format.Entry]
    last: int
    findings: list[str]


def analyze(directory: str, record: CheckpointRecord) -> WALAnalysis:
    """Read the segments of a directory and compare them with the checkpoint record of LMDB.

    Relies on the order in which `WriteAheadLog` creates segments: each gets its name when it is
    complete and durable, the first segment first. Raises `StoreUnusable`.
    """
    segments = _read_segments(directory, record.wal_id)
    findings: list[str] = []
    used = any(segment.entries for segment in segments)
    for segment in segments:
        entries = segment.entries
        later = wal_format.find_later_entry(segment.data, record.wal_id, entries, record.applied)
        if later is not None:
            readable = f"batch {entries[-1].number}" if entries else "its beginning"
            findings.append(f"{segment.path} is damaged between {readable} and batch {later}")
        elif segment.header is None and used and not entries:
            findings.append(f"{segment.path} is damaged: it has no valid header")
        elif segment.header is not None and len(segment.data) < segment.header.size:
            findings.append(f"{segment.path} was truncated")
    if len(segments) == 1 and (used or segments[0].path != _segment_paths(directory)[0]):
        findings.append(f"{segments[0].path} exists, but the other segment of the WAL is missing")
    newer = [
        entry for segment in segments for entry in segment.entries if entry.number > record.applied
    ]
    unapplied = wal_format.consecutive_after(newer, record.applied)
    last = record.applied + len(unapplied)
    whole = len(segments) == len(SEGMENT_FILES) and all(
        segment.header is not None for segment in segments
    )
    if whole and not findings and record.begun == last + 1 and not _begins(segments, record):
        # Earlier versions set `begun` to a batch that the WAL had refused, and then had no disk
        # space for the rest. Its request failed, and nothing of it was written.
        last = record.begun
    if last < max(record.begun, record.applied + len(newer)):
        findings.append(f"batch {last + 1} is missing from the WAL in {directory}")
    return WALAnalysis(unapplied, last, findings)


class _Segment(Struct, frozen=True):
    path: str
    header: wal_format.SegmentHeader | None
    entries: list[wal_format.Entry]
    data: bytes


def _begins(segments: list[_Segment], record: CheckpointRecord) -> bool:
    """Return whether any segment has the beginning of the batch ``record.begun``."""
    return any(
        wal_format.entry_begins(segment.data, record.wal_id, record.begun) for segment in segments
    )


def _segment_paths(directory: str) -> list[str]:
    return [os.path.join(directory, name) for name in SEGMENT_FILES]


def _read_segments(directory: str, wal_id: bytes) -> list[_Segment]:
    found: list[_Segment] = []
    for path in _segment_paths(directory):
        if not os.path.lexists(path):
            continue
        with (
            store_unusable(f"{path} cannot be read"),
            open(open_file(path, os.O_RDONLY), "rb", buffering=0) as file,
        ):
            data = file.read()
        # Read the entries even if the header is damaged: their checksums include the WAL id.
        found.append(
            _Segment(path, _header(path, data, wal_id), wal_format.read_entries(data, wal_id), data)
        )
    return found


def _header(path: str, data: bytes, wal_id: bytes) -> wal_format.SegmentHeader | None:
    """Return the header of a segment. Raises `StoreUnusable` if it belongs to another store."""
    header = wal_format.unpack_header(data)
    if header is not None and header.wal_id != wal_id:
        raise StoreUnusable(
            f"{path} belongs to another store: if you replaced the store on purpose, move this "
            "file out of the data directory"
        )
    return header


def sync_segments(directory: str) -> None:
    """Flush what a killed process has written to the segments, before recovery relies on it.

    Raises `StoreUnusable`.
    """
    for path in _segment_paths(directory):
        if not os.path.lexists(path):
            continue
        with store_unusable(f"{path} cannot be opened"):
            file = open_file(path, os.O_RDWR)
        try:
            with store_unusable(f"{path} cannot be written"):
                os.fsync(file)
        finally:
            os.close(file)


def _open_segment(path: str, wal_id: bytes, size: int) -> int:
    """Open a segment and return its descriptor; replace it unless it is complete.

    Raises `OSError` and `StoreUnusable`.
    """
    try:
        file = open_file(path, os.O_RDWR)
    except FileNotFoundError:
        return _create_segment(path, wal_format.SegmentHeader(wal_id, size))
    try:
        status = os.fstat(file)
        whole = wal_format.SegmentHeader(wal_id, max(size, status.st_size))
        # Copy tools may turn zeros into holes, where a later append can fail with a full disk.
        sparse = status.st_blocks * _BLOCK < status.st_size
        if not sparse and _header(path, os.pread(file, wal_format.HEADER_SIZE, 0), wal_id) == whole:
            return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return _create_segment(path, whole)


def _create_segment(path: str, header: wal_format.SegmentHeader) -> int:
    """Create an empty segment, atomically, in place of any other, and return its descriptor.

    Raises `OSError`.
    """
    draft = path + DRAFT
    with suppress(FileNotFoundError):
        os.unlink(draft)
    file = open_file(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _allocate(file, header.size)
        _write_at(file, wal_format.pack_header(header), 0)
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
    """Allocate the blocks of a file, so that appends cannot run out of disk space."""
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
    """Write bytes at a position of a file. Raises `OSError`, also after a short write."""
    if os.pwrite(file, data, position) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _flush(file: int) -> None:
    if sys.platform == "darwin":
        # On macOS, fsync does not flush the drive's cache.
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)
