"""Read access to the store in a data directory, also while a server uses it.

LMDB lets other processes read one commit for as long as they like, without locks. The pages of that
commit are not reused meanwhile, so a busy store grows. A process that dies leaves a reader slot,
which the server frees within a minute.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from typing import Any, Final

import lmdb
from msgspec import Struct

from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw
from durable_streams_tw.storage.data_dir import owner, shared_hold
from durable_streams_tw.storage.engine.kv import EngineFailed, Snapshot, View
from durable_streams_tw.storage.engine.lmdb import (
    LMDBSnapshot,
    allocate_lock_file,
    check_size,
    open_environment,
    refuse_empty,
    used_pages,
)
from durable_streams_tw.storage.engine.wal import checkpoint
from durable_streams_tw.storage.engine.wal.files import analyze, read_wal
from durable_streams_tw.storage.engine.wal.format import Entry
from durable_streams_tw.storage.engine.wal.memtable import MergedSnapshot, memtable_of
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable, store_unusable
from durable_streams_tw.storage.files import DATA_FILE, LOCK_FILE

CHANGING: Final = "the disk is full, and the store is changing: try again"
"""Message when no consistent snapshot can be read at the moment."""

_PIECE: Final = 1 << 20
_ATTEMPTS: Final = 20


class LeakedPages(Exception):
    """Pages of a store that are neither in use nor in LMDB's list of free pages."""


class StoreUsage(Struct, frozen=True):
    """Disk usage of a store, in bytes unless noted.

    ``file`` is the size of the data file, ``used`` that of pages in use, ``free`` that of free
    pages in the file, ``map_size`` LMDB's map size. ``entries`` is the number of pairs, ``commit``
    the number of the last commit, ``readers`` the number of reader slots of all processes.
    """

    file: int
    used: int
    free: int
    map_size: int
    entries: int
    commit: int
    readers: int


class Inspection:
    """Context manager that opens a store for reading.

    ``path`` is a data directory or, with ``alone``, a data file that no other process uses. ``wal``
    is the directory of the WAL of such a file, None if it has none. With ``tolerant``, snapshots
    leave out batches that a damaged WAL has lost. Raises `StoreUnusable` if there is no store.
    """

    def __init__(
        self,
        path: str,
        *,
        alone: bool = False,
        wal: str | None = None,
        tolerant: bool = False,
    ) -> None:
        self._path = path
        self._alone = alone
        self._tolerant = tolerant
        self._wal = wal if alone else path
        self._data = path if alone else os.path.join(path, DATA_FILE)
        self._holds = ExitStack()

    def __enter__(self) -> Inspection:
        if not os.path.exists(self._data):
            raise StoreUnusable(f"there is no store in {self._path}")
        refuse_empty(self._data)
        with self._holds:
            self._environment = self._open()
            self._holds.callback(self._environment.close)
            with store_unusable(f"{self._path} cannot be read", lmdb.Error):
                check_size(self._environment, self._data)
            self._holds = self._holds.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._holds.close()

    def _open(self) -> lmdb.Environment:
        options: dict[str, Any] = {"readonly": True, "create": False, "subdir": not self._alone}
        if self._alone:
            return open_environment(self._path, self._path, lock=False, **options)
        self._holds.enter_context(shared_hold(self._path))
        if os.access(self._path, os.W_OK):
            allocate_lock_file(self._path)
            match_owner(os.path.join(self._path, LOCK_FILE), self._data)
        return open_environment(self._path, self._path, **options)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Return a snapshot of the last batch. Raises `EngineFailed`."""
        for _ in range(_ATTEMPTS):
            # Read the WAL before LMDB: entries that leave it in between are in LMDB by then.
            entries = self.wal_entries()
            with self._lmdb_snapshot() as view:
                record = self._record(view)
                unapplied = [] if record is None else self.unapplied(record, entries)
                if unapplied:
                    last = unapplied[-1].number
                    yield MergedSnapshot([memtable_of(unapplied).as_of(last)], view, last)
                    return
                # With None, LMDB has parts of batches committed since the WAL was read: try again.
                if unapplied is not None:
                    yield view
                    return
        raise EngineFailed(CHANGING)

    def unapplied(
        self, record: checkpoint.CheckpointRecord, entries: Sequence[Entry]
    ) -> list[Entry] | None:
        """Return the WAL entries that an LMDB snapshot with a checkpoint record lacks, in order.

        ``entries`` are the WAL entries read before the snapshot. Return None if the snapshot has
        parts of batches that are no longer in the WAL, as the store has moved on. Raises
        `EngineFailed` if batches are lost, unless the inspection is tolerant.
        """
        unapplied = checkpoint.unapplied_entries(record, entries)
        if unapplied is not None or self._wal is None:
            return unapplied
        known = {entry.number: entry for entry in (*entries, *self.wal_entries())}
        unapplied = checkpoint.unapplied_entries(record, known.values())
        if unapplied is not None:
            return unapplied
        try:
            found = analyze(self._wal, record)
        except StoreUnusable as unusable:
            raise EngineFailed(str(unusable)) from None
        with self._lmdb_snapshot() as view:
            # A segment is overwritten only after the checkpoint record has passed its entries.
            if self._record(view) != record:
                return None
        if found.findings and not self._tolerant:
            raise EngineFailed(found.findings[0])
        return found.unapplied

    @contextmanager
    def _lmdb_snapshot(self) -> Iterator[LMDBSnapshot]:
        try:
            transaction = self._environment.begin(buffers=True)
        except lmdb.Error as error:
            raise EngineFailed(str(error)) from error
        try:
            yield LMDBSnapshot(transaction, 0)
        finally:
            transaction.abort()

    # -- write-ahead log ----------------------------------------------------------------------

    def wal_entries(self) -> list[Entry]:
        """Return the current entries of the WAL, applied ones included.

        Raises `StoreUnusable` and `EngineFailed`.
        """
        if self._wal is None:
            return []
        with self._lmdb_snapshot() as view:
            record = self._record(view)
        return [] if record is None else read_wal(self._wal, record.wal_id)

    def wal_findings(self) -> list[Finding]:
        """Return the flaws of the WAL, none while a server writes it. Raises `StoreUnusable`."""
        if self._wal is None or not (self._alone or owner(self._path) is None):
            return []
        with store_unusable(f"{self._path} cannot be read", EngineFailed):
            with self._lmdb_snapshot() as view:
                record = self._record(view)
            sentences = [] if record is None else analyze(self._wal, record).findings
        return [Finding(Flaw.WAL, b"", sentence) for sentence in sentences]

    def _record(self, view: View) -> checkpoint.CheckpointRecord | None:
        """Return the checkpoint record, None if there is none or it is corrupt."""
        with suppress(CorruptRecord):
            return checkpoint.read_checkpoint_record(view)
        return None

    # -- usage and copies ---------------------------------------------------------------------

    def usage(self) -> StoreUsage:
        """Return the disk usage. Raises `StoreUnusable`."""
        with store_unusable(f"{self._path} cannot be read", lmdb.Error):
            info, found = self._environment.info(), self._environment.stat()
            size = os.stat(self._data).st_size
        page = int(found["psize"])
        used = used_pages(found)
        # The two meta pages are neither used nor free.
        free = max(0, int(info["last_pgno"]) - 1 - used)
        return StoreUsage(
            file=size,
            used=used * page,
            free=free * page,
            map_size=int(info["map_size"]),
            entries=int(found["entries"]),
            commit=int(info["last_txnid"]),
            readers=int(info["num_readers"]),
        )

    def copy(self, write: Callable[[bytes], None], *, compact: bool) -> None:
        """Write a data file of the last commit in pieces, with ``compact`` without free pages.

        ``compact`` raises `LeakedPages`, after all pieces, if LMDB's list of free pages is
        incomplete. Raises `StoreUnusable` if the copy fails.
        """
        # LMDB writes into a pipe on a thread: an exception here closes the pipe and ends its copy.
        source, sink = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):
                fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIECE)
        failures: list[lmdb.Error] = []

        def run() -> None:
            try:
                self._environment.copyfd(sink, compact=compact)
            except lmdb.Error as error:
                failures.append(error)
            finally:
                os.close(sink)

        thread = Thread(target=run, name="copy")
        thread.start()
        try:
            while piece := os.read(source, _PIECE):
                write(piece)
        finally:
            os.close(source)
            thread.join()
        for failure in failures:
            if isinstance(failure, lmdb.IncompatibleError) and compact:
                raise LeakedPages(self._path)
            raise StoreUnusable(f"{self._path} cannot be copied: {failure}")


def match_owner(path: str, like: str) -> None:
    """Give a file that root created the owner of the file ``like``; do nothing for other users.

    Otherwise a server that runs as another user could not open it. Raises `StoreUnusable`.
    """
    if os.geteuid() == 0:
        with store_unusable(f"the owner of {path} cannot be changed"):
            model = os.stat(like)
            created = os.lstat(path)
            if (created.st_uid, created.st_gid) != (model.st_uid, model.st_gid):
                # Following a planted symbolic link would give away another file.
                os.chown(path, model.st_uid, model.st_gid, follow_symlinks=False)
