"""Reader of streams in PostgreSQL: states, bytes, and consistent snapshots for questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import psycopg

from durable_streams_tw.protocol.limits import MIB
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.tables import CURSORS, LINKS, SUBSCRIPTIONS
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.fork_ranges import Extent
from durable_streams_tw.storage.postgres.arrays import Int8Array, TextArray
from durable_streams_tw.storage.shared.extent_reader import ExtentReader, Lookup, StoredRecord

T = TypeVar("T")

Connection = psycopg.Connection[Any]

TABLES: Final = {
    SUBSCRIPTIONS.prefix: "subscription",
    LINKS.prefix: "link",
    CURSORS.prefix: "cursor",
}
"""Names of the tables with a key and a record."""

#: Rows of one statement, and bytes of a stream that one statement reads by default.
_PAGE: Final = 500
_ROWS: Final = 4_000
_REACH: Final = 1 * MIB

_STREAMS_AT: Final = "SELECT path, record FROM stream WHERE path = ANY(%s)"
_STREAMS: Final = "SELECT id, record FROM stream WHERE id = ANY(%s)"
_CHAIN: Final = """WITH RECURSIVE chain (id, source, record, depth) AS (
  SELECT id, source, record, 0 FROM stream WHERE id = %s
  UNION ALL
  SELECT s.id, s.source, s.record, c.depth + 1 FROM chain c JOIN stream s ON s.id = c.source)
SELECT id, record FROM chain ORDER BY depth"""
# From the chunk that holds the first position, or the first one after it.
_CHUNKS: Final = """SELECT position, flags, data FROM chunk
WHERE stream_id = %s AND position >= coalesce(
  (SELECT position FROM chunk WHERE stream_id = %s AND position <= %s
   ORDER BY position DESC LIMIT 1), %s)
AND position < %s ORDER BY position LIMIT %s"""


def decode_stream(record: bytes) -> StreamRecord:
    """Decode the record of a row of `stream`. Raises `CorruptRecord`."""
    return tables.STREAMS.decode(b"stream", record)


def load_streams(
    connection: Connection, paths: Iterable[str]
) -> dict[str, StreamState | CorruptRecord]:
    """Return the streams at some paths, by path. Raises `psycopg.Error`."""
    rows = connection.execute(_STREAMS_AT, (TextArray(paths),), binary=True)
    found: dict[str, StreamState | CorruptRecord] = {}
    for path, record in rows:
        try:
            found[path] = decode_stream(record).state
        except CorruptRecord as corrupt:
            found[path] = corrupt
    return found


def load_stream_at(connection: Connection, path: str) -> StreamState | None:
    """Return the stream at a path. Raises `CorruptRecord` and `psycopg.Error`."""
    found = load_streams(connection, [path]).get(path)
    if isinstance(found, CorruptRecord):
        raise found
    return found


def load_states(connection: Connection, ids: Iterable[int]) -> dict[int, StreamState]:
    """Return the states of some streams by id, without corrupt ones. Raises `psycopg.Error`."""
    found = {}
    for stream_id, record in connection.execute(_STREAMS, (Int8Array(ids),), binary=True):
        with suppress(CorruptRecord):
            found[stream_id] = decode_stream(record).state
    return found


def load_chain(connection: Connection, stream_id: int) -> list[StreamState]:
    """Return a stream and its ancestors, up to the root of the chain of forks.

    Raises `CorruptRecord` and `psycopg.Error`.
    """
    rows = connection.execute(_CHAIN, (stream_id,), binary=True).fetchall()
    return [decode_stream(record).state for _, record in rows]


def load_ancestor(
    connection: Connection, known: dict[int, StreamState], stream_id: int
) -> StreamState | None:
    """Return the stream of an id; add it and its ancestors to the ``known`` ones.

    Raises `CorruptRecord` and `psycopg.Error`.
    """
    if stream_id not in known:
        known.update({state.id: state for state in load_chain(connection, stream_id)})
    return known.get(stream_id)


def scan(
    connection: Connection, table: RecordTable[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T]]:
    """Yield the records of a table with ``first <= key < stop`` in order, a page at a time.

    Raises `CorruptRecord` and `psycopg.Error`.
    """
    for key, record in scan_with_errors(connection, table, first, stop):
        if isinstance(record, CorruptRecord):
            raise record
        yield key, record


def scan_with_errors(
    connection: Connection, table: RecordTable[T], first: bytes = b"", stop: bytes | None = None
) -> Iterator[tuple[bytes, T | CorruptRecord]]:
    """Yield records like `scan`, with a `CorruptRecord` in place of each corrupt one."""
    query = (
        f"SELECT key, record FROM {TABLES[table.prefix]} WHERE key >= %s "
        f"AND (%s::bytea IS NULL OR key < %s) ORDER BY key LIMIT {_PAGE}"
    ).encode()
    while True:
        rows = connection.execute(query, (first, stop, stop), binary=True).fetchall()
        for key, record in rows:
            try:
                yield key, table.decode(table.prefix + key, record)
            except CorruptRecord as corrupt:
                yield key, corrupt
        if len(rows) < _PAGE:
            return
        first = rows[-1][0] + b"\x00"


class ConnectionReader(ExtentReader):
    """Reader of streams through a connection.

    ``lookup`` replaces the states of streams in the database. ``reach`` is the number of bytes that
    the first statement of an extent reads; later ones read as much again. All methods raise
    `CorruptRecord` and `psycopg.Error`.
    """

    def __init__(
        self, connection: Connection, lookup: Lookup | None = None, reach: int = _REACH
    ) -> None:
        self._connection = connection
        self._reach = max(reach, 1)
        self._known: dict[int, StreamState] = {}
        # Not `self.stream`: only the garbage collector could free a reference cycle.
        super().__init__(lookup or partial(load_ancestor, connection, self._known))

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream that holds a path."""
        return load_stream_at(self._connection, path)

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream of an id, and remember its ancestors."""
        return load_ancestor(self._connection, self._known, stream_id)

    def records(self, extent: Extent) -> Iterator[StoredRecord]:
        """Yield the chunks of an extent."""
        stream_id, position, stop = extent.stream_id, extent.start, extent.stop
        while position < stop:
            until = min(stop, position + self._reach)
            rows = self._connection.execute(
                _CHUNKS, (stream_id, stream_id, position, position, until, _ROWS), binary=True
            ).fetchall()
            for start, flags, data in rows:
                payload = memoryview(data)
                if extent.start < position and start < position:
                    # Packing has merged chunks after the previous statement.
                    start, payload = position, payload[position - start :]
                yield start, flags, payload
            if rows:
                # A chunk may end after ``until``.
                position = rows[-1][0] + len(rows[-1][2])
            if len(rows) < _ROWS:
                position = max(position, until)


class DatabaseSnapshot:
    """`StoreSnapshot` over a connection in a REPEATABLE READ transaction.

    ``usable`` tells whether clients may use a stream.
    """

    def __init__(self, connection: Connection, usable: Callable[[StreamState], bool]) -> None:
        self._connection = connection
        self._usable = usable
        # Records of the page of names that is being listed, by path.
        self._listed: dict[str, bytes] = {}

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """Return the record of a key, or None."""
        return load(self._connection, table, key)

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop``, in order."""
        return scan(self._connection, table, first, stop)

    def active_stream(self, path: str) -> StreamState | None:
        """Return the state of the stream at a path, or None if no client may use it."""
        listed = self._listed.get(path)
        if listed is None:
            state = load_stream_at(self._connection, path)
        else:
            state = decode_stream(listed).state
        return state if state is not None and self._usable(state) else None

    def stream_names(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield stream names with a prefix, in the order of their bytes."""
        query = (
            "SELECT path, record FROM stream WHERE path > %s AND path >= %s "
            f"ORDER BY path LIMIT {_PAGE}"
        ).encode()
        while True:
            rows = self._connection.execute(query, (after, prefix), binary=True).fetchall()
            self._listed = dict(rows)
            for path, _ in rows:
                if not path.startswith(prefix):
                    return
                yield path
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]


def load(connection: Connection, table: RecordTable[T], key: bytes) -> T | None:
    """Return the record of a key, or None. Raises `CorruptRecord` and `psycopg.Error`."""
    row = connection.execute(
        f"SELECT record FROM {TABLES[table.prefix]} WHERE key = %s".encode(), (key,), binary=True
    ).fetchone()
    return None if row is None else table.decode(table.prefix + key, row[0])
