"""Copies of a store from a data directory to a PostgreSQL database, and back.

Ids, positions, producers, subscriptions and keys are kept, so that offsets, entity tags and tokens
stay valid. Streams are copied in the order of their ids, a group in each transaction, and an
interrupted move continues after the last group. At the end all bytes are read back and compared.
No server may use either side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol

import lmdb
import msgspec
import psycopg
from msgspec import Struct

from durable_streams_tw import __version__
from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.subscriptions.state import next_action
from durable_streams_tw.storage import files
from durable_streams_tw.storage.admin.copy import FileWriter, Progress, detach
from durable_streams_tw.storage.admin.database import RECORDS
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.verify import verify
from durable_streams_tw.storage.data_dir import DataDirLock, owner
from durable_streams_tw.storage.durable.reader import load_next_id
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import Snapshot
from durable_streams_tw.storage.engine.lmdb import open_environment
from durable_streams_tw.storage.engine.wal.checkpoint import read_checkpoint_record
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable, store_unusable
from durable_streams_tw.storage.limits import RECORD_PAYLOAD
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect, reason_of
from durable_streams_tw.storage.postgres.keyring import KEYRING_SECRET, read_secret, write_secret
from durable_streams_tw.storage.postgres.migrations import migrate
from durable_streams_tw.storage.postgres.schema import MOVE_MARK
from durable_streams_tw.storage.shared.record_layout import cut

_DRAFT: Final = files.DATA_FILE + ".moving"
_MARK_KEY: Final = b"\x00move"
_CHUNK_SIZE: Final = 1 << 16
#: Streams of one transaction, and bytes after which no further stream is added.
_GROUP: Final = 500
_GROUP_BYTES: Final = 8 << 20
#: Rows that one statement reads.
_PAGE: Final = 64

Row = tuple[int, int, bytes]
"""Position, flags (`codec`) and bytes of a record of a stream."""

ProducerRow = tuple[bytes, int, ProducerState]
"""Name, generation and state of a producer of a stream."""


class Mark(Struct, frozen=True):
    """Progress of a move into a store: its source, and the id of the last copied stream."""

    source: str
    last: int = 0


class Moved(Struct):
    """Number of streams and subscriptions, and bytes of streams, that a move has copied."""

    streams: int = 0
    subscriptions: int = 0
    bytes: int = 0


_mark: Final = msgspec.json.Decoder(Mark)


# -- rows of a stream ---------------------------------------------------------------------------


def joined(rows: Iterable[Row], size: int) -> Iterator[Row]:
    """Join consecutive rows to rows of at most ``size`` bytes.

    A row keeps either whole messages or a part of one message.
    """
    held: tuple[int, int, bytearray] | None = None
    for position, flags, data in rows:
        if held is not None:
            start, before, piece = held
            same = before & codec.ENDS_MID_MESSAGE and flags & codec.STARTS_MID_MESSAGE
            if len(piece) + len(data) <= size and (same or not before | flags):
                piece += data
                kept = before & codec.STARTS_MID_MESSAGE | flags & codec.ENDS_MID_MESSAGE
                held = start, kept, piece
                continue
            yield start, before, bytes(piece)
        held = position, flags, bytearray(data)
    if held is not None:
        yield held[0], held[1], bytes(held[2])


def divided(rows: Iterable[Row], size: int, is_json: bool) -> Iterator[Row]:
    """Divide rows into rows of at most ``size`` bytes, between JSON messages where possible."""
    for position, flags, data in rows:
        if len(data) <= size:
            yield position, flags, data
            continue
        cuts: tuple[int, ...] = ()
        if is_json:
            messages = () if flags else json_mode.messages(data)
            cuts = tuple(accumulate([len(each) + 1 for each in messages])) or (len(data),)
        for piece in cut(Body(data, cuts), size):
            torn = piece.flags
            if not piece.start:
                torn |= flags & codec.STARTS_MID_MESSAGE
            if piece.stop == len(data):
                torn |= flags & codec.ENDS_MID_MESSAGE
            yield position + piece.start, torn, data[piece.start : piece.stop]


class _Side(Protocol):
    """One side of a move: reads streams in the order of their ids."""

    def streams(self, after: int) -> Iterator[StreamRecord]:
        """Yield the records of the streams with greater ids."""

    def rows(self, record: StreamRecord) -> Iterator[Row]:
        """Yield the rows of a stream's own bytes."""

    def producers(self, record: StreamRecord) -> list[ProducerRow]:
        """Return the producers that a stream remembers."""

    def records(self, table: tables.Table[Any]) -> list[tuple[bytes, Any]]:
        """Return the records of a table of subscriptions."""

    def digest(self, record: StreamRecord) -> bytes:
        """Return a digest of a stream's state, bytes and producers."""
        digest = blake2b(tables.STREAMS.pack(_portable(record)))
        # Both sides divide the bytes differently.
        for _, _, data in self.rows(record):
            digest.update(data)
        for name, generation, state in sorted(self.producers(record)):
            digest.update(msgspec.msgpack.encode((name, generation, state)))
        return digest.digest()


def _portable(record: StreamRecord) -> StreamRecord:
    """Return the record of a stream without positions of its records in a data directory."""
    return StreamRecord(record.state, record.indexed_at, None, record.producers)


class _DirectorySide(_Side):
    """Snapshot of a data directory."""

    def __init__(self, view: Snapshot) -> None:
        self._view = view

    def streams(self, after: int) -> Iterator[StreamRecord]:
        first = codec.pack_integer(after + 1)
        for _, record in tables.scan(self._view, tables.STREAMS, first, None):
            yield record

    def rows(self, record: StreamRecord) -> Iterator[Row]:
        state = record.state
        first, stop = codec.data_key(state.id, 0), codec.data_key(state.id, state.tail)
        # Bytes beyond the tail belong to a body that was never appended.
        for key, value in self._view.scan(first, stop):
            flags, data = codec.unpack_data(bytes(key), value)
            position = codec.position_of(key)
            yield position, flags, bytes(data[: state.tail - position])

    def producers(self, record: StreamRecord) -> list[ProducerRow]:
        found = []
        _, (first, stop) = codec.stream_ranges(record.state.id)
        for key, value in self._view.scan(first, stop):
            generation, name = codec.parse_producer_key(bytes(key))
            if record.producers.remembers(generation):
                found.append((name, generation, tables.PRODUCERS.unpack(bytes(key), value)))
        return found

    def records(self, table: tables.Table[Any]) -> list[tuple[bytes, Any]]:
        return list(tables.scan(self._view, table, b"", None))


class _DatabaseSide(_Side):
    """Tables of a database."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def _pages(
        self, query: str, fixed: tuple[object, ...], after: int
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query whose first column is its key, a page at a time."""
        while True:
            rows = self._connection.execute(
                f"{query} LIMIT {_PAGE}".encode(), (*fixed, after), binary=True
            ).fetchall()
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def streams(self, after: int) -> Iterator[StreamRecord]:
        query = "SELECT id, record FROM stream WHERE id > %s ORDER BY id"
        for number, record in self._pages(query, (), after):
            yield tables.STREAMS.decode(codec.stream_key(number), record)

    def rows(self, record: StreamRecord) -> Iterator[Any]:
        query = (
            "SELECT position, flags, data FROM chunk WHERE stream_id = %s AND position > %s "
            "ORDER BY position"
        )
        yield from self._pages(query, (record.state.id,), -1)

    def producers(self, record: StreamRecord) -> list[ProducerRow]:
        rows = self._connection.execute(
            "SELECT name, generation, epoch, last_seq FROM producer WHERE stream_id = %s",
            (record.state.id,),
            binary=True,
        )
        return [
            (name, generation, ProducerState(epoch, last))
            for name, generation, epoch, last in rows
            if record.producers.remembers(generation)
        ]

    def records(self, table: tables.Table[Any]) -> list[tuple[bytes, Any]]:
        (name,) = [name for name, each in RECORDS if each is table]
        rows = self._connection.execute(
            f"SELECT key, record FROM {name} ORDER BY key".encode(), binary=True
        )
        return [(key, table.decode(table.prefix + key, record)) for key, record in rows]


def _groups(streams: Iterable[StreamRecord]) -> Iterator[list[StreamRecord]]:
    group: list[StreamRecord] = []
    size = 0
    for record in streams:
        group.append(record)
        size += record.state.tail
        if len(group) == _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _compare(source: _Side, copy: _Side, count: int, progress: Progress) -> Moved:
    """Compare all streams of both sides, and count them. Raises `StoreUnusable`."""
    moved = Moved()
    copied = copy.streams(0)
    for record in source.streams(0):
        other = next(copied, None)
        if other is None or source.digest(record) != copy.digest(other):
            raise StoreUnusable(
                f"the copy of stream {record.state.path!r} differs: nothing was completed, and the "
                "source is unchanged"
            )
        moved.streams += 1
        moved.bytes += record.state.tail
        progress("comparing", moved.streams, count)
    if next(copied, None) is not None:
        raise StoreUnusable("the copy has streams that the source does not have")
    for _, table in RECORDS:
        if source.records(table) != copy.records(table):
            raise StoreUnusable("the copies of subscriptions differ: nothing was completed")
    moved.subscriptions = len(source.records(tables.SUBSCRIPTIONS))
    return moved


# -- from a directory to a database -------------------------------------------------------------


def move_to_database(
    directory: str, settings: DatabaseSettings, keys: str, now: int, progress: Progress
) -> Moved:
    """Copy the store in a data directory to a database.

    ``keys`` is the name of the keyring's file, ``now`` is in ms since the Unix epoch. The schema
    must have no streams but those of an interrupted move from the same directory. Raises
    `StoreUnusable`.
    """
    if (process := owner(directory)) is not None:
        raise StoreUnusable(f"process {process} uses {directory}: stop the server first")
    keyring = _keyring(os.path.join(directory, keys))
    with (
        _translated_errors(),
        Inspection(directory) as inspection,
        inspection.snapshot() as view,
        connect(settings) as connection,
    ):
        _refuse_unfinished(view, directory)
        checkpoint = read_checkpoint_record(view)
        assert checkpoint is not None, "every store has a checkpoint record"
        _refuse_nodes(connection)
        migrate(connection, settings, now)
        mark = _begin(connection, Mark(checkpoint.wal_id.hex()), settings.schema)
        source, copy = _DirectorySide(view), _DatabaseSide(connection)
        count = sum(1 for _ in view.scan(*codec.STREAMS))
        done = 0
        for group in _groups(source.streams(mark.last)):
            with connection.transaction():
                _insert(connection, source, group)
                last = Mark(mark.source, group[-1].state.id)
                write_secret(connection, MOVE_MARK, msgspec.json.encode(last))
            done += len(group)
            progress("moving", done, count)
        with connection.transaction():
            _insert_records(connection, source)
            moved = _compare(source, copy, count, progress)
            next_id = max(load_next_id(view), now << 20)
            connection.execute("SELECT setval('ids', greatest(nextval('ids'), %s))", (next_id,))
            # Bytes that are appended from now on belong to other incarnations than those that a
            # server on the directory may append.
            connection.execute(
                "UPDATE registry SET version = version + 1, lineage = nextval('ids')"
            )
            if keyring is not None:
                write_secret(connection, KEYRING_SECRET, keyring)
            connection.execute("DELETE FROM secret WHERE name = %s", (MOVE_MARK,))
        return moved


def _refuse_unfinished(view: Snapshot, directory: str) -> None:
    if next(tables.scan(view, tables.FAN_OUTS, b"", None), None) is not None:
        raise StoreUnusable(
            f"{directory} has unfinished updates of subscriptions: start a server on it, stop it, "
            "and try again"
        )


def _refuse_nodes(connection: psycopg.Connection[Any]) -> None:
    (row,) = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'durable-streams %' AND pid <> pg_backend_pid()"
    )
    if row[0]:
        raise StoreUnusable("nodes are connected to the database: stop them first")


def _begin(connection: psycopg.Connection[Any], mark: Mark, schema: str) -> Mark:
    """Return the progress of an interrupted move from the same source, or begin one."""
    with connection.transaction():
        known = read_secret(connection, MOVE_MARK)
        if known is not None:
            found = _mark.decode(known)
            if found.source != mark.source:
                raise StoreUnusable(
                    f"the schema {schema!r} has a part of another store, whose move was interrupted"
                )
            return found
        (occupied,) = connection.execute(
            "SELECT exists(SELECT FROM stream) OR exists(SELECT FROM subscription)"
        )
        if occupied[0]:
            raise StoreUnusable(f"the schema {schema!r} already has streams: use an empty one")
        write_secret(connection, MOVE_MARK, msgspec.json.encode(mark))
        return mark


def _insert(
    connection: psycopg.Connection[Any], source: _Side, group: Sequence[StreamRecord]
) -> None:
    columns = "stream_id int8, position int8, flags int2, data bytea"
    with _copy_into(connection, "chunk", columns) as write:
        for record in group:
            for row in joined(source.rows(record), _CHUNK_SIZE):
                write((record.state.id, *row))
    columns = "stream_id int8, name bytea, generation int8, epoch int8, last_seq int8"
    with _copy_into(connection, "producer", columns) as write:
        for record in group:
            for name, generation, producer in source.producers(record):
                write((record.state.id, name, generation, producer.epoch, producer.last_seq))
    columns = "id int8, path text, record bytea, due int8, source int8"
    with _copy_into(connection, "stream", columns) as write:
        for record in group:
            state = record.state
            fork = None if state.fork is None else state.fork.source_id
            packed = tables.STREAMS.pack(_portable(record))
            write((state.id, state.path, packed, record.indexed_at, fork))


def _insert_records(connection: psycopg.Connection[Any], source: _Side) -> None:
    for name, table in RECORDS:
        columns = "key bytea, record bytea"
        watched = table is tables.SUBSCRIPTIONS
        if watched:
            columns += ", due int8, node text, until int8"
        with _copy_into(connection, name, columns) as write:
            for key, value in source.records(table):
                due = next_action(value) if watched else None
                # Deadline 0: the first node that checks for duties takes this one.
                duty = (None, None, None) if due is None else (due[1], "moved", 0)
                write((key, table.pack(value), *(duty if watched else ())))


@contextmanager
def _copy_into(
    connection: psycopg.Connection[Any], table: str, columns: str
) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Yield a function that writes one row of a table by COPY."""
    pairs = [column.split() for column in columns.split(", ")]
    names = ", ".join(name for name, _ in pairs)
    statement = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([kind for _, kind in pairs])
        yield copy.write_row


# -- from a database to a directory -------------------------------------------------------------


def move_to_directory(
    settings: DatabaseSettings, directory: str, keys: str, now: int, progress: Progress
) -> Moved:
    """Copy the streams in a database to a data directory, which must have no store.

    ``keys`` is the name of the keyring's file, ``now`` is in ms since the Unix epoch. Raises
    `StoreUnusable`, and `FlawedStore` if the copy fails its check.
    """
    if os.path.exists(os.path.join(directory, files.DATA_FILE)):
        raise StoreUnusable(f"{directory} already has a store: use an empty directory")
    lock = DataDirLock(directory, frozenset((_DRAFT, keys)))
    draft = os.path.join(directory, _DRAFT)
    try:
        with _translated_errors(), connect(settings) as connection:
            _refuse_nodes(connection)
            if read_secret(connection, MOVE_MARK) is not None:
                raise StoreUnusable("the database has only a part of a store: complete that move")
            source = _DatabaseSide(connection)
            count = _write_draft(connection, source, draft, now, progress)
            with Inspection(draft, alone=True) as inspection:
                with inspection.snapshot() as view:
                    moved = _compare(source, _DirectorySide(view), count, progress)
                verify(inspection, draft, progress)
            detach(draft, now)
            keyring = read_secret(connection, KEYRING_SECRET)
        if keyring is not None:
            files.remove_files(directory, (keys,))
            with FileWriter(os.path.join(directory, keys)) as file:
                file.write(keyring)
        files.persist(directory)
        os.replace(draft, os.path.join(directory, files.DATA_FILE))
        files.persist(directory)
        return moved
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used: {error.strerror}") from None
    finally:
        lock.release()


def _write_draft(
    connection: psycopg.Connection[Any], source: _Side, draft: str, now: int, progress: Progress
) -> int:
    """Write all streams to a draft of a data file. Return the number of streams."""
    row = connection.execute(
        "SELECT created_at::text || ' ' || (SELECT last_value FROM ids)::text, "
        "(SELECT count(*) FROM stream), (SELECT last_value FROM ids) FROM meta"
    ).fetchone()
    assert row is not None, "a migration has made the row"
    count: int
    identity, count, last_id = row
    environment = open_environment(draft, draft, subdir=False, lock=False)
    try:
        mark = Mark(identity)
        with environment.begin() as reading:
            known = reading.get(_MARK_KEY)
        if known is not None:
            found = _mark.decode(known)
            if found.source != identity:
                raise StoreUnusable(f"{draft} is a part of another store: remove it")
            mark = found
        done = 0
        for group in _groups(source.streams(mark.last)):
            with environment.begin(write=True) as batch:
                for record in group:
                    _put_stream(batch, source, record)
                batch.put(_MARK_KEY, msgspec.json.encode(Mark(identity, group[-1].state.id)))
            done += len(group)
            progress("moving", done, count)
        with environment.begin(write=True) as batch:
            for _, table in RECORDS:
                for key, value in source.records(table):
                    _put(batch, table.prefix + key, table.pack(value))
            _put(batch, codec.NEXT_ID_KEY, codec.pack_integer(last_id + 1))
            batch.put(codec.META_KEY, codec.pack_meta(codec.Meta(codec.FORMAT, __version__, now)))
            batch.delete(_MARK_KEY)
    finally:
        environment.close()
    return count


def _put(batch: Any, key: bytes, payload: bytes) -> None:
    batch.put(key, codec.seal(key, payload))


def _put_stream(batch: Any, source: _Side, record: StreamRecord) -> None:
    state = record.state
    is_json = content_types.is_json(state.content_type)
    last: int | None = None
    for last, flags, data in divided(source.rows(record), RECORD_PAYLOAD, is_json):
        key = codec.data_key(state.id, last)
        batch.put(key, codec.pack_data(key, flags, data))
    for name, generation, producer in source.producers(record):
        _put(batch, codec.producer_key(state.id, generation, name), tables.PRODUCERS.pack(producer))
    _put(batch, codec.path_key(state.path), codec.pack_path(state.path, state.id))
    if record.indexed_at is not None:
        batch.put(codec.deadline_key(record.indexed_at, state.id), b"")
    written = StreamRecord(state, record.indexed_at, last, record.producers)
    _put(batch, codec.stream_key(state.id), tables.STREAMS.pack(written))


# -- keys and errors ----------------------------------------------------------------------------


def _keyring(path: str) -> bytes | None:
    with store_unusable(f"could not read {path}"), suppress(FileNotFoundError):
        return Path(path).read_bytes()
    return None


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, lmdb.Error) as error:
        raise StoreUnusable(f"the move failed: {reason_of(error)}") from None
    except CorruptRecord as corrupt:
        raise StoreUnusable(f"the store is damaged: {corrupt}") from None
