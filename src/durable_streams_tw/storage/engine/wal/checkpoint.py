"""Checkpoints: apply the memtable to LMDB, and record which batches LMDB contains.

A checkpoint is one LMDB commit of all pairs and of the number of the last batch. If the disk has
not enough space for that commit, the pairs are written in smaller portions, deletions first. Until
the last portion, `CheckpointRecord.begun` says that LMDB contains parts of batches up to that
number; the WAL still has those batches, and readers apply them over LMDB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull, KeyValueEngine, View
from durable_streams_tw.storage.engine.wal.format import WAL_ID_SIZE, Entry, consecutive_after
from durable_streams_tw.storage.errors import CorruptRecord

# Factor by which portions shrink when the disk is full.
_PORTION_DIVISOR: Final = 8

# LMDB can reuse the pages that a commit freed two commits later.
_COMMITS_UNTIL_REUSE: Final = 2


class WriteTarget(Protocol):
    """Write access to pairs: a `WriteBatch` or an LMDB transaction."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Set the value of a key."""

    def delete(self, key: bytes, /) -> object:
        """Remove a key, if it exists."""


class CheckpointRecord(Struct, frozen=True):
    """Progress of checkpoints: the id of the WAL, and the last batch that LMDB contains.

    LMDB may contain parts of batches up to the number ``begun``.
    """

    wal_id: bytes
    applied: int
    begun: int

    def advanced_to(self, number: int) -> CheckpointRecord:
        """Return the record for a completed checkpoint up to a batch."""
        return CheckpointRecord(self.wal_id, number, number)


def new_checkpoint_record() -> CheckpointRecord:
    """Return the record of a store whose WAL is empty, with a new WAL id."""
    return CheckpointRecord(os.urandom(WAL_ID_SIZE), 0, 0)


def read_checkpoint_record(view: View) -> CheckpointRecord | None:
    """Return the checkpoint record, None if the store never had a WAL. Raises `CorruptRecord`."""
    value = view.get(codec.CHECKPOINT_KEY)
    if value is None:
        return None
    payload = codec.unseal(codec.CHECKPOINT_KEY, value)
    applied, begun = payload[WAL_ID_SIZE : WAL_ID_SIZE + 8], payload[WAL_ID_SIZE + 8 :]
    return CheckpointRecord(
        bytes(payload[:WAL_ID_SIZE]),
        codec.unpack_integer(applied),
        codec.unpack_integer(begun),
    )


def pack_checkpoint_record(record: CheckpointRecord) -> bytes:
    """Encode the value of `CHECKPOINT_KEY`."""
    numbers = codec.pack_integer(record.applied) + codec.pack_integer(record.begun)
    return codec.seal(codec.CHECKPOINT_KEY, record.wal_id + numbers)


def unapplied_entries(record: CheckpointRecord, entries: Iterable[Entry]) -> list[Entry] | None:
    """Return the WAL entries not yet applied, in order, up to the first gap.

    Return None if a checkpoint is half applied and the entries that complete it are missing.
    """
    unapplied = consecutive_after(entries, record.applied)
    return unapplied if record.applied + len(unapplied) >= record.begun else None


def apply_checkpoint(
    engine: KeyValueEngine,
    pairs: Mapping[bytes, bytes | None],
    record: CheckpointRecord,
    last: int,
) -> None:
    """Write the pairs of a checkpoint and its record to LMDB.

    ``last`` is the number of the last batch that any of the pairs belong to. ``record`` may be at
    ``last + 1``, a batch that recovery must skip. The WAL may lack that batch, so ``begun`` must
    never include it before the checkpoint is complete.

    Raises `EngineFull` if there is not enough space for all pairs, and `EngineFailed`; the caller
    can repeat the call after either.
    """
    # In key order, changes of one page are adjacent.
    changes = sorted(pairs.items())
    # A call that failed may have written parts of later batches.
    begun = max(record.begun, _current_record(engine).begun)
    record = CheckpointRecord(record.wal_id, record.applied, begun)
    completed = (codec.CHECKPOINT_KEY, pack_checkpoint_record(record))
    try:
        commit_changes(engine, [*changes, completed])
    except EngineFull:
        _record_begun(engine, last)
        deleted = [change for change in changes if change[1] is None]
        kept = [change for change in changes if change[1] is not None]
        _commit_in_portions(engine, [*deleted, *kept])
        commit_changes(engine, [completed])


def commit_changes(engine: KeyValueEngine, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Apply changes in one commit. Raises `EngineFull` and `EngineFailed`."""
    batch = engine.begin()
    try:
        apply_changes(batch, changes)
        batch.commit()
    except BaseException:
        batch.abort()
        raise


def apply_changes(target: WriteTarget, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Set and delete keys. Raises what ``target`` raises."""
    for key, value in changes:
        if value is None:
            target.delete(key)
        else:
            target.put(key, value)


def _current_record(engine: KeyValueEngine) -> CheckpointRecord:
    try:
        with engine.snapshot() as view:
            record = read_checkpoint_record(view)
    except CorruptRecord as corrupt:
        raise EngineFailed(str(corrupt)) from corrupt
    assert record is not None, "a store with a WAL has a checkpoint record"
    return record


def _record_begun(engine: KeyValueEngine, number: int) -> None:
    """Record that LMDB may contain parts of batches up to a number."""
    current = _current_record(engine)
    if current.begun < number:
        record = CheckpointRecord(current.wal_id, current.applied, number)
        commit_changes(engine, [(codec.CHECKPOINT_KEY, pack_checkpoint_record(record))])


def _commit_in_portions(engine: KeyValueEngine, changes: list[tuple[bytes, bytes | None]]) -> None:
    portion = max(len(changes) // _PORTION_DIVISOR, 1)
    done, released = 0, False
    while done < len(changes):
        try:
            commit_changes(engine, changes[done : done + portion])
        except EngineFull:
            if portion > 1:
                portion = max(portion // _PORTION_DIVISOR, 1)
            elif not released:
                release_freed_pages(engine)
                released = True
            else:
                raise
        else:
            done += portion
            released = False


def release_freed_pages(engine: KeyValueEngine) -> None:
    """Make commits without changes, after which LMDB can reuse the pages freed before.

    Raises `EngineFull` and `EngineFailed`.
    """
    with engine.snapshot() as view:
        found = view.get(codec.CHECKPOINT_KEY)
        value = b"" if found is None else bytes(found)
    for _ in range(_COMMITS_UNTIL_REUSE):
        commit_changes(engine, [(codec.CHECKPOINT_KEY, value)])
