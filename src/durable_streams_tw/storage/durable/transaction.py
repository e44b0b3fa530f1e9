"""One batch of commands on a engine: what `apply` writes, gathered and put down at once.

Every call into LMDB gives the interpreter's lock away and has to win it back, so a batch
makes few: one read of a stream's record, if it is not remembered; at the end one write of
it, however many commands changed it, and as few data records as its new bytes fill.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Change, RecordChange
from durable_streams_tw.storage.commands.subscriptions import load_index
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.record_layout import Piece, cut
from durable_streams_tw.storage.durable.write_cache import OpenStream, WriteCache
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import WriteBatch
from durable_streams_tw.storage.engine.tables import (
    FAN_OUTS,
    STAGED,
    StagedBody,
    Table,
    name_key,
    owned_range,
)
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MERGE_RECORD, OWNED_AHEAD, RECORD_PAYLOAD

T = TypeVar("T")

_MISSING: Any = object()


class Offered(Struct):
    """Staged body that a command may take. ``taken`` says that it did."""

    record: StagedBody
    last_start: int
    new: bool
    taken: bool = False


class BatchTransaction:
    """A `Transaction` over a batch.

    ``published`` is what readers are to see once the batch is durable: states by path, None
    where a stream is gone. ``writes`` grows with every change of a stream, so that whoever
    met a failure can tell whether it left a trace. ``has_space`` is false while there is no room
    on the disk for what grows.
    """

    _log = Logger()

    def __init__(
        self, batch: WriteBatch, written: WriteCache, access: AccessTimes, has_space: bool = True
    ) -> None:
        self.has_space = has_space
        self.changes: list[Change] = []
        self.notes: list[RecordChange] = []
        self.published: dict[str, StreamState | None] = {}
        self.writes = 0
        self._batch = batch
        self._written = written
        self.access = access
        self._dirty: dict[int, OpenStream] = {}
        # Generation and state.
        self._dirty_producers: dict[tuple[int, str], tuple[int, ProducerState]] = {}
        # Records by table and whole key, not put down yet.
        self._dirty_records: dict[Table[Any], dict[bytes, Any]] = {}
        self._puts: dict[bytes, bytes] = {}
        # Data records among these, and streams with bodies that are not in any yet.
        self._data: dict[bytes, bytes] = {}
        self._bodies: dict[int, OpenStream] = {}
        self._deletes: list[bytes] = []
        self._put_down = False
        self._absent: set[str] = set()
        # Ids that have no record to be read: of streams that are gone, and of new ones.
        self._unwritten: set[int] = set()
        # Staged body that the command under way may take for its own.
        self._offered: Offered | None = None
        # Whether bytes of a staged body are in this batch.
        self.staging = False

    # -- Transaction ------------------------------------------------------------------------

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path."""
        stream = self._written.by_path.get(path)
        if stream is None:
            if path in self._absent:
                return None
            record = reader.load_stream_at(self._batch, path)
            if record is None:
                self._absent.add(path)
                return None
            stream = self._remember(record)
        return stream.state

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id."""
        stream = self._open(stream_id)
        return None if stream is None else stream.state

    def new_id(self) -> int:
        """Return the next id. The counter becomes durable with this batch."""
        offered = self._offered
        if offered is not None and offered.new:
            # The id under which the body was written.
            offered.new = False
            self._unwritten.add(offered.record.stream_id)
            return offered.record.stream_id
        written = self._written
        if written.next_id is None:
            written.next_id = max(reader.load_next_id(self._batch), self.process_first_id)
        given = written.next_id
        written.next_id = given + 1
        self._put(codec.NEXT_ID_KEY, codec.pack_integer(given + 1))
        self._unwritten.add(given)
        return given

    @property
    def process_first_id(self) -> int:
        """What all ids given by this process reach, and none given before."""
        written = self._written
        if written.process_first_id is None:
            try:
                known = reader.load_next_id(self._batch)
                # By chance, or copies whose clocks were set back would give the same ids.
                chance = int.from_bytes(self.random_bytes(2), "big")
                written.process_first_id = max(known, written.first_id) + chance
            except CorruptRecord:
                # Then no ids are given, and no incarnation can be told from another.
                return 0
        return written.process_first_id

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a producer, or None."""
        known = self._producer(stream_id, producer_id)
        return None if known is None else known[1]

    def _producer(self, stream_id: int, producer_id: str) -> tuple[int, ProducerState] | None:
        """Return a producer's generation and state, or None."""
        stream = self._open(stream_id)
        assert stream is not None, "producers are those of a stream that exists"
        current = stream.producers
        known = self._written.producers.get((stream_id, producer_id))
        if known is not None:
            if known[0] == current.number or current.remembers(known[0]):
                return known
            return None
        name = codec.producer_name(producer_id)
        for number in range(current.number, max(current.number - 2, -1), -1):
            key = codec.producer_key(stream_id, number, name)
            value = self._batch.get(key)
            if value is not None:
                known = number, codec.unpack_producer(key, value)
                self._written.producers.insert((stream_id, producer_id), known)
                return known
        return None

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a stream, those of this batch included."""
        self._flush_data()
        return reader.message_runs(self._batch, self.stream, state, start)

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Whether a position lies between messages."""
        if position not in (0, state.tail):
            self._flush_data()
        return reader.is_boundary(self._batch, self.stream, state, position)

    def save(self, state: StreamState) -> None:
        """Write a stream's state."""
        self.writes += 1
        stream = self._open(state.id)
        if stream is None:
            stream = self._remember(StreamRecord(state))
            key = codec.path_key(state.path)
            self._put(key, codec.pack_path(state.path, state.id))
            self._absent.discard(state.path)
        stream.state = state
        self._index(stream, None if state.deleted else state.deadline())
        self._dirty[state.id] = stream
        self.published[state.path] = state

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write what a stream remembers of a producer."""
        stream = self._dirty[stream_id]
        whole = stream_id, producer_id
        known = self._written.producers.get(whole)
        if known is None or known[0] != stream.producers.number:
            self._join(stream, producer_id)
        written = stream.producers.number, state
        self._written.producers.insert(whole, written)
        self._dirty_producers[whole] = written

    def _join(self, stream: OpenStream, producer_id: str) -> None:
        """Move a producer into the current generation, or the next one where that is full."""
        before, stream_id = stream.producers, stream.state.id
        known = self._producer(stream_id, producer_id)
        after = stream.producers = before.joined(self._written.max_producers)
        if after.number > max(before.number, 1):
            self._puts[codec.old_producers_key(stream_id, after.number - 1)] = b""
        if known is not None:
            name = codec.producer_name(producer_id)
            self._deletes.append(codec.producer_key(stream_id, known[0], name))

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Write bytes at the tail."""
        stream = self._dirty[state.id]
        offered = self._offered
        if offered is not None and offered.record.stream_id == state.id:
            assert offered.record.start == start, "the tail does not move while a body is written"
            offered.taken = True
            stream.last_start = offered.last_start
            self._written.keep(stream, None)
            return
        if not stream.pending:
            stream.pending_from = start
            self._bodies[state.id] = stream
        stream.pending.append(body)

    def remove_stream(self, state: StreamState) -> None:
        """End a stream: its names go now, its bytes in later steps."""
        stream = self._open(state.id)
        assert stream is not None, "only a stream that exists is forgotten"
        self.writes += 1
        self._written.forget(state)
        self._dirty.pop(state.id, None)
        self._bodies.pop(state.id, None)
        self._absent.add(state.path)
        self._unwritten.add(state.id)
        path_key = codec.path_key(state.path)
        self._puts.pop(path_key, None)
        self._deletes += [path_key, codec.stream_key(state.id)]
        self._index(stream, None)
        self._puts[codec.garbage_key(state.id)] = b""
        self.published[state.path] = None

    # -- records ------------------------------------------------------------------------------

    @property
    def index(self) -> SubscriptionIndex:
        """Which subscriptions there are."""
        index = self._written.index
        if index is None:
            index = self._written.index = load_index(self._batch, self._unreadable)
        return index

    @property
    def fan_outs(self) -> OrderedDict[str, FanOut]:
        """Unfinished fan-outs by the name of their stream, the oldest first."""
        known = self._written.fan_outs
        if known is None:
            known = self._written.fan_outs = OrderedDict()
            for _, found in tables.scan_with_errors(self._batch, FAN_OUTS, b"", None):
                if isinstance(found, CorruptRecord):
                    self._log.error("a fan-out is left out: {corrupt}", corrupt=found)
                else:
                    known[found.path] = found
        return known

    def get(self, table: Table[T], key: bytes) -> T | None:
        """Return the record of a key."""
        remembered = self._written.records
        whole = table.prefix + key
        known: T | None = remembered.get(whole, _MISSING)
        if known is _MISSING:
            known = tables.load(self._batch, table, key)
            remembered.insert(whole, known)
        return known

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a record."""
        self._record(table, key, value)

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record."""
        self._record(table, key, None)

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """Yield records in order, those of this batch included."""
        self._flush_records(table)
        return tables.scan(self._batch, table, first, stop)

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table.

        Keys are looked for some at a time, each time behind those before: a search from the
        first would pass over all that were removed since the map was brought up to date.
        """
        name = table.prefix, number
        known = self._written.ahead.get(name, [])
        behind = known[0] + b"\x00" if known else b""
        while known:
            if self.get(table, known[-1]) is not None:
                return True
            known.pop()
        first, stop = owned_range(number)
        behind = max(behind, first)
        for begin, end in ((behind, stop), (first, behind)):
            found = [key for key, _ in islice(self.range(table, begin, end), OWNED_AHEAD)]
            if found:
                self._written.ahead.put(name, found[::-1])
                return True
        self._written.ahead.pop(name)
        return False

    def remove_owned(self, number: int) -> None:
        """Let go of all that a number owns, in later steps."""
        self.writes += 1
        self._puts[codec.garbage_key(number)] = b""

    def random_bytes(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
        return os.urandom(size)

    def _record(self, table: Table[T], key: bytes, value: T | None) -> None:
        self.writes += 1
        whole = table.prefix + key
        self._written.records.insert(whole, value)
        self._dirty_records.setdefault(table, {})[whole] = value
        if table.watched:
            self.notes.append(RecordChange(table, key, value))

    def _flush_records(self, table: Table[Any] | None = None) -> bool:
        """Put records down, of one table or of all; whether there were any."""
        chosen = [table] if table is not None else list(self._dirty_records)
        for of in chosen:
            dirty = self._dirty_records.pop(of, None)
            if not dirty:
                continue
            self._put_down = True
            for whole, value in dirty.items():
                if value is None:
                    self._batch.delete(whole)
                else:
                    self._batch.put(whole, codec.seal(whole, of.pack(value)))
        return self._put_down

    def _unreadable(self, corrupt: CorruptRecord) -> None:
        self._log.error("a subscription is left out: {corrupt}", corrupt=corrupt)

    # -- staged bodies ------------------------------------------------------------------------

    @property
    def staged(self) -> dict[str, StagedBody]:
        """Bodies that are being written, or were when the process crashed, by stream."""
        known = self._written.staged
        if known is None:
            known = self._written.staged = {}
            for _, found in tables.scan_with_errors(self._batch, STAGED, b"", None):
                if isinstance(found, CorruptRecord):
                    self._log.error("a staged body is left out: {corrupt}", corrupt=found)
                else:
                    known[found.path] = found
        return known

    def is_receiving(self, path: str) -> bool:
        """Whether a body is being written beyond the tail of a stream."""
        return path in self.staged

    def begin_staging(self, record: StagedBody) -> None:
        """Record that data records from a position do not belong to the stream yet."""
        self.staged[record.path] = record
        self.put(STAGED, name_key(record.path), record)

    def end_staging(self, record: StagedBody) -> None:
        """Remove that record: the data belongs to the stream now, or is deleted."""
        del self.staged[record.path]
        self.remove(STAGED, name_key(record.path))

    def stage(self, stream_id: int, position: int, data: bytes, piece: Piece) -> None:
        """Write a data record beyond the tail."""
        self.writes += 1
        self.staging = True
        key = codec.data_key(stream_id, position)
        self._data[key] = codec.pack_data(key, _flags(piece), data[piece.start : piece.stop])

    @contextmanager
    def offering(self, record: StagedBody, last_start: int, new: bool) -> Iterator[Offered]:
        """Let the command within have a staged body in place of writing its own.

        ``new`` says that it creates the stream.
        """
        self._offered = offered = Offered(record, last_start, new)
        try:
            yield offered
        finally:
            self._offered = None

    # -- for the sweep ------------------------------------------------------------------------

    def reindex(self, stream_id: int, found_at: int, deadline: int | None) -> None:
        """Move a stream's entry among the deadlines from where it was found."""
        stream = self._open(stream_id)
        if stream is None or stream.indexed_at != found_at:
            self._deletes.append(codec.deadline_key(found_at, stream_id))
        if stream is not None:
            self._index(stream, None)
            self._index(stream, deadline)
            self._dirty[stream_id] = stream

    def postpone(self, stream_id: int, found_at: int, until: int) -> None:
        """Move the entry of a stream that cannot be read, unseen."""
        self._deletes.append(codec.deadline_key(found_at, stream_id))
        self._puts[codec.deadline_key(until, stream_id)] = b""

    def delete_key(self, key: bytes) -> None:
        """Remove a key of a stream that is gone."""
        self._deletes.append(key)

    # -- writing down -------------------------------------------------------------------------

    def flush(self) -> bool:
        """Put everything into the batch; whether there was anything.

        Raises `KeyspaceFull` and `KeyspaceFailed`.
        """
        batch = self._batch
        for key in self._deletes:
            batch.delete(key)
        self._flush_data()
        for stream in self._dirty.values():
            self._put(stream.key, codec.pack_stream(stream.record()))
        for (stream_id, producer_id), (number, producer) in self._dirty_producers.items():
            # One that was deleted in this batch has none.
            if stream_id in self._dirty:
                name = codec.producer_name(producer_id)
                key = codec.producer_key(stream_id, number, name)
                self._put(key, codec.pack_producer(producer))
        for key, value in self._puts.items():
            batch.put(key, value)
        return self._flush_records() or bool(self._puts or self._deletes)

    def _put(self, key: bytes, payload: bytes) -> None:
        self._puts[key] = codec.seal(key, payload)

    def _flush_data(self) -> None:
        bodies, self._bodies = self._bodies, {}
        for stream in bodies.values():
            self._write_data(stream)
        data, self._data = self._data, {}
        for key, value in data.items():
            self._batch.put(key, value)
        self._put_down = self._put_down or bool(data)

    def _open(self, stream_id: int) -> OpenStream | None:
        stream = self._written.by_id.get(stream_id)
        if stream is None and stream_id not in self._unwritten:
            record = reader.load_stream(self._batch, stream_id)
            return None if record is None else self._remember(record)
        return stream

    def _remember(self, record: StreamRecord) -> OpenStream:
        stream = OpenStream(record)
        self._written.remember(stream)
        return stream

    def _index(self, stream: OpenStream, deadline: int | None) -> None:
        # An entry that is early is harmless: the sweep looks and moves it. So a TTL that is
        # reset by every append costs no write here.
        indexed = stream.indexed_at
        if deadline is not None and indexed is not None and indexed <= deadline:
            return
        stream_id = stream.state.id
        if indexed is not None:
            key = codec.deadline_key(indexed, stream_id)
            self._puts.pop(key, None)
            self._deletes.append(key)
        if deadline is not None:
            self._puts[codec.deadline_key(deadline, stream_id)] = b""
        stream.indexed_at = deadline

    def _write_data(self, stream: OpenStream) -> None:
        bodies, stream.pending = stream.pending, []
        start = stream.pending_from
        run = [body.data for body in bodies]
        added = sum(map(len, run))
        if added > RECORD_PAYLOAD:
            self._write_long(stream, start, bodies)
            return
        more = b"".join(run)
        last = self._extendable(stream, start, added)
        if last is not None and stream.last_start is not None:
            key = codec.data_key(stream.state.id, stream.last_start)
            self._put_data(stream, key, codec.extend_data(last, more))
        else:
            self._write_record(stream, start, more, 0)

    def _write_long(self, stream: OpenStream, start: int, bodies: list[Body]) -> None:
        """Write bodies into several records, whole ones together where they fit."""
        run: list[bytes] = []
        filled = 0
        for body in bodies:
            size = len(body.data)
            if filled + size <= RECORD_PAYLOAD:
                run.append(body.data)
                filled += size
                continue
            if run:
                start = self._write_record(stream, start, b"".join(run), 0)
                run, filled = [], 0
            if size <= RECORD_PAYLOAD:
                run, filled = [body.data], size
                continue
            for piece in cut(body, RECORD_PAYLOAD):
                payload = body.data[piece.start : piece.stop]
                start = self._write_record(stream, start, payload, _flags(piece))
        if run:
            self._write_record(stream, start, b"".join(run), 0)

    def _write_record(self, stream: OpenStream, start: int, payload: bytes, flags: int) -> int:
        key = codec.data_key(stream.state.id, start)
        stream.last_start = start
        self._put_data(stream, key, codec.pack_data(key, flags, payload), flags)
        return start + len(payload)

    def _put_data(self, stream: OpenStream, key: bytes, value: bytes, flags: int = 0) -> None:
        self._data[key] = value
        extendable = not flags and codec.data_size(value) < MERGE_RECORD
        self._written.keep(stream, value if extendable else None)

    def _extendable(self, stream: OpenStream, tail: int, added: int) -> bytes | None:
        """Return the last record's value if it has room for that many more bytes."""
        if stream.last_start is None or tail - stream.last_start + added > MERGE_RECORD:
            return None
        if stream.last_value is not None:
            return stream.last_value
        key = codec.data_key(stream.state.id, stream.last_start)
        found = self._batch.get(key)
        if found is None:
            return None
        value = bytes(found)
        try:
            flags, payload = codec.unpack_data(key, value)
        except CorruptRecord:
            # Left as it is, so that reading finds it.
            return None
        whole = not flags and len(payload) == tail - stream.last_start
        return value if whole else None


def _flags(piece: Piece) -> int:
    before = codec.STARTS_MID_MESSAGE if piece.torn_before else 0
    return before | (codec.ENDS_MID_MESSAGE if piece.torn_after else 0)
