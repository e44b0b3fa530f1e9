"""Key-value engine that commits to a write-ahead log first, and to LMDB at checkpoints.

A batch is durable when the WAL contains it: one write and one flush. It is then added to a
memtable, which snapshots read over LMDB. A few times a second a checkpoint applies the memtable to
LMDB in one commit; then its WAL segment can be reused.

A batch is committed to LMDB directly if it is too large for the WAL, or while the WAL cannot be
written. A checkpoint precedes it, so batches stay in order.

Three kinds of threads call the engine: one that commits batches, one that runs checkpoints, and
readers. ``_commit_lock`` is held while a batch becomes durable, ``_checkpoint_lock`` while
memtables are applied to LMDB; acquire them in this order. ``_visible_lock`` protects what snapshots
see, and is held briefly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Final, Protocol

from twisted.logger import Logger

from durable_streams_tw.storage.engine import codec, kv
from durable_streams_tw.storage.engine.limits import MAX_WAL_ENTRY
from durable_streams_tw.storage.engine.wal import checkpoint, memtable
from durable_streams_tw.storage.engine.wal.files import WriteAheadLog, analyze, sync_segments
from durable_streams_tw.storage.engine.wal.format import Pairs, pack_entry
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import SEGMENT_FILES

# Low bits of a version: the batch number. The bits above count failed commits.
_GENERATION_BITS: Final = 48

# Page bytes that a checkpoint may need for each memtable byte, path pages included.
_GROWTH: Final = 2


class ReaderTableEngine(kv.KeyValueEngine, Protocol):
    """Key-value engine with a table of reader slots that processes share."""

    def check_readers(self) -> None:
        """Free the reader slots of processes that died. Raises `EngineFailed`."""


class WALEngine:
    """Key-value engine with a write-ahead log in a directory, over an LMDB engine.

    ``size`` is the size of each WAL segment in bytes. On creation, batches that a crash left in the
    WAL are recovered; raises `StoreUnusable` if the WAL is damaged or belongs to another store.

    ``on_checkpoint_due`` is called on the committer thread when `checkpoint` should run: soon, or
    at once if its argument is True.
    """

    _log = Logger()

    def __init__(self, directory: str, lmdb_engine: ReaderTableEngine, size: int) -> None:
        self.on_checkpoint_due: Callable[[bool], None] = lambda _: None
        self._directory = directory
        self._lmdb = lmdb_engine
        self._size = size
        # Larger batches are committed to LMDB directly.
        self._max_entry = min(MAX_WAL_ENTRY, size // 8)
        self._commit_lock, self._checkpoint_lock, self._visible_lock = Lock(), Lock(), Lock()
        # The memtable of new batches, and the one that the current checkpoint applies.
        self._active = memtable.Memtable()
        self._frozen: memtable.Memtable | None = None
        self._frozen_until = 0
        self._wal: WriteAheadLog | None = None
        # Number of a batch whose outcome is unknown.
        self._unknown_batch: int | None = None
        self._generation = 0
        # Whether the last checkpoint found the disk full.
        self._disk_full = False
        # Error of the last checkpoint, None if it succeeded.
        self._checkpoint_error: str | None = None
        # Error of the WAL that was logged last, None while it works.
        self._wal_error: str | None = None
        # Whether commits may have freed pages that LMDB cannot reuse yet.
        self._has_freed_pages = True
        self._record = self._load_record()
        self._number = self._record.applied
        self._recover()
        self._open_wal()

    # -- open and close -----------------------------------------------------------------------

    def _load_record(self) -> checkpoint.CheckpointRecord:
        try:
            with self._lmdb.snapshot() as view:
                record = checkpoint.read_checkpoint_record(view)
            if record is None:
                record = checkpoint.new_checkpoint_record()
                value = checkpoint.pack_checkpoint_record(record)
                checkpoint.commit_changes(self._lmdb, [(codec.CHECKPOINT_KEY, value)])
        except (CorruptRecord, kv.EngineFailed, kv.EngineFull) as failure:
            raise StoreUnusable(f"{self._directory} cannot be used: {failure}") from None
        return record

    def _recover(self) -> None:
        """Apply the batches that a crash left in the WAL. Raises `StoreUnusable`."""
        sync_segments(self._directory)
        found = analyze(self._directory, self._record)
        if found.findings:
            raise StoreUnusable(f"{found.findings[0]}: {self._loss_advice()}")
        if found.last == self._record.applied:
            return
        self._frozen = memtable.memtable_of(found.unapplied)
        self._number = self._frozen_until = found.last
        try:
            self._checkpoint_frozen()
        except (kv.EngineFailed, kv.EngineFull) as failure:
            # The batches stay in the WAL; snapshots read them from the memtable.
            self._log.error("The WAL cannot be applied yet: {reason}", reason=failure)
        else:
            self._log.info("Recovered {count} batches from the WAL", count=len(found.unapplied))

    def _loss_advice(self) -> str:
        """Return the consequence of a damaged WAL, and what the operator can do."""
        lost = "acknowledged writes are lost. "
        if self._record.begun > self._record.applied:
            return (
                f"{lost}A checkpoint is half applied, so the store cannot be used without the WAL. "
                "Restore a backup; or save what is left with `backup --even-flawed`, and restore "
                "that"
            )
        return (
            f"{lost}To continue without them, move the WAL ({' and '.join(SEGMENT_FILES)}) out "
            f"of {self._directory}"
        )

    def _open_wal(self) -> None:
        """Open the WAL, unless it has batches that are not applied yet."""
        if self._wal is not None or self._frozen is not None or len(self._active):
            return
        try:
            self._wal = WriteAheadLog(self._directory, self._record.wal_id, self._size)
        except (OSError, StoreUnusable) as error:
            if self._wal_error != str(error):
                self._wal_error = str(error)
                self._log.warn(
                    "The WAL cannot be opened, so writes are slower: {reason}", reason=error
                )
            return
        if self._wal_error is not None:
            self._wal_error = None
            self._log.info("The WAL is open again")

    def close(self) -> None:
        """Close the WAL and LMDB. Batches that are not applied stay in the WAL."""
        if self._wal is not None:
            self._wal.close()
        self._lmdb.close()

    # -- reads --------------------------------------------------------------------------------

    @property
    def min_version(self) -> int:
        """Return a number below the versions of all later snapshots."""
        return self._generation << _GENERATION_BITS

    @contextmanager
    def snapshot(self) -> Iterator[kv.Snapshot]:
        """Return a snapshot of the last batch. Raises `EngineFailed`."""
        with ExitStack() as held:
            with self._visible_lock:
                # Open LMDB's snapshot first: a checkpoint drops the memtable only under this lock.
                view = held.enter_context(self._lmdb.snapshot())
                version = self.min_version | self._number
                overlays = self._overlays()
            yield memtable.MergedSnapshot(overlays, view, version)

    def _overlays(self) -> list[memtable.Overlay]:
        overlays = [] if self._frozen is None else [self._frozen.as_of(self._number)]
        return [self._active.as_of(self._number), *overlays] if len(self._active) else overlays

    def has_space(self, reserve: int) -> bool:
        """Return whether ``reserve`` bytes can be written in addition to the next checkpoint."""
        return not self._disk_full and self._lmdb.has_space(
            reserve + _GROWTH * self.memtable_bytes()
        )

    def used_bytes(self) -> int:
        """Return the approximate size of all stored pairs in bytes. Raises `EngineFailed`."""
        return self._lmdb.used_bytes() + self.memtable_bytes()

    def memtable_bytes(self) -> int:
        """Return the size of the pairs that are in the WAL and not in LMDB, in bytes."""
        frozen = self._frozen
        return self._active.size + (0 if frozen is None else frozen.size)

    def obstacle(self) -> str | None:
        """Return why the engine cannot be read or checkpointed, None if it can.

        Blocks: not for the reactor thread.
        """
        try:
            with self.snapshot():
                return self._checkpoint_error
        except kv.EngineFailed as failure:
            return str(failure)

    # -- batches ------------------------------------------------------------------------------

    def begin(self) -> _Batch:
        """Begin a batch. Raises `EngineFailed`.

        First resolve a batch of unknown outcome, and switch segments if the current one is full.
        """
        wal = self._wal
        if self._unknown_batch is not None or (
            wal is not None and wal.free_bytes < self._max_entry
        ):
            with self._commit_lock:
                try:
                    self._prepare()
                except kv.EngineFull as failure:
                    raise kv.EngineFailed(str(failure)) from failure
        with self._visible_lock:
            overlays = self._overlays()
        return _Batch(self._lmdb, overlays, self._commit)

    def _prepare(self) -> None:
        if self._unknown_batch is not None:
            with self._checkpoint_lock:
                self._resolve_unknown(self._unknown_batch)
            self._unknown_batch = None
        wal = self._wal
        if wal is None or wal.free_bytes >= self._max_entry:
            return
        if self._frozen is not None:
            # The segment filled before the checkpoint of the other ended: appends wait for it.
            with self._checkpoint_lock:
                if self._frozen is not None:
                    self._checkpoint_all(self._number)
        if len(self._active):
            self._freeze()
            self.on_checkpoint_due(True)

    def _commit(self, pairs: Pairs) -> int:
        with self._commit_lock:
            wal = self._wal
            # Do not encode a batch that is too large: copying it would hold the GIL, and block the
            # reactor.
            if wal is not None and _size_of(pairs) <= self._max_entry:
                entry = pack_entry(self._record.wal_id, self._number + 1, pairs)
                if len(entry) <= self._max_entry and self._append(wal, entry):
                    return self._add_to_memtable(pairs)
            with self._checkpoint_lock:
                return self._commit_directly(pairs)

    def _add_to_memtable(self, pairs: Pairs) -> int:
        first = not len(self._active)
        with self._visible_lock:
            self._number += 1
            self._active.add(self._number, pairs)
        if first:
            self.on_checkpoint_due(False)
        return self.min_version | self._number

    def _append(self, wal: WriteAheadLog, entry: bytes) -> bool:
        """Append an entry to the WAL. Return False if recovery will never apply the entry.

        Raises `EngineFailed` if its outcome is unknown.
        """
        try:
            wal.append(entry)
        except OSError as error:
            self._wal_error = error.strerror
            self._log.error("The WAL cannot be written: {reason}", reason=error.strerror)
            wal.close()
            self._wal = None
            self.on_checkpoint_due(False)
            with self._checkpoint_lock:
                self._resolve_unknown(self._number + 1)
            return False
        return True

    def _commit_directly(self, pairs: Pairs) -> int:
        self._checkpoint_all(self._number)
        number = self._number + 1
        value = checkpoint.pack_checkpoint_record(self._record.advanced_to(number))
        changes = [*sorted(pairs.items()), (codec.CHECKPOINT_KEY, value)]
        try:
            try:
                checkpoint.commit_changes(self._lmdb, changes)
            except kv.EngineFull:
                if not self._has_freed_pages:
                    raise
                self._has_freed_pages = False
                checkpoint.release_freed_pages(self._lmdb)
                checkpoint.commit_changes(self._lmdb, changes)
        except kv.EngineFailed:
            self._set_unknown(number)
            raise
        self._has_freed_pages = True
        self._drop_memtables(number)
        return self.min_version | number

    # -- batches of unknown outcome -----------------------------------------------------------

    def _set_unknown(self, number: int) -> None:
        with self._visible_lock:
            self._unknown_batch = number
            self._generation += 1

    def _resolve_unknown(self, number: int) -> None:
        """Resolve a batch whose outcome is unknown by a checkpoint that covers its number.

        If only the WAL contains the batch, recovery skips it. Raises `EngineFailed`.
        """
        try:
            self._checkpoint_all(number, always=True)
        except (kv.EngineFull, kv.EngineFailed) as failure:
            self._set_unknown(number)
            raise kv.EngineFailed(str(failure)) from failure

    # -- checkpoints --------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Apply all batches in the WAL to LMDB, and reopen a WAL that failed.

        Blocks: not for the reactor thread. Raises `EngineFull` and `EngineFailed`; the caller then
        tries again.
        """
        with self._checkpoint_lock:
            self._checkpoint_frozen()
        with self._commit_lock:
            if self._frozen is None and len(self._active):
                self._freeze()
        with self._checkpoint_lock:
            self._checkpoint_frozen()
        if self._wal is None:
            self._reopen_wal()

    def _reopen_wal(self) -> None:
        """Open a WAL that failed; if that is impossible, ask for another `checkpoint`."""
        with self._commit_lock, self._checkpoint_lock:
            # The old segments may contain a batch of unknown outcome.
            if self._unknown_batch is None:
                self._open_wal()
        if self._wal is None:
            self.on_checkpoint_due(False)

    def _freeze(self) -> None:
        """Freeze the active memtable for a checkpoint, and switch to the other segment."""
        with self._visible_lock:
            self._frozen, self._active = self._active, memtable.Memtable()
            self._frozen_until = self._number
        if self._wal is not None:
            self._wal.switch_segment()

    def _checkpoint_frozen(self) -> None:
        if self._frozen is not None:
            self._apply(self._frozen.pairs(), self._frozen_until)
            with self._visible_lock:
                self._frozen = None

    def _checkpoint_all(self, number: int, always: bool = False) -> None:
        """Apply both memtables, and record a batch number as applied.

        If there is nothing to apply, do nothing unless ``always``.
        """
        pairs = {} if self._frozen is None else self._frozen.pairs()
        pairs.update(self._active.pairs())
        if pairs or always:
            self._apply(pairs, number)
            self._drop_memtables(number)

    def _apply(self, pairs: Pairs, number: int) -> None:
        try:
            # A number above `_number` is that of a batch that recovery must skip.
            record = self._record.advanced_to(number)
            checkpoint.apply_checkpoint(self._lmdb, pairs, record, min(number, self._number))
        except (kv.EngineFull, kv.EngineFailed) as failure:
            self._disk_full = isinstance(failure, kv.EngineFull)
            self._checkpoint_error = str(failure)
            raise
        self._disk_full, self._has_freed_pages, self._checkpoint_error = False, True, None

    def _drop_memtables(self, number: int) -> None:
        """Drop the memtables after LMDB has all batches up to a number."""
        with self._visible_lock:
            self._frozen, self._active = None, memtable.Memtable()
            self._number = number
        if self._wal is not None:
            # The WAL may lack the last batch, and numbers in one segment must be consecutive.
            self._wal.switch_segment()

    def check_readers(self) -> None:
        """Free the reader slots of processes that died. Raises `EngineFailed`."""
        self._lmdb.check_readers()


def _size_of(pairs: Pairs) -> int:
    return sum([len(value) for value in pairs.values() if value is not None])


class _Batch(memtable.MergedView):
    """Batch over memtables and LMDB. A read opens an LMDB snapshot only when it needs one."""

    def __init__(
        self,
        lmdb_engine: kv.KeyValueEngine,
        overlays: list[memtable.Overlay],
        commit: Callable[[Pairs], int],
    ) -> None:
        self._changes = memtable.BatchPairs()
        super().__init__([self._changes, *overlays])
        self._lmdb = lmdb_engine
        self._commit = commit
        self._held = ExitStack()
        self._view: kv.View | None = None

    def _base(self) -> kv.View:
        if self._view is None:
            self._view = self._held.enter_context(self._lmdb.snapshot())
        return self._view

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self._changes.pairs[key] = value

    def delete(self, key: bytes) -> None:
        """Remove a key, if it exists."""
        self._changes.pairs[key] = None

    def commit(self) -> int:
        """Make the batch durable and return its number. Raises `EngineFull` and `EngineFailed`."""
        # Close the snapshot first: reopening LMDB after a failed commit waits for all snapshots.
        self.abort()
        return self._commit(self._changes.pairs)

    def abort(self) -> None:
        """Discard the batch and close its snapshot."""
        self._view = None
        self._held.close()
