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
from durable_streams_tw.storage.engine.wal.format import LINEAGE_SIZE, Entry, following

_FINER: Final = 8

# Pages that a commit has freed can be used two commits later.
_RIPE: Final = 2


class Changed(Protocol):
    """Where keys are set and removed."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Set a key's value."""

    def delete(self, key: bytes, /) -> object:
        """Remove a key, if it is there."""


class Mark(Struct, frozen=True):
    """How far the map is: the number of the last batch that is in it, and whose journal that
    number belongs to. Of batches up to the number ``begun`` parts may be in it too."""

    lineage: bytes
    applied: int
    begun: int

    def at(self, number: int) -> Mark:
        """The same further on."""
        return Mark(self.lineage, number, number)


def first_mark() -> Mark:
    """The mark of a store that never had a journal, and of one that parts from another."""
    return Mark(os.urandom(LINEAGE_SIZE), 0, 0)


def read_mark(view: View) -> Mark | None:
    """How far a map is. Raises `CorruptRecord`."""
    value = view.get(codec.JOURNAL_KEY)
    if value is None:
        return None
    payload = codec.unseal(codec.JOURNAL_KEY, value)
    applied, begun = payload[LINEAGE_SIZE : LINEAGE_SIZE + 8], payload[LINEAGE_SIZE + 8 :]
    return Mark(
        bytes(payload[:LINEAGE_SIZE]),
        codec.unpack_integer(applied),
        codec.unpack_integer(begun),
    )


def pack_mark(mark: Mark) -> bytes:
    """The value that says how far a map is."""
    numbers = codec.pack_integer(mark.applied) + codec.pack_integer(mark.begun)
    return codec.seal(codec.JOURNAL_KEY, mark.lineage + numbers)


def behind(mark: Mark, entries: Iterable[Entry]) -> list[Entry] | None:
    """Return the entries that are not applied yet, in order, up to the first gap.

    Return None if a checkpoint is half applied and the entries that complete it are missing.
    """
    left = following(entries, mark.applied)
    return left if mark.applied + len(left) >= mark.begun else None


def bring_up(
    keyspace: KeyValueEngine, pairs: Mapping[bytes, bytes | None], mark: Mark, last: int
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
    begun = max(mark.begun, _known(keyspace).begun)
    marked = (codec.JOURNAL_KEY, pack_mark(Mark(mark.lineage, mark.applied, begun)))
    try:
        put_down(keyspace, [*changes, marked])
    except EngineFull:
        _say_begun(keyspace, last)
        removed = [change for change in changes if change[1] is None]
        kept = [change for change in changes if change[1] is not None]
        _in_portions(keyspace, [*removed, *kept])
        put_down(keyspace, [marked])


def put_down(keyspace: KeyValueEngine, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Make changes in one commit. Raises `EngineFull` and `EngineFailed`."""
    batch = keyspace.begin()
    try:
        make(batch, changes)
        batch.commit()
    except BaseException:
        batch.abort()
        raise


def make(target: Changed, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Set and remove keys. Raises what ``target`` raises."""
    for key, value in changes:
        if value is None:
            target.delete(key)
        else:
            target.put(key, value)


def _known(keyspace: KeyValueEngine) -> Mark:
    """How far a map is now."""
    try:
        with keyspace.snapshot() as view:
            mark = read_mark(view)
    except codec.CorruptRecord as corrupt:
        raise EngineFailed(str(corrupt)) from corrupt
    assert mark is not None, "a map with a journal is marked"
    return mark


def _say_begun(keyspace: KeyValueEngine, number: int) -> None:
    """Mark a map as one that may have parts of batches up to a number."""
    known = _known(keyspace)
    if known.begun < number:
        begun = Mark(known.lineage, known.applied, number)
        put_down(keyspace, [(codec.JOURNAL_KEY, pack_mark(begun))])


def _in_portions(keyspace: KeyValueEngine, changes: list[tuple[bytes, bytes | None]]) -> None:
    portion = max(len(changes) // _FINER, 1)
    done, ripened = 0, False
    while done < len(changes):
        try:
            put_down(keyspace, changes[done : done + portion])
        except EngineFull:
            if portion > 1:
                portion = max(portion // _FINER, 1)
            elif not ripened:
                ripen(keyspace)
                ripened = True
            else:
                raise
        else:
            done += portion
            ripened = False


def ripen(keyspace: KeyValueEngine) -> None:
    """Commits for their own sake, after which the pages that earlier ones have freed can be used.

    Raises `EngineFull` and `EngineFailed`.
    """
    with keyspace.snapshot() as view:
        found = view.get(codec.JOURNAL_KEY)
        mark = b"" if found is None else bytes(found)
    for _ in range(_RIPE):
        put_down(keyspace, [(codec.JOURNAL_KEY, mark)])
