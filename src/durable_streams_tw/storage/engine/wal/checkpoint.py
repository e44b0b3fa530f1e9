"""Bringing the map up to date with what was journaled.

All of it goes into one commit, together with the number of the last batch that is in. Where
there is no room for that, it goes in smaller and smaller portions, what is removed first. Until the
last of them the map says that it has parts of batches up to a number: the journal says all of those
again, so whoever has read that far sees them whole.
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

_FINER: Final = 8

# Pages that a commit has freed can be used two commits later.
_RIPE: Final = 2


class Changed(Protocol):
    """Where keys are set and removed."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Set a key's value."""

    def delete(self, key: bytes, /) -> object:
        """Remove a key, if it is there."""


class CheckpointRecord(Struct, frozen=True):
    """How far the map is: the number of the last batch that is in it, and whose journal that
    number belongs to. Of batches up to the number ``begun`` parts may be in it too."""

    wal_id: bytes
    applied: int
    begun: int

    def advanced_to(self, number: int) -> CheckpointRecord:
        """The same further on."""
        return CheckpointRecord(self.wal_id, number, number)


def new_checkpoint_record() -> CheckpointRecord:
    """The mark of a store that never had a journal, and of one that parts from another."""
    return CheckpointRecord(os.urandom(WAL_ID_SIZE), 0, 0)


def read_checkpoint_record(view: View) -> CheckpointRecord | None:
    """How far a map is. Raises `CorruptRecord`."""
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


def pack_checkpoint_record(mark: CheckpointRecord) -> bytes:
    """The value that says how far a map is."""
    numbers = codec.pack_integer(mark.applied) + codec.pack_integer(mark.begun)
    return codec.seal(codec.CHECKPOINT_KEY, mark.wal_id + numbers)


def unapplied_entries(mark: CheckpointRecord, entries: Iterable[Entry]) -> list[Entry] | None:
    """Return the entries that are not applied yet, in order, up to the first gap.

    Return None if a checkpoint is half applied and the entries that complete it are missing.
    """
    left = consecutive_after(entries, mark.applied)
    return left if mark.applied + len(left) >= mark.begun else None


def apply_checkpoint(
    engine: KeyValueEngine, pairs: Mapping[bytes, bytes | None], mark: CheckpointRecord, last: int
) -> None:
    """Put pairs into the map, and the mark that says how far it is with them.

    ``last`` is the number of the last batch that any of the pairs belong to. ``mark`` may be one
    further, at a batch that is to be skipped: the journal need not have that one, so the map must
    never be marked as having begun it.

    Raises `EngineFull` if there is no room for all pairs, and `EngineFailed`; either way the
    caller can repeat the call.
    """
    # In their order, keys that share a page come one after the other.
    changes = sorted(pairs.items())
    # Parts of later batches may be in the map already, from a call that failed.
    begun = max(mark.begun, _known(engine).begun)
    marked = (
        codec.CHECKPOINT_KEY,
        pack_checkpoint_record(CheckpointRecord(mark.wal_id, mark.applied, begun)),
    )
    try:
        commit_changes(engine, [*changes, marked])
    except EngineFull:
        _say_begun(engine, last)
        removed = [change for change in changes if change[1] is None]
        kept = [change for change in changes if change[1] is not None]
        _in_portions(engine, [*removed, *kept])
        commit_changes(engine, [marked])


def commit_changes(engine: KeyValueEngine, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Make changes in one commit. Raises `EngineFull` and `EngineFailed`."""
    batch = engine.begin()
    try:
        apply_changes(batch, changes)
        batch.commit()
    except BaseException:
        batch.abort()
        raise


def apply_changes(target: Changed, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Set and remove keys. Raises what ``target`` raises."""
    for key, value in changes:
        if value is None:
            target.delete(key)
        else:
            target.put(key, value)


def _known(engine: KeyValueEngine) -> CheckpointRecord:
    """How far a map is now."""
    try:
        with engine.snapshot() as view:
            mark = read_checkpoint_record(view)
    except CorruptRecord as corrupt:
        raise EngineFailed(str(corrupt)) from corrupt
    assert mark is not None, "a map with a journal is marked"
    return mark


def _say_begun(engine: KeyValueEngine, number: int) -> None:
    """CheckpointRecord a map as one that may have parts of batches up to a number."""
    known = _known(engine)
    if known.begun < number:
        begun = CheckpointRecord(known.wal_id, known.applied, number)
        commit_changes(engine, [(codec.CHECKPOINT_KEY, pack_checkpoint_record(begun))])


def _in_portions(engine: KeyValueEngine, changes: list[tuple[bytes, bytes | None]]) -> None:
    portion = max(len(changes) // _FINER, 1)
    done, ripened = 0, False
    while done < len(changes):
        try:
            commit_changes(engine, changes[done : done + portion])
        except EngineFull:
            if portion > 1:
                portion = max(portion // _FINER, 1)
            elif not ripened:
                release_freed_pages(engine)
                ripened = True
            else:
                raise
        else:
            done += portion
            ripened = False


def release_freed_pages(engine: KeyValueEngine) -> None:
    """Commits for their own sake, after which the pages that earlier ones have freed can be used.

    Raises `EngineFull` and `EngineFailed`.
    """
    with engine.snapshot() as view:
        found = view.get(codec.CHECKPOINT_KEY)
        mark = b"" if found is None else bytes(found)
    for _ in range(_RIPE):
        commit_changes(engine, [(codec.CHECKPOINT_KEY, mark)])
