"""Check and statistics of the streams in a PostgreSQL database, also while nodes use it.

Both read one snapshot. PostgreSQL checks the integrity of pages and indexes itself (data checksums,
amcheck); the check here finds what would be wrong with the streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from msgspec import Struct

from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw, unreadable
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect, reason_of

#: Tables of subscriptions, with their names in the database.
RECORDS: Final = (
    ("subscription", tables.SUBSCRIPTIONS),
    ("link", tables.LINKS),
    ("cursor", tables.CURSORS),
)

# Whole tables are read, for which the plans of single look-ups are wrong.
_PLANS: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_bitmapscan")

_STREAMS: Final = b"""SELECT s.id, s.path, s.record, s.due, s.source, c.first, c.stop, c.wrong,
  f.count FROM stream s
LEFT JOIN (
  SELECT stream_id, min(position) AS first, max(stop) AS stop,
    count(*) FILTER (WHERE before <> position) AS wrong
  FROM (SELECT stream_id, position, position + length(data) AS stop,
    lag(position + length(data)) OVER (PARTITION BY stream_id ORDER BY position) AS before
    FROM chunk) spans GROUP BY stream_id) c ON c.stream_id = s.id
LEFT JOIN (SELECT source, count(*) FROM stream WHERE source IS NOT NULL GROUP BY source) f
  ON f.source = s.id
ORDER BY s.id"""
_ORPHANS: Final = b"""SELECT DISTINCT stream_id FROM (
  SELECT stream_id FROM chunk UNION SELECT stream_id FROM producer) used
WHERE NOT EXISTS (SELECT FROM stream WHERE id = stream_id)
  AND NOT EXISTS (SELECT FROM garbage WHERE id = stream_id)"""
_MISSING_SOURCES: Final = b"""SELECT id, path, source FROM stream s WHERE source IS NOT NULL
AND NOT EXISTS (SELECT FROM stream t WHERE t.id = s.source)"""
_GARBAGE: Final = b"SELECT id FROM garbage"
_STATS: Final = b"""SELECT
  (SELECT count(*) FROM stream), (SELECT count(*) FROM stream WHERE source IS NOT NULL),
  (SELECT count(*) FROM producer), (SELECT count(*) FROM subscription),
  (SELECT count(*) FROM garbage), (SELECT count(*) FROM chunk),
  (SELECT coalesce(sum(length(data)), 0)::bigint FROM chunk),
  (SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
   WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'),
  (SELECT count(DISTINCT name) FROM node WHERE heartbeat > clock_timestamp() - interval '30 s')"""


class DatabaseContents(Struct, frozen=True):
    """Numbers of records in a database. ``size`` counts the bytes of streams, ``disk`` all tables.

    ``ended`` streams and subscriptions have not been deleted wholly yet. ``nodes`` use the
    database.
    """

    streams: int
    forks: int
    producers: int
    subscriptions: int
    ended: int
    chunks: int
    size: int
    disk: int
    nodes: int


def database_stats(settings: DatabaseSettings) -> DatabaseContents:
    """Count the contents of a database. Raises `StoreUnusable`."""
    with _snapshot(settings) as connection:
        (row,) = connection.execute(_STATS, (settings.schema,)).fetchall()
        return DatabaseContents(*row)


def check_database(settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield the flaws of the streams and subscriptions in a database. Raises `StoreUnusable`."""
    with _snapshot(settings) as connection:
        yield from find_flaws(connection)


def find_flaws(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Yield the flaws that the transaction of a connection sees. Raises `psycopg.Error`."""
    with connection.cursor("streams") as cursor:
        cursor.itersize = 500
        for row in cursor.execute(_STREAMS):
            yield from _check_stream(*row)
    for stream_id, path, source in connection.execute(_MISSING_SOURCES):
        yield Finding(Flaw.FORK, codec.stream_key(stream_id), f"{path!r} has no source {source}")
    for (stream_id,) in connection.execute(_ORPHANS):
        yield Finding(
            Flaw.ORPHAN, codec.stream_key(stream_id), f"stream {stream_id} does not exist"
        )
    yield from _check_subscriptions(connection)


@contextmanager
def _snapshot(settings: DatabaseSettings) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in a transaction that sees one snapshot of a store."""
    try:
        with connect(settings) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for name in _PLANS:
                connection.execute(f"SET LOCAL {name} = on".encode())
            (found,) = connection.execute("SELECT to_regclass('meta') IS NOT NULL").fetchall()
            if not found[0]:
                raise StoreUnusable(f"the schema {settings.schema!r} has no streams")
            yield connection
    except psycopg.Error as error:
        raise StoreUnusable(reason_of(error)) from None


def _check_stream(
    stream_id: int,
    path: str,
    packed: bytes,
    due: int | None,
    source: int | None,
    first: int | None,
    stop: int | None,
    wrong: int | None,
    forks: int | None,
) -> Iterator[Finding]:
    key = codec.stream_key(stream_id)
    try:
        record: StreamRecord = tables.STREAMS.decode(key, packed)
    except CorruptRecord as corrupt:
        yield unreadable(corrupt)
        return
    state = record.state
    if (state.id, state.path) != (stream_id, path):
        yield Finding(Flaw.PATH, key, f"the row of {path!r} is that of {state.path!r}")
    expected = (state.origin, state.tail, 0) if state.tail > state.origin else (None, None, None)
    if (first, stop, wrong) != expected:
        sentence = f"{path!r} has bytes from {first} to {stop} with {wrong or 0} gaps or overlaps"
        yield Finding(Flaw.DATA, key, f"{sentence}, expected {state.origin} to {state.tail}")
    deadline = None if state.deleted else state.deadline()
    late = deadline is not None and (due is None or due > deadline)
    if due != record.indexed_at or late:
        yield Finding(Flaw.DEADLINE, key, f"{path!r} is due at {due}, expected {deadline}")
    if source != (None if state.fork is None else state.fork.source_id):
        yield Finding(Flaw.FORK, key, f"{path!r} has another source than its row")
    if state.forks != (forks or 0):
        yield Finding(Flaw.FORK, key, f"{path!r} counts {state.forks} forks, {forks or 0} exist")


def _check_subscriptions(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    numbers = {number for (number,) in connection.execute(_GARBAGE)}
    for name, table in RECORDS:
        for key, packed in connection.execute(f"SELECT key, record FROM {name}".encode()):
            whole = table.prefix + key
            try:
                value: Any = table.decode(whole, packed)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)
                continue
            if table is tables.SUBSCRIPTIONS:
                numbers.add(value.number)
                if tables.subscription_key(value.id) != key:
                    yield Finding(Flaw.SUBSCRIPTION, whole, f"the row is that of {value.id!r}")
            elif codec.unpack_integer(key[:8]) not in numbers:
                yield Finding(Flaw.SUBSCRIPTION, whole, f"a {name} has no subscription")
