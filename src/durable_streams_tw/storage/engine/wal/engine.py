"""A engine whose commits go to a journal first, and into the map behind it.

A batch is durable when the journal has it: one write and one flush. What is journaled lies over
the map as a layer, so everybody sees it at once. A few times a second the layer is folded into
the map, in one commit for all of its batches; then its file of the journal is free again.

A batch goes straight into the map where the journal has no use or no place for it: one so large
that its bytes are the cost, or any while the journal cannot be written. What was journaled
before is folded in first, so the order is kept.

At most three threads come here: one that makes batches, one that folds, and those that read.
``_writing`` is held while a batch becomes durable, ``_folding`` while a layer goes into the map,
always in this order; ``_seeing`` for a moment, where what is seen changes or is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Final, Protocol

from twisted.logger import Logger

from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import (
    EngineFailed,
    EngineFull,
    KeyValueEngine,
    Snapshot,
    View,
)
from durable_streams_tw.storage.engine.limits import MAX_WAL_ENTRY
from durable_streams_tw.storage.engine.wal.checkpoint import (
    CheckpointRecord,
    apply_checkpoint,
    commit_changes,
    new_checkpoint_record,
    pack_checkpoint_record,
    read_checkpoint_record,
    release_freed_pages,
)
from durable_streams_tw.storage.engine.wal.files import WriteAheadLog, analyze, sync_segments
from durable_streams_tw.storage.engine.wal.format import Pairs, pack_entry
from durable_streams_tw.storage.engine.wal.memtable import (
    BatchPairs,
    Memtable,
    MergedSnapshot,
    MergedView,
    Overlay,
    memtable_of,
)
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import SEGMENT_FILES

# A generation's versions lie above all those of the one before.
_GENERATION_BITS: Final = 48

# Pages that a folded byte may take: its own, and its part of the path that leads there.
_GROWTH: Final = 2


class ReaderTableEngine(KeyValueEngine, Protocol):
    """Keyspace with a table of readers in other processes."""

    def check_readers(self) -> None:
        """Free the slots of readers whose process died. Raises `EngineFailed`."""


class WALEngine:
    """The journal in a directory, over a map that is marked as one with a journal.

    ``size`` is what each of the journal's two files takes, in bytes. What a crash left in the
    journal is folded in. Raises `StoreUnusable` where that is damaged or another store's.

    ``due`` is called, in the thread that makes batches, when there is something to `fold` soon;
    with True, at once.
    """

    _log = Logger()

    def __init__(self, directory: str, lmdb_engine: ReaderTableEngine, size: int) -> None:
        self.on_checkpoint_due: Callable[[bool], None] = lambda _: None
        self._directory = directory
        self._lmdb = lmdb_engine
        self._size = size
        # Batches that are larger go straight into the map.
        self._largest = min(MAX_WAL_ENTRY, size // 8)
        self._writing, self._folding, self._seeing = Lock(), Lock(), Lock()
        # What the committer adds to, and what is on its way into the map.
        self._active = Memtable()
        self._frozen: Memtable | None = None
        self._frozen_until = 0
        self._journal: WriteAheadLog | None = None
        # The number of a batch of which it is not known whether it happened.
        self._doubtful: int | None = None
        self._generation = 0
        # Whether there was no room, when something was folded last.
        self._crammed = False
        # Why the journal could not be folded in last time, None if it could.
        self._not_folded: str | None = None
        # Why there is no journal, as it was logged last.
        self._no_journal: str | None = None
        # Whether commits may have freed pages that cannot be used yet.
        self._unripe = True
        self._mark = self._found_mark()
        self._number = self._mark.applied
        self._recover()
        self._open_journal()

    # -- life ---------------------------------------------------------------------------------

    def _found_mark(self) -> CheckpointRecord:
        try:
            with self._lmdb.snapshot() as view:
                mark = read_checkpoint_record(view)
            if mark is None:
                mark = new_checkpoint_record()
                commit_changes(self._lmdb, [(codec.CHECKPOINT_KEY, pack_checkpoint_record(mark))])
        except (CorruptRecord, EngineFailed, EngineFull) as failure:
            raise StoreUnusable(f"{self._directory} cannot be used: {failure}") from None
        return mark

    def _recover(self) -> None:
        """Fold in the entries that a crash left in the journal. Raises `StoreUnusable`."""
        sync_segments(self._directory)
        found = analyze(self._directory, self._mark)
        if found.findings:
            raise StoreUnusable(f"{found.findings[0]}: {self._loss()}")
        if found.last == self._mark.applied:
            return
        self._frozen = memtable_of(found.left)
        self._number = self._frozen_until = found.last
        try:
            self._fold_frozen()
        except (EngineFailed, EngineFull) as failure:
            # It is as readable as ever, and stays in the journal.
            self._log.error("the journal cannot be folded in yet: {reason}", reason=failure)
        else:
            self._log.info("{count} batches were left in the journal", count=len(found.left))

    def _loss(self) -> str:
        """Return what a damaged journal means, and what the operator can do."""
        lost = "writes that were acknowledged are lost. "
        if self._mark.begun > self._mark.applied:
            return (
                f"{lost}The map has parts of them, so it cannot be used alone. Restore a backup; "
                "or keep what is left with `backup --even-flawed`, and restore that"
            )
        return (
            f"{lost}To go on without them, move the journal ({' and '.join(SEGMENT_FILES)}) out "
            f"of {self._directory}"
        )

    def _open_journal(self) -> None:
        """Open the journal, unless entries in it are not folded in yet."""
        if self._journal is not None or self._frozen is not None or len(self._active):
            return
        try:
            self._journal = WriteAheadLog(self._directory, self._mark.wal_id, self._size)
        except (OSError, StoreUnusable) as error:
            if self._no_journal != str(error):
                self._no_journal = str(error)
                self._log.warn("there is no journal, so writes are slower: {reason}", reason=error)
            return
        if self._no_journal is not None:
            self._no_journal = None
            self._log.info("there is a journal again")

    def close(self) -> None:
        """Release the journal and the map. What is not folded in stays in the journal."""
        if self._journal is not None:
            self._journal.close()
        self._lmdb.close()

    # -- looking ------------------------------------------------------------------------------

    @property
    def min_version(self) -> int:
        """Below every version that is seen from now on."""
        return self._generation << _GENERATION_BITS

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The map and what lies over it, as one batch left them."""
        with ExitStack() as held:
            with self._seeing:
                # Before anything that is frozen now can be forgotten.
                view = held.enter_context(self._lmdb.snapshot())
                version = self.min_version | self._number
                layers = self._layers()
            yield MergedSnapshot(layers, view, version)

    def _layers(self) -> list[Overlay]:
        layers = [] if self._frozen is None else [self._frozen.at(self._number)]
        return [self._active.at(self._number), *layers] if len(self._active) else layers

    def has_space(self, reserve: int) -> bool:
        """Whether so many bytes can still be written, beside all that is to be folded in."""
        return not self._crammed and self._lmdb.has_space(reserve + _GROWTH * self.memtable_bytes())

    def used_bytes(self) -> int:
        """How many bytes the pairs take, about."""
        return self._lmdb.used_bytes() + self.memtable_bytes()

    def memtable_bytes(self) -> int:
        """How many bytes are journaled only."""
        frozen = self._frozen
        return self._active.size + (0 if frozen is None else frozen.size)

    def obstacle(self) -> str | None:
        """Return why the map cannot be read or written, None if it can.

        Called on any thread but the reactor's.
        """
        try:
            with self.snapshot():
                return self._not_folded
        except EngineFailed as failure:
            return str(failure)

    # -- batches ------------------------------------------------------------------------------

    def begin(self) -> _Batch:
        """Begin a batch, once it is known what the last one came to and the journal has room."""
        journal = self._journal
        if self._doubtful is not None or (journal is not None and journal.room < self._largest):
            with self._writing:
                try:
                    self._prepare()
                except EngineFull as failure:
                    raise EngineFailed(str(failure)) from failure
        with self._seeing:
            layers = self._layers()
        return _Batch(self._lmdb, layers, self._commit)

    def _prepare(self) -> None:
        if self._doubtful is not None:
            with self._folding:
                self._bury(self._doubtful)
            self._doubtful = None
        journal = self._journal
        if journal is None or journal.room >= self._largest:
            return
        if self._frozen is not None:
            # Folding takes longer than filling a file: appends wait for it.
            with self._folding:
                if self._frozen is not None:
                    self._fold_together(self._number)
        if len(self._active):
            self._freeze()
            self.on_checkpoint_due(True)

    def _commit(self, pairs: Pairs) -> int:
        with self._writing:
            journal = self._journal
            # Of a batch that is too large no entry is made: that would hold the interpreter, and
            # with it the reactor, for as long as the batch takes to copy.
            if journal is not None and _bytes_in(pairs) <= self._largest:
                entry = pack_entry(self._mark.wal_id, self._number + 1, pairs)
                if len(entry) <= self._largest and self._journaled(journal, entry):
                    return self._laid_over(pairs)
            with self._folding:
                return self._put_straight(pairs)

    def _laid_over(self, pairs: Pairs) -> int:
        soon = not len(self._active)
        with self._seeing:
            self._number += 1
            self._active.take(self._number, pairs)
        if soon:
            self.on_checkpoint_due(False)
        return self.min_version | self._number

    def _journaled(self, journal: WriteAheadLog, entry: bytes) -> bool:
        """Whether an entry is in the journal now. If not, it never will be."""
        try:
            journal.append(entry)
        except OSError as error:
            self._no_journal = error.strerror
            self._log.error("the journal cannot be written: {reason}", reason=error.strerror)
            journal.close()
            self._journal = None
            self.on_checkpoint_due(False)
            with self._folding:
                self._bury(self._number + 1)
            return False
        return True

    def _put_straight(self, pairs: Pairs) -> int:
        self._fold_together(self._number)
        number = self._number + 1
        mark = (codec.CHECKPOINT_KEY, pack_checkpoint_record(self._mark.advanced_to(number)))
        changes = [*sorted(pairs.items()), mark]
        try:
            try:
                commit_changes(self._lmdb, changes)
            except EngineFull:
                if not self._unripe:
                    raise
                self._unripe = False
                release_freed_pages(self._lmdb)
                commit_changes(self._lmdb, changes)
        except EngineFailed:
            self._doubt(number)
            raise
        self._unripe = True
        self._forget_layers(number)
        return self.min_version | number

    # -- a batch of unknown outcome ---------------------------------------------------------------

    def _doubt(self, number: int) -> None:
        with self._seeing:
            self._doubtful = number
            self._generation += 1

    def _bury(self, number: int) -> None:
        """Let a batch that may be on the disk or not be the last one either way: the map is marked
        as having it, so if only the journal does, it is never heard of again."""
        try:
            self._fold_together(number, always=True)
        except (EngineFull, EngineFailed) as failure:
            self._doubt(number)
            raise EngineFailed(str(failure)) from failure

    # -- folding ------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Bring the map up to date with all that is journaled, and open a lost journal again.

        Called on any thread but the reactor's. Raises `EngineFull` and `EngineFailed`; the
        caller then tries again.
        """
        with self._folding:
            self._fold_frozen()
        with self._writing:
            if self._frozen is None and len(self._active):
                self._freeze()
        with self._folding:
            self._fold_frozen()
        if self._journal is None:
            self._restore_journal()

    def _restore_journal(self) -> None:
        """Open a journal in place of one that could not be written, now or at a later `fold`."""
        with self._writing, self._folding:
            # A batch of unknown outcome may still stand in the old files.
            if self._doubtful is None:
                self._open_journal()
        if self._journal is None:
            self.on_checkpoint_due(False)

    def _freeze(self) -> None:
        """Let the batches so far be folded in, and others be journaled in the other file."""
        with self._seeing:
            self._frozen, self._active = self._active, Memtable()
            self._frozen_until = self._number
        if self._journal is not None:
            self._journal.turn()

    def _fold_frozen(self) -> None:
        if self._frozen is not None:
            self._bring_up(self._frozen.pairs(), self._frozen_until)
            with self._seeing:
                self._frozen = None

    def _fold_together(self, number: int, always: bool = False) -> None:
        """Fold in all layers, and mark the map as being at a number."""
        pairs = {} if self._frozen is None else self._frozen.pairs()
        pairs.update(self._active.pairs())
        if pairs or always:
            self._bring_up(pairs, number)
            self._forget_layers(number)

    def _bring_up(self, pairs: Pairs, number: int) -> None:
        try:
            # A number beyond the last batch is that of one to be skipped.
            apply_checkpoint(
                self._lmdb, pairs, self._mark.advanced_to(number), min(number, self._number)
            )
        except (EngineFull, EngineFailed) as failure:
            self._crammed = isinstance(failure, EngineFull)
            self._not_folded = str(failure)
            raise
        self._crammed, self._unripe, self._not_folded = False, True, None

    def _forget_layers(self, number: int) -> None:
        """The map has everything, up to a number that the journal may not have."""
        with self._seeing:
            self._frozen, self._active = None, Memtable()
            self._number = number
        if self._journal is not None:
            # Entries of one file follow on each other without a gap.
            self._journal.turn()

    def check_readers(self) -> None:
        """Free the slots of dead readers. Raises `EngineFailed`."""
        self._lmdb.check_readers()


def _bytes_in(pairs: Pairs) -> int:
    return sum([len(value) for value in pairs.values() if value is not None])


class _Batch(MergedView):
    """A batch over what is journaled and the map, which is looked into only where it has to be."""

    def __init__(
        self, lmdb_engine: KeyValueEngine, layers: list[Overlay], commit: Callable[[Pairs], int]
    ) -> None:
        self._changes = BatchPairs()
        super().__init__([self._changes, *layers])
        self._lmdb = lmdb_engine
        self._commit = commit
        self._held = ExitStack()
        self._view: View | None = None

    def _base(self) -> View:
        if self._view is None:
            self._view = self._held.enter_context(self._lmdb.snapshot())
        return self._view

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value."""
        self._changes.pairs[key] = value

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self._changes.pairs[key] = None

    def commit(self) -> int:
        """Make the batch durable; the number of this commit."""
        # Whatever breaks the map waits for all who look at it.
        self.abort()
        return self._commit(self._changes.pairs)

    def abort(self) -> None:
        """Drop the batch, or let go of the map at least."""
        self._view = None
        self._held.close()
