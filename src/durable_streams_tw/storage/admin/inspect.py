"""A store that is only looked at, beside the server that owns it.

LMDB lets other processes read: a snapshot is one commit, whole, however long it is looked at,
and neither side waits for the other. What that costs: the pages of that commit are not used
again while it is open, so a busy store grows meanwhile. A process that dies leaves a slot in
the table of readers, which the server frees within a minute.
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
from durable_streams_tw.storage.engine.wal.checkpoint import (
    CheckpointRecord,
    read_checkpoint_record,
    unapplied_entries,
)
from durable_streams_tw.storage.engine.wal.files import analyze, read_wal
from durable_streams_tw.storage.engine.wal.format import Entry
from durable_streams_tw.storage.engine.wal.memtable import MergedSnapshot, memtable_of
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, LOCK_FILE

CHANGING: Final = "the disk is full, and the store is changing: try again"
"""Why a store cannot be seen whole at this moment."""

_PIECE: Final = 1 << 20
_ATTEMPTS: Final = 20


class StoreUsage(Struct, frozen=True):
    """What a store takes, in bytes where nothing else is said.

    ``used`` is in pages that hold pairs, ``free`` in pages inside the file that wait to be
    used again; ``entries`` counts pairs, ``commit`` is the number of the last one. ``readers``
    counts the slots of readers in all processes.
    """

    file: int
    used: int
    free: int
    map: int
    entries: int
    commit: int
    readers: int


class Inspection:
    """The store in a directory, or, with ``alone``, in a data file that nobody else knows of.

    ``journal`` is where the journal of such a file lies, None where it has none. With
    ``tolerant`` batches that a damaged journal has lost are left out. Use it as a context
    manager. Raises `StoreUnusable` if there is no store.
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
            try:
                check_size(self._environment, self._data)
            except (lmdb.Error, OSError) as error:
                raise StoreUnusable(f"{self._path} cannot be read: {error}") from None
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
        """The store as the last commit left it. Raises `EngineFailed`."""
        for _ in range(_ATTEMPTS):
            # The journal first: what leaves it in between is in the map by then.
            journaled = self.wal_entries()
            with self._lmdb_snapshot() as view:
                mark = self._mark(view)
                left = [] if mark is None else self.unapplied(mark, journaled)
                if left:
                    last = left[-1].number
                    yield MergedSnapshot([memtable_of(left).as_of(last)], view, last)
                    return
                # Otherwise the map has parts of batches that have come since.
                if left is not None:
                    yield view
                    return
        raise EngineFailed(CHANGING)

    def unapplied(self, mark: CheckpointRecord, journaled: Sequence[Entry]) -> list[Entry] | None:
        """Return the entries that a map with a mark lacks, in order.

        ``journaled`` are the entries that were read before the map. Return None if the map has
        parts of batches that the journal does not have any more, since the store's own map has
        moved on. Raises `EngineFailed` if batches are lost, unless the inspection is tolerant.
        """
        left = unapplied_entries(mark, journaled)
        if left is not None or self._wal is None:
            return left
        known = {entry.number: entry for entry in (*journaled, *self.wal_entries())}
        left = unapplied_entries(mark, known.values())
        if left is not None:
            return left
        try:
            found = analyze(self._wal, mark)
        except StoreUnusable as unusable:
            raise EngineFailed(str(unusable)) from None
        with self._lmdb_snapshot() as view:
            # A file of the journal is written again only after the mark has passed its entries.
            if self._mark(view) != mark:
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

    # -- the journal --------------------------------------------------------------------------

    def wal_entries(self) -> list[Entry]:
        """What the journal has at this moment; the map may have it too. Raises `StoreUnusable`
        and `EngineFailed`."""
        if self._wal is None:
            return []
        with self._lmdb_snapshot() as view:
            mark = self._mark(view)
        return [] if mark is None else read_wal(self._wal, mark.wal_id)

    def wal_findings(self) -> list[Finding]:
        """What is wrong with the journal; nothing is found while a server is writing it.

        Raises `StoreUnusable`.
        """
        if self._wal is None or not (self._alone or owner(self._path) is None):
            return []
        try:
            with self._lmdb_snapshot() as view:
                mark = self._mark(view)
            sentences = [] if mark is None else analyze(self._wal, mark).findings
        except EngineFailed as failure:
            raise StoreUnusable(f"{self._path} cannot be read: {failure}") from None
        return [Finding(Flaw.JOURNAL, b"", sentence) for sentence in sentences]

    def _mark(self, view: View) -> CheckpointRecord | None:
        """How far the map is; None where it never had a journal, or does not tell."""
        with suppress(CorruptRecord):
            return read_checkpoint_record(view)
        return None

    # -- figures and copies -------------------------------------------------------------------

    def usage(self) -> StoreUsage:
        """How large it is. Raises `StoreUnusable`."""
        try:
            info, found = self._environment.info(), self._environment.stat()
            size = os.stat(self._data).st_size
        except (lmdb.Error, OSError) as error:
            raise StoreUnusable(f"{self._path} cannot be read: {error}") from None
        page = int(found["psize"])
        used = used_pages(found)
        # Two pages say where all others are.
        free = max(0, int(info["last_pgno"]) - 1 - used)
        return StoreUsage(
            file=size,
            used=used * page,
            free=free * page,
            map=int(info["map_size"]),
            entries=int(found["entries"]),
            commit=int(info["last_txnid"]),
            readers=int(info["num_readers"]),
        )

    def copy(self, write: Callable[[bytes], None]) -> None:
        """Hand out a data file with what the last commit left, and no page that is free.

        Raises `LeakedPages` where LMDB cannot tell which those are, after all has been handed
        out: `copy_all_pages` can still be had. Raises `StoreUnusable` where the copy fails.
        """
        self._copy(write, compact=True)

    def copy_all_pages(self, write: Callable[[bytes], None]) -> None:
        """The same with all pages. Raises `StoreUnusable`."""
        self._copy(write, compact=False)

    def _copy(self, write: Callable[[bytes], None], compact: bool) -> None:
        # LMDB writes into a pipe, so that whoever interrupts us ends the copy too.
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


class LeakedPages(Exception):
    """A store has pages that are neither used nor known to be free."""


def match_owner(path: str, like: str) -> None:
    """Let a file belong to whoever ``like`` belongs to, if it is root who asks: a server that
    runs as somebody else has to be able to open what root has made beside its files.

    Raises `StoreUnusable`.
    """
    try:
        if os.geteuid() == 0:
            model = os.stat(like)
            made = os.lstat(path)
            if (made.st_uid, made.st_gid) != (model.st_uid, model.st_gid):
                # A link in place of the file must not have another one given away.
                os.chown(path, model.st_uid, model.st_gid, follow_symlinks=False)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be given to its owner: {error.strerror}") from None
