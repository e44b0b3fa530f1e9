"""Changing a data file that nobody else knows of: a copy that is being made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lmdb

from durable_streams_tw.storage.admin.inspect import CHANGING
from durable_streams_tw.storage.api import StoreUnusable
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine import format_version as formats
from durable_streams_tw.storage.engine.lmdb import LMDBSnapshot, open_environment
from durable_streams_tw.storage.engine.wal.checkpoint import (
    Mark,
    first_mark,
    make,
    pack_mark,
    read_mark,
)
from durable_streams_tw.storage.engine.wal.format import Entry


def complete(path: str, unapplied: Callable[[Mark], Sequence[Entry] | None]) -> bool:
    """Put the journaled entries that a copy of the map lacks into it. Return whether it changed.

    ``unapplied`` returns them for the copy's mark, None if they cannot be had any more. Raises
    `StoreUnusable`, and what ``unapplied`` raises.
    """
    with _amended(path) as transaction:
        mark = read_mark(LMDBSnapshot(transaction, 0))
        if mark is None:
            return False
        left = unapplied(mark)
        if left is None:
            raise StoreUnusable(CHANGING)
        if not left and mark.begun == mark.applied:
            return False
        for entry in left:
            make(transaction, entry.pairs.items())
        transaction.put(codec.JOURNAL_KEY, pack_mark(mark.at(mark.applied + len(left))))
    return True


def part(path: str, now: int) -> None:
    """Let a copy go its own way from now on (ms since 1970).

    No stream that is made in it shares the id of one made in the other since: a cache may still
    know that one's bytes. And no journal of the other is ever taken for its own. Raises
    `StoreUnusable`.
    """
    with _amended(path) as transaction:
        next_id = reader.load_next_id(LMDBSnapshot(transaction, 0))
        packed = codec.pack_integer(max(next_id, formats.first_id(now)))
        transaction.put(codec.NEXT_ID_KEY, codec.seal(codec.NEXT_ID_KEY, packed))
        transaction.put(codec.JOURNAL_KEY, pack_mark(first_mark()))


@contextmanager
def _amended(path: str) -> Iterator[lmdb.Transaction[Any]]:
    # Its commits are synchronous, so what is amended is on the disk afterwards.
    environment = open_environment(path, path, subdir=False, lock=False, create=False)
    try:
        with environment.begin(write=True) as transaction:
            yield transaction
    except codec.CorruptRecord as corrupt:
        raise StoreUnusable(f"{path} cannot be changed: {corrupt}") from None
    except lmdb.Error as error:
        raise StoreUnusable(f"{path} cannot be written: {error}") from None
    finally:
        environment.close()
