"""Transaction of one batch of commands in PostgreSQL.

The committer has locked and read what the commands need; the transaction decides in memory and
writes everything in one pipeline with the commit. Other rows that are only read are read through
the connection; those that have to be locked raise `MissingLock`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol.limits import KIB, MIB
from durable_streams_tw.protocol.streams import lineage
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.producers import (
    FIRST_GENERATION,
    Generation,
    ProducerState,
)
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut, Subscription, next_action
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Change, RecordChange
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.postgres import reader
from durable_streams_tw.storage.postgres.arrays import ByteaArray, Int8Array, TextArray, TidArray
from durable_streams_tw.storage.postgres.duties import DEADLINE
from durable_streams_tw.storage.postgres.locks import MissingLock
from durable_streams_tw.storage.postgres.packing import NewChunks
from durable_streams_tw.storage.shared.record_layout import fill

T = TypeVar("T")

CHUNK_SIZE: Final = 64 * KIB
"""Bytes of a stream in one row at most."""

#: Bytes of chunks in one statement. A node whose statement takes longer than `MAX_IDLE_TRANSACTION`
#: to arrive is taken for frozen.
_STATEMENT_SIZE: Final = 1 * MIB

# `unnest` in the list of columns costs less than in FROM, where PostgreSQL stores its rows first.
_INSERT_CHUNKS: Final = """INSERT INTO chunk (stream_id, position, flags, data)
SELECT unnest(%s), unnest(%s), unnest(%s), unnest(%s)"""
_INSERT_STREAMS: Final = """INSERT INTO stream (id, path, record, due, source)
SELECT unnest(%s), unnest(%s), unnest(%s), unnest(%s), unnest(%s)"""
# No other transaction moves a locked row, and no other statement of this one does before.
_UPDATE_STREAMS: Final = """UPDATE stream s SET record = w.record, due = w.due
FROM (SELECT unnest(%s) AS tid, unnest(%s) AS record, unnest(%s) AS due) w WHERE s.ctid = w.tid"""
_POSTPONE: Final = """UPDATE stream s SET due = w.due
FROM unnest(%s, %s) AS w (id, due) WHERE s.id = w.id"""
_DELETE_STREAMS: Final = "DELETE FROM stream WHERE id = ANY(%s)"
# The lock of the stream covers rows that it knows; garbage collection deletes only others.
_UPDATE_PRODUCERS: Final = """UPDATE producer p SET generation = w.generation, epoch = w.epoch,
  last_seq = w.last_seq
FROM (SELECT unnest(%s) AS tid, unnest(%s) AS generation, unnest(%s) AS epoch,
  unnest(%s) AS last_seq) w WHERE p.ctid = w.tid"""
_SAVE_PRODUCERS: Final = """INSERT INTO producer (stream_id, name, generation, epoch, last_seq)
SELECT unnest(%s), unnest(%s), unnest(%s), unnest(%s), unnest(%s)
ON CONFLICT (stream_id, name) DO UPDATE SET generation = EXCLUDED.generation,
  epoch = EXCLUDED.epoch, last_seq = EXCLUDED.last_seq"""
_INSERT_GARBAGE: Final = """INSERT INTO garbage (id, generation) SELECT * FROM unnest(%s, %s)
ON CONFLICT DO NOTHING"""
_DEADLINE: Final = DEADLINE.replace("%s", "(due - %s)")
_SAVE_SUBSCRIPTIONS: Final = f"""INSERT INTO subscription (key, record, due, node, until)
SELECT key, record, due, CASE WHEN due IS NOT NULL THEN %s END,
  CASE WHEN due IS NOT NULL THEN {_DEADLINE} END FROM unnest(%s, %s, %s) AS w (key, record, due)
ON CONFLICT (key) DO UPDATE SET record = EXCLUDED.record, due = EXCLUDED.due,
  node = EXCLUDED.node, until = EXCLUDED.until"""
_CHANGED_REGISTRY: Final = "UPDATE registry SET version = version + 1"
PRODUCERS: Final = """SELECT p.stream_id, p.name, p.generation, p.epoch, p.last_seq, p.tid
FROM (SELECT unnest(%s) AS id, unnest(%s) AS name) w
CROSS JOIN LATERAL (SELECT p.*, p.ctid AS tid FROM producer p
  WHERE p.stream_id = w.id AND p.name = w.name OFFSET 0) p"""
"""Statement that reads producers, by `ProducerRows.parameters`."""

_PACK: Final = {tables.LINKS.prefix: tables.LINKS.pack, tables.CURSORS.prefix: tables.CURSORS.pack}

_MISSING: Any = object()

#: Executes a statement with its parameters, now or later.
Execute = Callable[[str, Sequence[Any]], object]


class IdSource(Protocol):
    """Source of ids that increase; `committer.Committer` takes blocks of them from the database."""

    def next_id(self, floor: int) -> int:
        """Return an id greater than ``floor`` that was never returned before, at any node."""


class LockedStream(Struct, gc=False):
    """Row of a stream in a transaction, as fields that it changes in place.

    ``tid`` is the row's place in the table, empty for a stream that the transaction creates.
    """

    state: StreamState
    due: int | None = None
    producers: Generation = FIRST_GENERATION
    tid: bytes = b""

    def record(self) -> bytes:
        """Return the record to write."""
        return tables.STREAMS.pack(StreamRecord(self.state, self.due, None, self.producers))


def decode_row(tid: bytes, record: bytes) -> LockedStream:
    """Return a row that was locked. Raises `CorruptRecord`."""
    found = tables.STREAMS.decode(b"stream", record)
    return LockedStream(found.state, found.indexed_at, found.producers, tid)


class KnownProducer(Struct, gc=False):
    """Row of a producer; ``tid`` is its place in the table, empty if it may have none."""

    generation: int
    state: ProducerState
    tid: bytes = b""


#: Stream id and producer id.
ProducerKey = tuple[int, str]


class ProducerRows(dict[tuple[int, bytes], ProducerKey]):
    """Keys of producers by the stream id and the name in their rows."""

    def __init__(self, keys: Iterable[ProducerKey]) -> None:
        super().__init__([((key[0], codec.producer_name(key[1])), key) for key in keys])

    def parameters(self) -> tuple[Int8Array, ByteaArray]:
        """Return the parameters of `PRODUCERS`: stream ids and names."""
        return Int8Array([row[0] for row in self]), ByteaArray([row[1] for row in self])


class LockedRows(Struct):
    """Streams that a committer has locked, and the paths and ids that it was to lock.

    A path or id without a stream is absent. ``corrupt`` streams, by path and by id, cannot be
    decoded.
    """

    streams: list[LockedStream]
    paths: set[str]
    ids: set[int]
    corrupt: dict[str | int, CorruptRecord]


class NodeContext(Struct, frozen=True):
    """State that the transactions of a committer share.

    ``node`` is written to subscriptions whose next action this node will carry out.
    """

    node: str
    access: AccessTimes
    ids: IdSource
    max_producers: int


def _no_chunks() -> tuple[Int8Array, Int8Array, Int8Array, ByteaArray]:
    """Return the parameters of `_INSERT_CHUNKS` without any row."""
    return Int8Array(), Int8Array(), Int8Array(), ByteaArray()


def _columns(producers: Iterable[KnownProducer]) -> Iterator[Int8Array]:
    """Yield the generations, epochs and last sequence numbers of producers."""
    for name in ("generation", "state.epoch", "state.last_seq"):
        yield Int8Array(map(attrgetter(name), producers))


def _rows(bodies: list[Body]) -> Iterable[tuple[bytes, int]]:
    """Return the bytes and flags of the chunks of consecutive bodies."""
    if len(bodies) == 1 and len(bodies[0].data) <= CHUNK_SIZE:
        return ((bodies[0].data, 0),)
    return ((payload, piece.flags) for payload, piece in fill(bodies, CHUNK_SIZE))


class DatabaseTransaction:
    """`Transaction` over rows that a committer has locked.

    ``locked`` are its rows. ``first_id`` is the least id of this copy of the database.
    ``exclusive`` means that the registry's lock is exclusive, so commands may change which
    subscriptions there are. ``now`` is in ms since the Unix epoch. ``writes`` increases with every
    write. All methods that read may raise `CorruptRecord` and `psycopg.Error`, those of rows that
    have to be locked also `MissingLock`.
    """

    def __init__(
        self,
        connection: reader.Connection,
        context: NodeContext,
        locked: LockedRows,
        *,
        index: SubscriptionIndex,
        first_id: int,
        now: int,
        exclusive: bool,
        has_space: bool,
    ) -> None:
        self.connection = connection
        self.access = context.access
        self.process_first_id = first_id
        self.index = index
        self.has_space = has_space
        self.fan_outs: OrderedDict[str, FanOut] = OrderedDict()
        self.changes: list[Change] = []
        self.notes: list[RecordChange] = []
        self.writes = 0
        self.reads_unlocked = False
        self._context = context
        self._now = now
        self._exclusive = exclusive
        self._paths = locked.paths
        self._ids = locked.ids
        self._corrupt = locked.corrupt
        self._by_path = {stream.state.path: stream for stream in locked.streams}
        self._by_id = {stream.state.id: stream for stream in locked.streams}
        self._floor: int | None = None
        self._unlocked: dict[str, StreamState | CorruptRecord | None] = {}
        self._ancestors: dict[int, StreamState] = {}
        self._dirty: dict[int, LockedStream] = {}
        #: Ids of streams that this transaction creates.
        self.created: set[int] = set()
        # Old tail, and the bodies from there on, by stream id.
        self._bodies: dict[int, tuple[int, list[Body]]] = {}
        self._deleted: list[int] = []
        self._postponed: dict[int, int] = {}
        self._garbage: list[tuple[int, int]] = []
        # None if there is no row.
        self._producers: dict[ProducerKey, KnownProducer | None] = {}
        self._dirty_producers: dict[ProducerKey, KnownProducer] = {}
        # Records by table and key, None if the key has none.
        self._records: dict[bytes, dict[bytes, Any]] = {prefix: {} for prefix in reader.TABLES}
        self._dirty_records: dict[bytes, dict[bytes, Any]] = {
            prefix: {} for prefix in reader.TABLES
        }
        #: Chunks of each stream that grew.
        self.chunks: dict[int, NewChunks] = {}
        self._flushed = False
        #: Bytes of all bodies.
        self.size = 0

    # -- read by the committer ------------------------------------------------------------------

    def set_cursors(self, cursors: Mapping[bytes, Any]) -> None:
        """Take cursors that were read under the locks of their streams; None if there is none."""
        self._records[tables.CURSORS.prefix].update(cursors)

    def set_subscriptions(self, subscriptions: Mapping[bytes, Subscription | None]) -> None:
        """Take subscriptions whose rows are locked, by key; None if there is none."""
        self._records[tables.SUBSCRIPTIONS.prefix].update(subscriptions)

    def set_producers(self, wanted: ProducerRows, rows: Iterable[Sequence[Any]]) -> None:
        """Take the rows of producers, which `PRODUCERS` has read under the locks of streams."""
        self._producers.update(dict.fromkeys(wanted.values()))
        for stream_id, name, generation, epoch, last_seq, tid in rows:
            key, state = wanted[stream_id, name], ProducerState(epoch, last_seq)
            self._producers[key] = KnownProducer(generation, state, tid)

    def load_producers(self, keys: Iterable[ProducerKey]) -> None:
        """Read producers of locked streams."""
        wanted = ProducerRows(keys)
        if not wanted:
            return
        rows = self.connection.execute(PRODUCERS, wanted.parameters(), binary=True)
        self.set_producers(wanted, rows)

    # -- Transaction ----------------------------------------------------------------------------

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path, or None.

        With ``reads_unlocked``, a stream that clients can use and that the command does not write
        is returned without a lock.
        """
        stream = self._by_path.get(path)
        if stream is not None:
            return stream.state
        if path in self._corrupt:
            raise self._corrupt[path]
        if path in self._paths:
            return None
        if self.reads_unlocked and not self.index.with_wake_stream(path):
            self.load_unlocked([path])
            state = self._unlocked[path]
            if isinstance(state, CorruptRecord):
                raise state
            if (
                state is not None
                and not state.deleted
                and not self.access.has_ended(state, self._now)
            ):
                return state
        raise MissingLock(path)

    def load_unlocked(self, paths: list[str]) -> None:
        """Read the states of streams without locks, those that are not known yet."""
        wanted = [
            path for path in paths if path not in self._by_path and path not in self._unlocked
        ]
        if wanted:
            found = reader.load_streams(self.connection, wanted)
            for path in wanted:
                self._unlocked[path] = found.get(path)

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id, or None."""
        stream = self._by_id.get(stream_id)
        if stream is None:
            if stream_id in self._corrupt:
                raise self._corrupt[stream_id]
            if stream_id not in self._ids:
                raise MissingLock(stream_id)
        return None if stream is None else stream.state

    def _lookup(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id for reading its bytes, which needs no lock."""
        stream = self._by_id.get(stream_id)
        if stream is not None:
            return stream.state
        return reader.load_ancestor(self.connection, self._ancestors, stream_id)

    def _reader(self) -> reader.ConnectionReader:
        """Return a reader of the bytes of streams.

        An attribute would make a reference cycle, and bodies of batches would stay in memory until
        the garbage collector runs.
        """
        return reader.ConnectionReader(self.connection, self._lookup)

    def new_id(self) -> int:
        """Return an id greater than those of all locked streams and their lineages."""
        if self._floor is None:
            newest = [lineage.newest_incarnation(each.state) for each in self._by_id.values()]
            self._floor = max([*newest, self.process_first_id, *self._by_id])
        self._floor = self._context.ids.next_id(self._floor)
        return self._floor

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a producer, or None."""
        known = self._producer(self._by_id[stream_id], (stream_id, producer_id))
        return None if known is None else known.state

    def _producer(self, stream: LockedStream, key: ProducerKey) -> KnownProducer | None:
        """Return a producer, or None if neither generation has it."""
        if key not in self._producers:
            if stream.state.id in self.created:
                return None
            self.load_producers([key])
        known, current = self._producers[key], stream.producers
        if known is None or current.remembers(known.generation):
            return known
        return None

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a stream, including those of this batch."""
        self._flush_chunks(self._execute)
        return self._reader().message_runs(state, start)

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position is a message boundary."""
        if position not in (0, state.tail):
            self._flush_chunks(self._execute)
        return self._reader().is_boundary(state, position)

    def save(self, state: StreamState) -> None:
        """Write the state of a new or changed stream."""
        self.writes += 1
        stream = self._by_id.get(state.id)
        if stream is None:
            stream = LockedStream(state)
            self._by_id[state.id] = self._by_path[state.path] = stream
            self.created.add(state.id)
        elif state.touched_at < stream.state.touched_at:
            # The clock of the node that touched the stream last is ahead of this one's.
            state = replace(state, touched_at=stream.state.touched_at)
        stream.state = state
        deadline = None if state.deleted else state.deadline()
        # The sweep moves an entry that is too early. Moving it here would change an index with
        # every append to a stream with a TTL.
        due = stream.due
        if due != deadline and (deadline is None or due is None or deadline < due):
            stream.due = deadline
        self._dirty[state.id] = stream

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write the state of a stream's producer."""
        stream = self._by_id[stream_id]
        key = stream_id, producer_id
        known = self._producer(stream, key)
        if known is None or known.generation != stream.producers.number:
            before = stream.producers
            after = stream.producers = before.joined(self._context.max_producers)
            if after.number > max(before.number, 1):
                self._garbage.append((stream_id, after.number - 1))
        tid = b"" if known is None else known.tid
        written = KnownProducer(stream.producers.number, state, tid)
        self._producers[key] = self._dirty_producers[key] = written

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Append a body at the old tail. The stream must have been saved in this batch."""
        pending = self._bodies.get(state.id)
        if pending is None:
            self._bodies[state.id] = start, [body]
        else:
            pending[1].append(body)
        self.size += len(body.data)

    def is_receiving(self, path: str) -> bool:
        """Return False: a body is written in one transaction, whatever its size."""
        return False

    def remove_stream(self, state: StreamState) -> None:
        """Remove a stream's row; the sweep deletes its bytes and producers later."""
        self.writes += 1
        stream = self._by_id.pop(state.id)
        if self._by_path.get(state.path) is stream:
            del self._by_path[state.path]
        self._paths.add(state.path)
        self._ids.add(state.id)
        self._dirty.pop(state.id, None)
        self._bodies.pop(state.id, None)
        if state.id in self.created:
            self.created.remove(state.id)
        else:
            self._deleted.append(state.id)
        self._garbage.append((state.id, 0))

    # -- records --------------------------------------------------------------------------------

    def get(self, table: tables.Table[T], key: bytes) -> T | None:
        """Return the record of a key, or None. Subscriptions have to be locked."""
        if table is tables.FAN_OUTS:
            return None
        known: T | None = self._records[table.prefix].get(key, _MISSING)
        if known is _MISSING:
            if table.prefix == tables.SUBSCRIPTIONS.prefix:
                raise MissingLock(key)
            known = self._records[table.prefix][key] = reader.load(self.connection, table, key)
        return known

    def put(self, table: tables.Table[T], key: bytes, value: T) -> None:
        """Write a record."""
        self._record(table, key, value)

    def remove(self, table: tables.Table[T], key: bytes) -> None:
        """Remove a record if it exists."""
        self._record(table, key, None)

    def _record(self, table: tables.Table[T], key: bytes, value: T | None) -> None:
        self.writes += 1
        if table is tables.FAN_OUTS:
            # A fan-out ends in the transaction in which it begins: nothing of it is stored.
            return
        self._records[table.prefix][key] = self._dirty_records[table.prefix][key] = value
        if table.watched:
            self.notes.append(RecordChange(table, key, value))

    def range(
        self, table: tables.Table[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records of a range in order, including those of this batch."""
        self._flush_records(table.prefix, self._execute)
        rows = reader.scan(self.connection, table, first, stop)
        if table.prefix != tables.CURSORS.prefix:
            return rows
        return self._load_ahead(rows)

    def _load_ahead(self, cursors: Iterator[tuple[bytes, Any]]) -> Iterator[tuple[bytes, Any]]:
        """Read the streams of cursors a few at a time: one by one, each would be a round trip."""
        size = 1
        while True:
            page = list(islice(cursors, size))
            if self.reads_unlocked:
                self.load_unlocked([cursor.path for _, cursor in page])
            yield from page
            if len(page) < size:
                return
            size = min(8 * size, 512)

    def owns(self, table: tables.Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table."""
        self._flush_records(table.prefix, self._execute)
        first, stop = tables.owned_range(number)
        query = f"SELECT 1 FROM {reader.TABLES[table.prefix]} WHERE key >= %s AND key < %s LIMIT 1"
        return self.connection.execute(query.encode(), (first, stop)).fetchone() is not None

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns, in later steps of the sweep."""
        self.writes += 1
        self._garbage.append((number, 0))

    # -- sweep ----------------------------------------------------------------------------------

    def is_locked(self, stream_id: int) -> bool:
        """Return whether a stream exists and no other node had locked it."""
        return stream_id in self._by_id

    def postpone(self, stream_id: int, until: int) -> None:
        """Let the sweep check a failed stream later; ``until`` is in ms since the Unix epoch."""
        self.writes += 1
        self._postponed[stream_id] = until

    def reindex(self, stream_id: int, deadline: int | None) -> None:
        """Move the moment at which the sweep checks a stream, in ms since the Unix epoch."""
        stream = self._by_id.get(stream_id)
        if stream is not None and stream.due != deadline:
            self.writes += 1
            stream.due = deadline
            self._dirty[stream_id] = stream

    # -- flush ----------------------------------------------------------------------------------

    def _execute(self, statement: str, parameters: Sequence[Any]) -> None:
        """Execute a statement at once, because a later one of the decision needs its result."""
        self.connection.execute(statement.encode(), parameters)

    def flush(self, execute: Execute) -> bool:
        """Write all changes with ``execute``; return whether there were any."""
        written = self._flushed
        if self._deleted:
            written = True
            execute(_DELETE_STREAMS, (Int8Array(self._deleted),))
        if self._dirty:
            written = True
            self._flush_streams(execute)
        if self._postponed:
            written = True
            execute(_POSTPONE, (Int8Array(self._postponed), Int8Array(self._postponed.values())))
        written = self._flush_chunks(execute) or written
        self._flush_producers(execute)
        if self._garbage:
            written = True
            execute(
                _INSERT_GARBAGE,
                (
                    Int8Array([number for number, _ in self._garbage]),
                    Int8Array([generation for _, generation in self._garbage]),
                ),
            )
        for prefix in reader.TABLES:
            written = self._flush_records(prefix, execute) or written
        if written and self._exclusive:
            execute(_CHANGED_REGISTRY, ())
        return written

    def _flush_streams(self, execute: Execute) -> None:
        old = [stream for stream in self._dirty.values() if stream.tid]
        if old:
            execute(
                _UPDATE_STREAMS,
                (
                    TidArray([stream.tid for stream in old]),
                    ByteaArray([stream.record() for stream in old]),
                    Int8Array([stream.due for stream in old]),
                ),
            )
        if self.created:
            # In the order of paths: nodes that create the same streams wait for each other here.
            new = sorted(
                [self._dirty[number] for number in self.created], key=lambda each: each.state.path
            )
            forks = [each.state.fork for each in new]
            execute(
                _INSERT_STREAMS,
                (
                    Int8Array([each.state.id for each in new]),
                    TextArray([each.state.path for each in new]),
                    ByteaArray([each.record() for each in new]),
                    Int8Array([each.due for each in new]),
                    Int8Array([None if fork is None else fork.source_id for fork in forks]),
                ),
            )

    def _flush_producers(self, execute: Execute) -> None:
        # The producers of a stream that was removed in this batch are not written.
        dirty = {key: p for key, p in self._dirty_producers.items() if key[0] in self._dirty}
        old = [producer for producer in dirty.values() if producer.tid]
        if old:
            tids = TidArray([producer.tid for producer in old])
            execute(_UPDATE_PRODUCERS, (tids, *_columns(old)))
        new = {key: producer for key, producer in dirty.items() if not producer.tid}
        if new:
            execute(_SAVE_PRODUCERS, (*ProducerRows(new).parameters(), *_columns(new.values())))

    def _flush_chunks(self, execute: Execute) -> bool:
        bodies, self._bodies = self._bodies, {}
        ids, positions, flags, data = _no_chunks()
        size = 0
        for stream_id, (position, pending) in bodies.items():
            written = self.chunks.get(stream_id)
            if written is None:
                written = self.chunks[stream_id] = NewChunks(position)
            for payload, flag in _rows(pending):
                ids.append(stream_id)
                positions.append(position)
                flags.append(flag)
                data.append(payload)
                position += len(payload)
                written.count += 1
                size += len(payload)
                if size >= _STATEMENT_SIZE:
                    execute(_INSERT_CHUNKS, (ids, positions, flags, data))
                    ids, positions, flags, data = _no_chunks()
                    size = 0
        if ids:
            execute(_INSERT_CHUNKS, (ids, positions, flags, data))
        self._flushed = self._flushed or bool(bodies)
        return bool(bodies)

    def _flush_records(self, prefix: bytes, execute: Execute) -> bool:
        dirty, self._dirty_records[prefix] = self._dirty_records[prefix], {}
        if not dirty:
            return False
        self._flushed = True
        table = reader.TABLES[prefix]
        removed = ByteaArray([key for key, value in dirty.items() if value is None])
        if removed:
            execute(f"DELETE FROM {table} WHERE key = ANY(%s)", (removed,))
        saved = {key: value for key, value in dirty.items() if value is not None}
        if not saved:
            return True
        keys = ByteaArray(saved)
        if prefix == tables.SUBSCRIPTIONS.prefix:
            due = [next_action(state) for state in saved.values()]
            execute(
                _SAVE_SUBSCRIPTIONS,
                (
                    self._context.node,
                    self._now,
                    keys,
                    ByteaArray([tables.SUBSCRIPTIONS.pack(state) for state in saved.values()]),
                    Int8Array([None if action is None else action[1] for action in due]),
                ),
            )
        else:
            pack: Any = _PACK[prefix]
            query = (
                f"INSERT INTO {table} (key, record) SELECT * FROM unnest(%s, %s) "
                "ON CONFLICT (key) DO UPDATE SET record = EXCLUDED.record"
            )
            execute(query, (keys, ByteaArray([pack(value) for value in saved.values()])))
        return True
