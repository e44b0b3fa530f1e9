"""A keyspace on LMDB.

What is fixed here, and why:

- the map is opened at its full size and never grown, for growing breaks every transaction
  of the process;
- commits are synchronous, the meta page too, and the map is not written through memory:
  with anything less a power cut loses acknowledged commits, and a full disk is a SIGBUS;
- there is one database: a batch then dirties one tree's path of pages, not one a table.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition
from typing import Any

import lmdb

from durable_streams_tw.protocol.limits import MAP_SIZE, MAX_READERS
from durable_streams_tw.storage.interfaces import StoreUnusable
from durable_streams_tw.storage.keyspace import Buffer, KeyspaceFailed, KeyspaceFull

_END: tuple[Buffer, Buffer] = (b"", b"")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LMDBKeyspace:
    """The environment in a directory that exists already."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._environment = self._open()
        # How many snapshots are open: the map must not go away under one.
        self._snapshots = 0
        self._idle = Condition()

    def _open(self) -> lmdb.Environment:
        size = MAP_SIZE
        while True:
            try:
                environment = lmdb.open(
                    self._directory,
                    map_size=size,
                    max_dbs=0,
                    max_readers=MAX_READERS,
                    sync=True,
                    metasync=True,
                    writemap=False,
                    mode=0o600,
                )
            except MemoryError:
                size //= 2
            except lmdb.InvalidError:
                raise StoreUnusable(f"{self._directory} holds no LMDB database") from None
            except lmdb.Error as error:
                if size > 1 << 30 and "annot allocate memory" in str(error):
                    size //= 2
                    continue
                raise StoreUnusable(f"{self._directory} cannot be opened: {error}") from None
            else:
                break
        environment.reader_check()
        # What a crash left in the page cache becomes durable before anybody builds on it.
        environment.sync(True)
        return environment

    @contextmanager
    def snapshot(self) -> Iterator[_Snapshot]:
        """The map as it is now; values are windows into it."""
        with self._idle:
            self._snapshots += 1
        transaction = None
        try:
            transaction = self._environment.begin(buffers=True)
            yield _Snapshot(transaction)
        except lmdb.Error as error:
            raise KeyspaceFailed(str(error)) from error
        finally:
            if transaction is not None:
                transaction.abort()
            with self._idle:
                self._snapshots -= 1
                self._idle.notify_all()

    def begin(self) -> _WriteBatch:
        """Begin a batch."""
        try:
            return _WriteBatch(self, self._environment.begin(write=True))
        except lmdb.PanicError:
            self._reopen()
            return _WriteBatch(self, self._environment.begin(write=True))
        except lmdb.Error as error:
            raise KeyspaceFailed(str(error)) from error

    def _reopen(self) -> None:
        # A commit that failed in its meta page leaves the environment unusable: what the
        # disk has is read anew.
        with self._idle:
            self._idle.wait_for(lambda: self._snapshots == 0)
            try:
                self._environment.close()
                self._environment = self._open()
            except (lmdb.Error, StoreUnusable) as error:
                raise KeyspaceFailed(str(error)) from error

    def has_room(self, reserve: int) -> bool:
        """Whether the file system, or else the map's own freed pages too, have room."""
        free = self.disk_room()
        if free >= reserve:
            return True
        info, stat = self._environment.info(), self._environment.stat()
        spare = int(info["last_pgno"]) + 1 - self._pages(stat)
        return free + max(0, spare) * int(stat["psize"]) >= reserve

    def disk_room(self) -> int:
        """Free bytes of the file system."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def disk_size(self) -> int:
        """All bytes of the file system."""
        status = os.statvfs(self._directory)
        return status.f_blocks * status.f_frsize

    def used(self) -> int:
        """Bytes of the pages that hold pairs."""
        stat = self._environment.stat()
        return self._pages(stat) * int(stat["psize"])

    @staticmethod
    def _pages(stat: Mapping[str, Any]) -> int:
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def check_readers(self) -> None:
        """Free the slots of readers whose process died."""
        self._environment.reader_check()

    def close(self) -> None:
        """Release the map."""
        self._environment.close()

    def failure(self, error: Exception) -> KeyspaceFull | KeyspaceFailed:
        """What an error of LMDB's means for the batch that met it."""
        if isinstance(error, lmdb.MapFullError):
            return KeyspaceFull("the map is full")
        # A full disk arrives as ENOSPC or, through the write that it cut short, as EIO.
        number = getattr(error, "errno", None) or _errno_of(error)
        if number in _NO_SPACE or (number == errno.EIO and self.disk_room() < 1 << 20):
            return KeyspaceFull("the disk is full")
        return KeyspaceFailed(str(error))


def _errno_of(error: Exception) -> int | None:
    # py-lmdb has no attribute for a system error's number, only strerror's text.
    text = str(error)
    for number in (*_NO_SPACE, errno.EIO):
        if os.strerror(number) in text:
            return number
    return None


class _View:
    def __init__(self, transaction: lmdb.Transaction) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> Buffer | None:
        """The value of a key."""
        try:
            value: Buffer | None = self._transaction.get(key)
        except lmdb.Error as error:
            raise KeyspaceFailed(str(error)) from error
        return value

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from ``first`` up to ``stop``."""
        with self._transaction.cursor() as cursor:
            if cursor.set_range(first):
                yield from self._until(cursor, stop)

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from the greatest key that is not behind ``first``."""
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(first)
            if found and bytes(cursor.key()) == first:
                yield from self._until(cursor, stop)
                return
            stepped = cursor.prev() if found else cursor.last()
            if not (stepped and bytes(cursor.key()) >= lowest):
                if not found:
                    return
                cursor.set_range(first)
            yield from self._until(cursor, stop)

    @staticmethod
    def _until(cursor: lmdb.Cursor, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        pairs = cursor.iternext()
        while True:
            try:
                key, value = next(pairs, _END)
            except lmdb.Error as error:
                raise KeyspaceFailed(str(error)) from error
            if not key or bytes(key) >= stop:
                return
            yield key, value


class _Snapshot(_View):
    @property
    def version(self) -> int:
        """The number of the commit that is seen."""
        return int(self._transaction.id())


class _WriteBatch(_View):
    def __init__(self, keyspace: LMDBKeyspace, transaction: lmdb.Transaction) -> None:
        super().__init__(transaction)
        self._keyspace = keyspace
        self._ended = False

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value."""
        try:
            self._transaction.put(key, value)
        except lmdb.Error as error:
            raise self._keyspace.failure(error) from error

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        try:
            self._transaction.delete(key)
        except lmdb.Error as error:
            raise self._keyspace.failure(error) from error

    def commit(self) -> int:
        """Make the batch durable."""
        version = int(self._transaction.id())
        self._ended = True
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise self._keyspace.failure(error) from error
        return version

    def abort(self) -> None:
        """Drop the batch, unless its commit has ended it already."""
        if not self._ended:
            self._ended = True
            self._transaction.abort()
