"""Key-value engine on LMDB.

Fixed choices:

- The environment is opened with its full address space and never grown: growing it breaks every
  open transaction of the process.
- Commits are synchronous, the meta page included, and pages are not written through the memory map:
  otherwise a power cut loses acknowledged commits, and a full disk raises SIGBUS.
- There is one database: a batch then rewrites the page path of one tree, not one for each table.
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
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable
from durable_streams_tw.storage.files import DATA_FILE, DRAFT, LOCK_FILE, open_file
from durable_streams_tw.storage.limits import READ_THREADS

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KNOWN_ERRORS: Final = (*_NO_SPACE, errno.EIO)

# 64 bytes for each reader slot, and one page for the header.
_LOCK_SIZE: Final = MAX_READERS * 64 + 4096

# A file system with fewer free bytes counts as full.
_MIN_FREE: Final = 1 << 20

# Low bits of a version: LMDB's transaction number. The bits above count reopenings and failures.
_GENERATION_BITS: Final = 48


class LMDBEngine:
    """Key-value engine over the LMDB environment of a data directory, created if missing.

    After a commit that fails in its meta page, LMDB refuses all transactions. The engine then
    closes the environment and opens it again: at once if the disk allows it, otherwise in the next
    snapshot or batch. Until one of them succeeds, each raises `EngineFailed`.

    Raises `StoreUnusable` if the environment cannot be opened.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        if not os.path.lexists(os.path.join(directory, DATA_FILE)):
            _create(directory)
        # Number of failures after which versions seen before are not to be trusted.
        self._generation = 0
        # Number of open snapshots. Closing the environment under one would crash the process.
        self._snapshots = 0
        self._reopening = False
        self._changed = Condition()
        # None after a failed attempt to reopen the environment, until one succeeds.
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
                # Restore the full length, so that the next start does not check all pages again.
                os.truncate(data_file, expected)
            environment.reader_check()
            # A killed process may have left its last commit in the page cache only: flush it before
            # new commits build on it.
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
        """Return a snapshot of the last commit; its values point into mapped memory.

        Raises `EngineFailed`.
        """
        environment, generation = self._acquire()
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
            self._release()

    @contextmanager
    def _acquired(self) -> Iterator[lmdb.Environment]:
        """Keep the environment open inside the context. Raises `EngineFailed`."""
        environment, _ = self._acquire()
        try:
            yield environment
        except (lmdb.Error, OSError) as error:
            raise EngineFailed(str(error)) from error
        finally:
            self._release()

    def _acquire(self) -> tuple[lmdb.Environment, int]:
        """Return the environment and its generation; it stays open until `_release`.

        Raises `EngineFailed`.
        """
        with self._changed:
            environment = self._require_environment()
            self._snapshots += 1
            return environment, self._generation

    def _release(self) -> None:
        with self._changed:
            self._snapshots -= 1
            self._changed.notify_all()

    def _require_environment(self) -> lmdb.Environment:
        """Return the environment, reopened if it is closed. Call with ``_changed`` held.

        Raises `EngineFailed`.
        """
        while self._reopening:
            self._changed.wait()
        if self._environment is None:
            try:
                self._environment = self._open()
            except StoreUnusable as error:
                raise EngineFailed(str(error)) from error
            self._generation += 1
        return self._environment

    @property
    def min_version(self) -> int:
        """Return a number below the versions of all later snapshots."""
        return self._generation << _GENERATION_BITS

    def begin(self) -> _WriteBatch:
        """Begin a batch. Raises `EngineFailed`."""
        with self._changed:
            environment = self._require_environment()
        try:
            try:
                transaction = environment.begin(write=True)
            except lmdb.PanicError:
                transaction = self._reopen().begin(write=True)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error
        return _WriteBatch(self, transaction, self._generation)

    def _reopen(self) -> lmdb.Environment:
        """Close the environment once all open snapshots have ended, and open it again.

        Raises `EngineFailed`; the environment then stays closed.
        """
        with self._changed:
            self._reopening = True
            try:
                self._changed.wait_for(lambda: not self._snapshots)
                if self._environment is not None:
                    self._environment.close()
                    self._environment = None
            finally:
                self._reopening = False
                self._changed.notify_all()
            return self._require_environment()

    def commit_failed(self, error: lmdb.Error) -> EngineFull | EngineFailed:
        """Return the exception for a failed commit, and reopen the environment if it is broken.

        Only a failure of the meta page, which a commit writes last, breaks the environment, and
        only then is the outcome unknown.
        """
        translated = self.translate(error)
        with self._changed:
            self._generation += 1
            environment = self._require_environment()
        try:
            environment.begin(write=True).abort()
        except lmdb.Error:
            translated = EngineFailed(str(error))
            try:
                self._reopen()
            except EngineFailed as second:
                # The next snapshot or batch tries again.
                translated = EngineFailed(f"{error}; reopening the LMDB environment: {second}")
        return translated

    def translate(self, error: lmdb.Error) -> EngineFull | EngineFailed:
        """Return the exception for an LMDB error in a batch."""
        if isinstance(error, lmdb.MapFullError):
            return EngineFull("the LMDB environment is full")
        # LMDB reports a full disk as ENOSPC, or after a short write as EIO.
        number = _number(error)
        if number in _NO_SPACE or (number == errno.EIO and not self._can_grow()):
            return EngineFull(f"the disk is full ({error})")
        return EngineFailed(str(error))

    def _can_grow(self) -> bool:
        """Return whether the file system, quotas and limits let the data file grow."""
        try:
            with open(os.path.join(self._directory, DATA_FILE), "r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.write(b"\x00")
                file.truncate(end)
            return self.free_disk_bytes() >= _MIN_FREE
        except OSError as error:
            return error.errno not in _NO_SPACE
        except EngineFailed:
            return True

    def has_space(self, reserve: int) -> bool:
        """Return whether the file system and the free pages of the file have ``reserve`` bytes.

        Raises `EngineFailed`.
        """
        free = self.free_disk_bytes()
        if free >= reserve:
            return True
        info, stat = self._statistics()
        spare = int(info["last_pgno"]) + 1 - used_pages(stat)
        return free + max(0, spare) * int(stat["psize"]) >= reserve

    def free_disk_bytes(self) -> int:
        """Return the free bytes of the file system. Raises `EngineFailed`."""
        status = self._statvfs()
        return status.f_bavail * status.f_frsize

    def total_disk_bytes(self) -> int:
        """Return the size of the file system in bytes. Raises `EngineFailed`."""
        status = self._statvfs()
        return status.f_blocks * status.f_frsize

    def _statvfs(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._directory)
        except OSError as error:
            raise EngineFailed(str(error)) from error

    def used_bytes(self) -> int:
        """Return the size of the pages in use, in bytes. Raises `EngineFailed`."""
        _, stat = self._statistics()
        return used_pages(stat) * int(stat["psize"])

    def _statistics(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return LMDB's statistics of the environment and of its tree. Raises `EngineFailed`."""
        with self._acquired() as environment:
            return environment.info(), environment.stat()

    def stats(self) -> tuple[int, int, int, int, int, int]:
        """Return six figures of the environment, in the order of `StoreStats`.

        Bytes in use, address space, file size and free bytes of the file system; the number of
        open snapshots, and by how many commits the oldest of them is outdated. Raises
        `EngineFailed`. Blocks: not for the reactor thread.
        """
        with self._acquired() as environment:
            info, stat, table = environment.info(), environment.stat(), environment.readers()
            file_size = os.stat(os.path.join(self._directory, DATA_FILE)).st_size
            # Each row has process, thread and transaction of a reader; idle slots have no number.
            rows = map(str.split, table.splitlines()[1:])
            seen = [int(row[2]) for row in rows if _is_active(row)]
        used = used_pages(stat) * int(stat["psize"])
        lag = max(0, int(info["last_txnid"]) - min(seen, default=int(info["last_txnid"])))
        free = self.free_disk_bytes()
        return used, int(info["map_size"]), file_size, free, len(seen), lag

    def check_readers(self) -> None:
        """Free the reader slots of processes that died. Raises `EngineFailed`."""
        with self._acquired() as environment:
            environment.reader_check()

    def close(self) -> None:
        """Close the environment."""
        if self._environment is not None:
            self._environment.close()


def open_environment(path: str, where: str, **options: Any) -> lmdb.Environment:
    """Open an LMDB environment with at most `MAP_SIZE` bytes of address space, less if needed.

    ``where`` names it in messages. Raises `StoreUnusable`.
    """
    size = MAP_SIZE
    while True:
        try:
            return lmdb.open(path, map_size=size, max_dbs=0, max_readers=MAX_READERS, **options)
        except (MemoryError, lmdb.MemoryError) as error:
            size //= 2
            if size < 1 << 30:
                raise StoreUnusable(f"not enough address space for {where}: {error}") from None
        except lmdb.InvalidError:
            raise StoreUnusable(f"{where} is not an LMDB database") from None
        except (lmdb.Error, OSError) as error:
            raise StoreUnusable(f"{where} cannot be opened: {error}") from None


def used_pages(stat: Mapping[str, Any]) -> int:
    """Return the number of pages in use, from statistics of an environment or transaction."""
    return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def refuse_empty(data_file: str) -> None:
    """Raise `StoreUnusable` if a data file is missing or empty: LMDB would create a new one."""
    with store_unusable(f"{data_file} cannot be opened"):
        if not os.stat(data_file).st_size:
            raise StoreUnusable(f"{data_file} is empty: it was truncated")


def check_size(environment: lmdb.Environment, data_file: str) -> int:
    """Check that a data file has all pages in use, and return its full length in bytes.

    Reading a mapped page beyond the end of the file kills the process. LMDB never writes pages that
    a commit allocated at the end and freed again, so a shorter file may be complete: then walk all
    pages to decide. Raises `StoreUnusable` if the file was truncated, and `lmdb.Error` and
    `OSError`.
    """
    # The open snapshot keeps a server in another process from reusing its pages.
    with environment.begin() as snapshot:
        expected: int = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        size = os.stat(data_file).st_size
        if size < expected:
            try:
                needed = used_end(data_file, snapshot.id())
            except DamagedPages as damaged:
                raise StoreUnusable(f"{data_file} is damaged: {damaged}") from None
            if size < needed:
                raise StoreUnusable(f"{data_file} has {size} bytes of {needed}: it was truncated")
    return expected


def allocate_lock_file(directory: str) -> None:
    """Write all blocks of the lock file of a directory's environment.

    LMDB creates it sparse and writes to it through mapped memory: an unallocated page on a full
    disk would kill the process. Raises `StoreUnusable`.
    """
    path = os.path.join(directory, LOCK_FILE)
    with store_unusable(f"{path} cannot be written"), open(path, "ab", opener=open_file) as file:
        file.write(bytes(max(0, _LOCK_SIZE - file.tell())))


def _create(directory: str) -> None:
    """Create an empty data file, atomically. Raises `StoreUnusable`."""
    path = os.path.join(directory, DATA_FILE)
    draft = path + DRAFT
    with store_unusable(f"{path} cannot be created", lmdb.Error):
        with suppress(FileNotFoundError):
            os.unlink(draft)
        # LMDB would follow a symbolic link. It accepts an empty file as a new database.
        os.close(open_file(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        environment = open_environment(draft, directory, subdir=False, lock=False)
        try:
            environment.sync(True)
        finally:
            environment.close()
        # The caller flushes the directory before the first write is acknowledged.
        os.rename(draft, path)


def _is_active(row: list[str]) -> bool:
    return len(row) == 3 and row[2].isdigit()


def _number(error: lmdb.Error) -> int | None:
    """Return the errno of an error, or None if the error is LMDB's own."""
    number: int | None = getattr(error, "code", None)
    if number is not None:
        return number
    # Older versions of the binding have the text of strerror only.
    text = str(error)
    for number in _KNOWN_ERRORS:
        if os.strerror(number) in text:
            return number
    return None


class _View:
    def __init__(self, transaction: lmdb.Transaction[Any], generation: int) -> None:
        self._transaction = transaction
        self._generation = generation

    @property
    def version(self) -> int:
        """Return the number of the snapshot's commit, or of the batch."""
        return self._generation << _GENERATION_BITS | self._transaction.id()

    def get(self, key: bytes) -> Buffer | None:
        """Return the value of a key, or None. Raises `EngineFailed`."""
        try:
            value: Buffer | None = self._transaction.get(key)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error
        return value

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs with ``first <= key < stop``. Raises `EngineFailed`."""
        try:
            with self._transaction.cursor() as cursor:
                if cursor.set_range(first):
                    yield from _until(cursor, stop)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs from the greatest key in ``[lowest, first]``. Raises `EngineFailed`."""
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
    """Read transaction on one commit."""


class _WriteBatch(_View):
    def __init__(
        self, engine: LMDBEngine, transaction: lmdb.Transaction[Any], generation: int
    ) -> None:
        super().__init__(transaction, generation)
        self._engine = engine
        self._ended = False

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key. Raises `EngineFull` or `EngineFailed`."""
        try:
            self._transaction.put(key, value)
        except lmdb.Error as error:
            raise self._engine.translate(error) from error

    def delete(self, key: bytes) -> None:
        """Remove a key, if it exists. Raises `EngineFull` or `EngineFailed`."""
        try:
            self._transaction.delete(key)
        except lmdb.Error as error:
            raise self._engine.translate(error) from error

    def commit(self) -> int:
        """Make the batch durable and return its number. Raises `EngineFull` or `EngineFailed`."""
        version = self.version
        self._ended = True
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise self._engine.commit_failed(error) from error
        return version

    def abort(self) -> None:
        """Discard the batch, unless it was committed."""
        if not self._ended:
            self._ended = True
            self._transaction.abort()
