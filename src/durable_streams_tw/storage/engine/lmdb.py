"""A engine on LMDB.

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
from contextlib import contextmanager, suppress
from threading import Condition
from typing import Any, Final

import lmdb

from durable_streams_tw.storage.engine.kv import Buffer, EngineFailed, EngineFull
from durable_streams_tw.storage.engine.limits import MAP_SIZE, MAX_READERS
from durable_streams_tw.storage.engine.lmdb_pages import DamagedPages, used_end
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, DRAFT, LOCK_FILE, open_file
from durable_streams_tw.storage.limits import READ_THREADS

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOTEWORTHY: Final = (*_NO_SPACE, errno.EIO)

# 64 bytes a reader slot, and a page for what comes before them.
_LOCK_SIZE: Final = MAX_READERS * 64 + 4096

# Less is as good as none (bytes).
_LEAST_ROOM: Final = 1 << 20

# A generation's versions lie above all those of the one before.
_GENERATION_BITS: Final = 48


class LMDBEngine:
    """LMDB environment of a data directory, created if it has none.

    A commit that fails in its meta page leaves the environment refusing everything, reads too.
    The environment is then closed and opened again: at once if the disk allows it, otherwise by
    the next snapshot or batch. Until one of them succeeds, each raises `EngineFailed`.

    Raises `StoreUnusable` if the environment cannot be opened.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        if not os.path.lexists(os.path.join(directory, DATA_FILE)):
            _create(directory)
        # Counts the failures after which what was seen before is not to be trusted.
        self._generation = 0
        # How many snapshots are open: the map must not go away under one.
        self._snapshots = 0
        self._reopening = False
        self._idle = Condition()
        # None from a failed attempt to open the environment again until one that succeeds.
        self._environment: lmdb.Environment | None = self._open()

    def _open(self) -> lmdb.Environment:
        data_file = os.path.join(self._directory, DATA_FILE)
        refuse_empty(data_file)
        allocate_lock_file(self._directory)
        environment = open_environment(
            self._directory,
            self._directory,
            max_spare_txns=READ_THREADS,
            sync=True,
            metasync=True,
            writemap=False,
            mode=0o600,
        )
        try:
            expected = check_size(environment, data_file)
            if os.stat(data_file).st_size < expected:
                # The next start need not look at all pages again.
                os.truncate(data_file, expected)
            environment.reader_check()
            # What a crash left in the page cache becomes durable before anything builds on it.
            environment.sync(True)
        except (lmdb.Error, OSError) as error:
            environment.close()
            raise StoreUnusable(f"{self._directory} cannot be opened: {error}") from None
        except BaseException:
            environment.close()
            raise
        return environment

    @contextmanager
    def snapshot(self) -> Iterator[LMDBSnapshot]:
        """The map as it is now; values are windows into it. Raises `EngineFailed`."""
        environment, generation = self._hold()
        transaction = None
        try:
            try:
                transaction = environment.begin(buffers=True)
            except lmdb.Error as error:
                raise EngineFailed(str(error)) from error
            yield LMDBSnapshot(transaction, generation)
        finally:
            if transaction is not None:
                transaction.abort()
            self._let_go()

    @contextmanager
    def _held(self) -> Iterator[lmdb.Environment]:
        """Keep the environment open meanwhile. Raises `EngineFailed`."""
        environment, _ = self._hold()
        try:
            yield environment
        finally:
            self._let_go()

    def _hold(self) -> tuple[lmdb.Environment, int]:
        """Return the environment and its generation; it stays open until `_let_go`.

        Raises `EngineFailed`.
        """
        with self._idle:
            environment = self._usable()
            self._snapshots += 1
            return environment, self._generation

    def _let_go(self) -> None:
        with self._idle:
            self._snapshots -= 1
            self._idle.notify_all()

    def _usable(self) -> lmdb.Environment:
        """Return the environment; open it if it is closed. Call with ``_idle`` held.

        Raises `EngineFailed`.
        """
        while self._reopening:
            self._idle.wait()
        if self._environment is None:
            try:
                self._environment = self._open()
            except StoreUnusable as error:
                raise EngineFailed(str(error)) from error
            self._generation += 1
        return self._environment

    @property
    def min_version(self) -> int:
        """Below every version that is seen from now on."""
        return self._generation << _GENERATION_BITS

    def begin(self) -> _WriteBatch:
        """Begin a batch. Raises `EngineFailed`."""
        with self._idle:
            environment = self._usable()
        try:
            transaction = environment.begin(write=True)
        except lmdb.PanicError:
            environment = self._reopen()
            try:
                transaction = environment.begin(write=True)
            except lmdb.Error as error:
                raise EngineFailed(str(error)) from error
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error
        return _WriteBatch(self, transaction, self._generation)

    def _reopen(self) -> lmdb.Environment:
        """Close the environment once all open snapshots have ended, and open it again.

        Raises `EngineFailed`: then it stays closed until `_usable` can open it.
        """
        with self._idle:
            self._reopening = True
            try:
                self._idle.wait_for(lambda: not self._snapshots)
                if self._environment is not None:
                    self._environment.close()
                    self._environment = None
            finally:
                self._reopening = False
                self._idle.notify_all()
            return self._usable()

    def commit_failed(self, error: lmdb.Error) -> EngineFull | EngineFailed:
        """What a failed commit means; afterwards the environment works again if it can.

        Only a failure in the meta page, the last that a commit writes, breaks the
        environment, and only then is it not known what the disk has.
        """
        meaning = self.failure(error)
        with self._idle:
            self._generation += 1
            environment = self._usable()
        try:
            environment.begin(write=True).abort()
        except lmdb.Error:
            meaning = EngineFailed(str(error))
            try:
                self._reopen()
            except EngineFailed as second:
                # The next snapshot or batch tries again.
                meaning = EngineFailed(f"{error}; opening the map again: {second}")
        return meaning

    def failure(self, error: lmdb.Error) -> EngineFull | EngineFailed:
        """What an error of LMDB's means for the batch that met it."""
        if isinstance(error, lmdb.MapFullError):
            return EngineFull("the map is full")
        # No room arrives as ENOSPC or, through the write that it cut short, as EIO.
        number = _number(error)
        if number in _NO_SPACE or (number == errno.EIO and not self._can_grow()):
            return EngineFull(f"the disk is full ({error})")
        return EngineFailed(str(error))

    def _can_grow(self) -> bool:
        """Whether the file system, quotas and limits let the data file grow."""
        try:
            with open(os.path.join(self._directory, DATA_FILE), "r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.write(b"\x00")
                file.truncate(end)
            return self.free_disk_bytes() >= _LEAST_ROOM
        except OSError as error:
            return error.errno not in _NO_SPACE
        except EngineFailed:
            return True

    def has_space(self, reserve: int) -> bool:
        """Whether the file system, or else the map's own freed pages too, have room."""
        free = self.free_disk_bytes()
        if free >= reserve:
            return True
        info, stat = self._statistics()
        spare = int(info["last_pgno"]) + 1 - pages(stat)
        return free + max(0, spare) * int(stat["psize"]) >= reserve

    def free_disk_bytes(self) -> int:
        """Free bytes of the file system. Raises `EngineFailed`."""
        status = self._statvfs()
        return status.f_bavail * status.f_frsize

    def total_disk_bytes(self) -> int:
        """All bytes of the file system. Raises `EngineFailed`."""
        status = self._statvfs()
        return status.f_blocks * status.f_frsize

    def _statvfs(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._directory)
        except OSError as error:
            raise EngineFailed(str(error)) from error

    def used_bytes(self) -> int:
        """Bytes of the pages that hold pairs."""
        _, stat = self._statistics()
        return pages(stat) * int(stat["psize"])

    def _statistics(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return LMDB's statistics of the environment and of its tree. Raises `EngineFailed`."""
        with self._held() as environment:
            try:
                return environment.info(), environment.stat()
            except lmdb.Error as error:
                raise EngineFailed(str(error)) from error

    def stats(self) -> tuple[int, int, int, int, int, int]:
        """Bytes that pairs take, that the map can hold, that the file has, that the file system
        has left; open snapshots, and how many commits the oldest is behind.

        Raises `EngineFailed`. Not for the reactor's thread.
        """
        with self._held() as environment:
            try:
                info, stat, table = environment.info(), environment.stat(), environment.readers()
                file_size = os.stat(os.path.join(self._directory, DATA_FILE)).st_size
            except (lmdb.Error, OSError) as error:
                raise EngineFailed(str(error)) from error
            # Process, thread and transaction of each reader; a slot that waits has none.
            seen = [int(row[2]) for row in map(str.split, table.splitlines()[1:]) if _reads(row)]
        used = pages(stat) * int(stat["psize"])
        lag = max(0, int(info["last_txnid"]) - min(seen, default=int(info["last_txnid"])))
        room = self.free_disk_bytes()
        return used, int(info["map_size"]), file_size, room, len(seen), lag

    def check_readers(self) -> None:
        """Free the slots of readers whose process died. Raises `EngineFailed`."""
        with self._held() as environment:
            try:
                environment.reader_check()
            except lmdb.Error as error:
                raise EngineFailed(str(error)) from error

    def close(self) -> None:
        """Release the map."""
        if self._environment is not None:
            self._environment.close()


def open_environment(path: str, where: str, **options: Any) -> lmdb.Environment:
    """An environment with a map that is as large as address space allows.

    ``where`` names it in sentences. Raises `StoreUnusable`.
    """
    size = MAP_SIZE
    while True:
        try:
            return lmdb.open(path, map_size=size, max_dbs=0, max_readers=MAX_READERS, **options)
        except (MemoryError, lmdb.MemoryError) as error:
            size //= 2
            if size < 1 << 30:
                raise StoreUnusable(f"there is no address space for {where}: {error}") from None
        except lmdb.InvalidError:
            raise StoreUnusable(f"{where} holds no LMDB database") from None
        except (lmdb.Error, OSError) as error:
            raise StoreUnusable(f"{where} cannot be opened: {error}") from None


def pages(stat: Mapping[str, Any]) -> int:
    """How many pages hold pairs, from an environment's or a transaction's statistics."""
    return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def refuse_empty(data_file: str) -> None:
    """Raise `StoreUnusable` if a data file is missing or empty: LMDB would make a new database."""
    try:
        if not os.stat(data_file).st_size:
            raise StoreUnusable(f"{data_file} is empty: it was cut short")
    except OSError as error:
        raise StoreUnusable(f"{data_file} cannot be opened: {error.strerror}") from None


def check_size(environment: lmdb.Environment, data_file: str) -> int:
    """Return how many bytes a data file has if all its pages have been written.

    Reading a page beyond the end of the file ends the process. Pages at the end that a commit took
    and gave back are never written, so a shorter file is whole if no tree leads to a missing page:
    only then all pages are looked at. Raises `StoreUnusable` if the file was cut short, and
    `lmdb.Error` and `OSError`.
    """
    # The snapshot keeps a server in another process from using its pages again.
    with environment.begin() as snapshot:
        expected: int = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        size = os.stat(data_file).st_size
        if size < expected:
            try:
                needed = used_end(data_file, snapshot.id())
            except DamagedPages as damaged:
                raise StoreUnusable(f"{data_file} is damaged: {damaged}") from None
            if size < needed:
                raise StoreUnusable(f"{data_file} has {size} bytes of {needed}: it was cut short")
    return expected


def allocate_lock_file(directory: str) -> None:
    """Fill the lock file of a directory's environment, so that LMDB finds all of it there.

    LMDB makes this file sparse and writes to it through memory: a page that is not there yet
    when the disk is full would end the process. Raises `StoreUnusable`.
    """
    path = os.path.join(directory, LOCK_FILE)
    try:
        with open(path, "ab", opener=open_file) as file:
            file.write(bytes(max(0, _LOCK_SIZE - file.tell())))
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be written: {error.strerror}") from None


def _create(directory: str) -> None:
    """Create an empty map. A crash leaves it whole or not at all. Raises `StoreUnusable`."""
    path = os.path.join(directory, DATA_FILE)
    draft = path + DRAFT
    try:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        # LMDB would follow a symbolic link, and takes an empty file for a new one.
        os.close(open_file(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        environment = open_environment(draft, directory, subdir=False, lock=False)
        try:
            environment.sync(True)
        finally:
            environment.close()
        # The name reaches the disk with those of the directory, before anything is acknowledged.
        os.rename(draft, path)
    except (lmdb.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreUnusable(f"{path} cannot be created: {reason}") from None


def _reads(row: list[str]) -> bool:
    return len(row) == 3 and row[2].isdigit()


def _number(error: lmdb.Error) -> int | None:
    """The number of the system's error, None where it is one of LMDB's own."""
    number: int | None = getattr(error, "code", None)
    if number is not None:
        return number
    # Older versions of the binding give strerror's text only.
    text = str(error)
    for number in _NOTEWORTHY:
        if os.strerror(number) in text:
            return number
    return None


class _View:
    def __init__(self, transaction: lmdb.Transaction[Any], generation: int) -> None:
        self._transaction = transaction
        self._generation = generation

    @property
    def version(self) -> int:
        """The number of the commit that is seen, or of the batch's own."""
        return self._generation << _GENERATION_BITS | self._transaction.id()

    def get(self, key: bytes) -> Buffer | None:
        """The value of a key."""
        try:
            value: Buffer | None = self._transaction.get(key)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error
        return value

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from ``first`` up to ``stop``."""
        try:
            with self._transaction.cursor() as cursor:
                if cursor.set_range(first):
                    yield from _until(cursor, stop)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """The pairs from the greatest key that is not behind ``first``."""
        try:
            with self._transaction.cursor() as cursor:
                found = cursor.set_range(first)
                if not found or bytes(cursor.key()) != first:
                    stepped = cursor.prev() if found else cursor.last()
                    if not (stepped and bytes(cursor.key()) >= lowest) and not (
                        found and cursor.set_range(first)
                    ):
                        return
                yield from _until(cursor, stop)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error


def _until(cursor: lmdb.Cursor[Any], stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
    for raw, value in cursor.iternext():
        key = bytes(raw)
        if key >= stop:
            return
        yield key, value


class LMDBSnapshot(_View):
    """The map as one commit left it."""


class _WriteBatch(_View):
    def __init__(
        self, engine: LMDBEngine, transaction: lmdb.Transaction[Any], generation: int
    ) -> None:
        super().__init__(transaction, generation)
        self._engine = engine
        self._ended = False

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value."""
        try:
            self._transaction.put(key, value)
        except lmdb.Error as error:
            raise self._engine.failure(error) from error

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        try:
            self._transaction.delete(key)
        except lmdb.Error as error:
            raise self._engine.failure(error) from error

    def commit(self) -> int:
        """Make the batch durable."""
        version = self.version
        self._ended = True
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise self._engine.commit_failed(error) from error
        return version

    def abort(self) -> None:
        """Drop the batch, unless its commit has ended it already."""
        if not self._ended:
            self._ended = True
            self._transaction.abort()
