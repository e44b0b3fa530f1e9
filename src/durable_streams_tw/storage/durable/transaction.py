"""Transaction of one batch of commands on a key-value engine, written to it when the batch ends.

Every call into LMDB releases the GIL and has to acquire it again, so a batch makes few calls: it
reads a stream's record once if it is not cached, writes it once however many commands changed it,
and writes as few data records as the new bytes fill.
"""

from __future__ import annotations

import secrets
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
from durable_streams_tw.storage.durable.write_cache import OpenStream, WriteCache
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import WriteBatch
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MERGE_RECORD, OWNED_AHEAD, RECORD_PAYLOAD
from durable_streams_tw.storage.shared.record_layout import Piece, fill

T = TypeVar("T")

_MISSING: Any = object()


class Offered(Struct):
    """Staged body that a command may append. ``taken`` is True once the command has done so."""

    record: tables.StagedBody
    last_start: int
    new: bool
    taken: bool = False


class BatchTransaction:
    """`Transaction` over a write batch of the engine.

    ``published`` contains the states that readers see once the batch is durable, by path; None for
    a removed stream. ``writes`` increases with every write, so that the committer can tell whether
    a command that failed has written anything. ``has_space`` is False if streams must not grow
    because the disk or the quota is full. Used on the committer thread only. All methods that
    read may raise `CorruptRecord` and `EngineFailed`.
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
        # Generation and state by stream id and producer id.
        self._dirty_producers: dict[tuple[int, str], tuple[int, ProducerState]] = {}
        # Records by table and whole key that are not in the engine's batch yet; None if removed.
        self._dirty_records: dict[tables.Table[Any], dict[bytes, Any]] = {}
        self._puts: dict[bytes, bytes] = {}
        # Data records by key that are not in the engine's batch yet, and the streams with bodies
        # that are in no data record yet.
        self._data: dict[bytes, bytes] = {}
        self._bodies: dict[int, OpenStream] = {}
        self._deletes: list[bytes] = []
        self._put_down = False
        self._absent: set[str] = set()
        # Ids of removed and new streams. Without this, their missing records would be read, or the
        # old record of a removed stream would be found.
        self._unwritten: set[int] = set()
        # Staged body that the current command may append.
        self._offered: Offered | None = None
        # Whether this batch contains bytes of a staged body.
        self.staging = False

    # -- Transaction ------------------------------------------------------------------------

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path, or None."""
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
        """Return the stream with an id, or None."""
        stream = self._open(stream_id)
        return None if stream is None else stream.state

    def new_id(self) -> int:
        """Return the next id. The counter becomes durable with this batch."""
        offered = self._offered
        if offered is not None and offered.new:
            # The keys of the staged data records contain this id.
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
        """Least id that this process assigns; 0 if the counter is corrupt."""
        written = self._written
        if written.process_first_id is None:
            try:
                known = reader.load_next_id(self._batch)
                # Without the random part, copies of a store whose clocks were set back would assign
                # the same ids.
                chance = secrets.randbits(16)
                written.process_first_id = max(known, written.first_id) + chance
            except CorruptRecord:
                # `new_id` fails for the same reason, so no incarnation can be started.
                return 0
        return written.process_first_id

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a producer, or None."""
        known = self._producer(stream_id, producer_id)
        return None if known is None else known[1]

    def _producer(self, stream_id: int, producer_id: str) -> tuple[int, ProducerState] | None:
        """Return a producer's generation and state, or None if neither generation has it."""
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
                known = number, tables.PRODUCERS.unpack(key, value)
                self._written.producers.insert((stream_id, producer_id), known)
                return known
        return None

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a stream, including those of this batch."""
        self._flush_data()
        return self._reader().message_runs(state, start)

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position is a message boundary."""
        if position not in (0, state.tail):
            self._flush_data()
        return self._reader().is_boundary(state, position)

    def _reader(self) -> reader.ViewReader:
        # Not an attribute: a reference cycle would keep each batch until a garbage collection.
        return reader.ViewReader(self._batch, self.stream)

    def save(self, state: StreamState) -> None:
        """Write the state of a new or changed stream."""
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
        """Write the state of a stream's producer. The stream must have been saved in this batch."""
        stream = self._dirty[stream_id]
        whole = stream_id, producer_id
        known = self._written.producers.get(whole)
        if known is None or known[0] != stream.producers.number:
            self._join(stream, producer_id)
        written = stream.producers.number, state
        self._written.producers.insert(whole, written)
        self._dirty_producers[whole] = written

    def _join(self, stream: OpenStream, producer_id: str) -> None:
        """Move a producer into the current generation, or into the next one if that is full."""
        before, stream_id = stream.producers, stream.state.id
        known = self._producer(stream_id, producer_id)
        after = stream.producers = before.joined(self._written.max_producers)
        if after.number > max(before.number, 1):
            self._puts[codec.old_producers_key(stream_id, after.number - 1)] = b""
        if known is not None:
            name = codec.producer_name(producer_id)
            self._deletes.append(codec.producer_key(stream_id, known[0], name))

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Append a body at the old tail. The stream must have been saved in this batch.

        If the body was staged, write no data: its records are already there.
        """
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
        """Remove a stream's path and state; the sweep deletes its bytes and producers later."""
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
        """Index of subscriptions, loaded on first use."""
        index = self._written.index
        if index is None:
            index = self._written.index = load_index(self._batch, self._unreadable)
        return index

    @property
    def fan_outs(self) -> OrderedDict[str, FanOut]:
        """Unfinished fan-outs by stream path, loaded on first use."""
        known = self._written.fan_outs
        if known is None:
            readable = self._readable(tables.FAN_OUTS, "fan-out")
            known = self._written.fan_outs = OrderedDict(readable)
        return known

    def get(self, table: tables.Table[T], key: bytes) -> T | None:
        """Return the record of a key, or None."""
        remembered = self._written.records
        whole = table.prefix + key
        known: T | None = remembered.get(whole, _MISSING)
        if known is _MISSING:
            known = tables.load(self._batch, table, key)
            remembered.insert(whole, known)
        return known

    def put(self, table: tables.Table[T], key: bytes, value: T) -> None:
        """Write a record."""
        self._record(table, key, value)

    def remove(self, table: tables.Table[T], key: bytes) -> None:
        """Remove a record if it exists."""
        self._record(table, key, None)

    def range(
        self, table: tables.Table[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records of a range in order, including those of this batch."""
        self._flush_records(table)
        return tables.scan(self._batch, table, first, stop)

    def owns(self, table: tables.Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table.

        Search for OWNED_AHEAD keys at a time, each time after the previous ones. A search from the
        first key would skip all keys that were removed since the last checkpoint, one by one.
        """
        name = table.prefix, number
        known = self._written.ahead.get(name, [])
        behind = known[0] + b"\x00" if known else b""
        while known:
            if self.get(table, known[-1]) is not None:
                return True
            known.pop()
        first, stop = tables.owned_range(number)
        behind = max(behind, first)
        for begin, end in ((behind, stop), (first, behind)):
            found = [key for key, _ in islice(self.range(table, begin, end), OWNED_AHEAD)]
            if found:
                self._written.ahead.put(name, found[::-1])
                return True
        self._written.ahead.pop(name)
        return False

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns, in later steps of the sweep."""
        self.writes += 1
        self._puts[codec.garbage_key(number)] = b""

    def _record(self, table: tables.Table[T], key: bytes, value: T | None) -> None:
        self.writes += 1
        whole = table.prefix + key
        self._written.records.insert(whole, value)
        self._dirty_records.setdefault(table, {})[whole] = value
        if table.watched:
            self.notes.append(RecordChange(table, key, value))

    def _flush_records(self, table: tables.Table[Any] | None = None) -> bool:
        """Write changed records of one table, or of all, to the engine's batch.

        Return whether records or data were written to it so far, by this call or earlier ones.
        """
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
        self._log.error("Skipped a subscription that cannot be read: {corrupt}", corrupt=corrupt)

    # -- staged bodies ------------------------------------------------------------------------

    @property
    def staged(self) -> dict[str, tables.StagedBody]:
        """Staged bodies by stream path, including those that a crash left, loaded on first use."""
        known = self._written.staged
        if known is None:
            known = self._written.staged = dict(self._readable(tables.STAGED, "staged body"))
        return known

    def _readable(self, table: tables.Table[Any], kind: str) -> Iterator[tuple[str, Any]]:
        """Yield the records of a table with their stream paths. Log and skip unreadable ones."""
        for _, found in tables.scan_with_errors(self._batch, table, b"", None):
            if isinstance(found, CorruptRecord):
                self._log.error(
                    "Skipped a {kind} that cannot be read: {corrupt}", kind=kind, corrupt=found
                )
            else:
                yield found.path, found

    def is_receiving(self, path: str) -> bool:
        """Return whether a body is staged beyond the tail of a stream."""
        return path in self.staged

    def begin_staging(self, record: tables.StagedBody) -> None:
        """Write a record that marks data from a position on as not yet part of the stream."""
        self.staged[record.path] = record
        self.put(tables.STAGED, tables.name_key(record.path), record)

    def end_staging(self, record: tables.StagedBody) -> None:
        """Remove the record of a staged body, whose data was appended or deleted."""
        del self.staged[record.path]
        self.remove(tables.STAGED, tables.name_key(record.path))

    def stage(self, stream_id: int, position: int, data: bytes, piece: Piece) -> None:
        """Write a piece of a staged body as a data record beyond the tail."""
        self.writes += 1
        self.staging = True
        key = codec.data_key(stream_id, position)
        self._data[key] = codec.pack_data(key, piece.flags, data[piece.start : piece.stop])

    @contextmanager
    def offering(self, record: tables.StagedBody, last_start: int, new: bool) -> Iterator[Offered]:
        """Let the command in the ``with`` block append a staged body instead of writing its own.

        ``last_start`` is the position of the last staged record. ``new`` means that the command
        creates the stream.
        """
        self._offered = offered = Offered(record, last_start, new)
        try:
            yield offered
        finally:
            self._offered = None

    # -- sweep --------------------------------------------------------------------------------

    def reindex(self, stream_id: int, found_at: int, deadline: int | None) -> None:
        """Move a stream's entry in the deadline index from ``found_at`` to ``deadline``.

        Times are in ms since the Unix epoch. Only delete the entry if the deadline is None.
        """
        stream = self._open(stream_id)
        if stream is None or stream.indexed_at != found_at:
            self._deletes.append(codec.deadline_key(found_at, stream_id))
        if stream is not None:
            self._index(stream, None)
            self._index(stream, deadline)
            self._dirty[stream_id] = stream

    def postpone(self, stream_id: int, found_at: int, until: int) -> None:
        """Move a stream's entry in the deadline index without reading the stream.

        Used for streams whose expiry failed. Times are in ms since the Unix epoch.
        """
        self._deletes.append(codec.deadline_key(found_at, stream_id))
        self._puts[codec.deadline_key(until, stream_id)] = b""

    def delete_key(self, key: bytes) -> None:
        """Delete a key of the engine: garbage, or a data record that was never appended."""
        self._deletes.append(key)

    # -- flush --------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Write all changes to the engine's batch; return whether there were any.

        The committer calls this before it commits the batch. Raises `EngineFull` and
        `EngineFailed`.
        """
        batch = self._batch
        for key in self._deletes:
            batch.delete(key)
        self._flush_data()
        for stream in self._dirty.values():
            self._put(stream.key, tables.STREAMS.pack(stream.record()))
        for (stream_id, producer_id), (number, producer) in self._dirty_producers.items():
            # A stream removed in this batch is not dirty: its producers must not be written.
            if stream_id in self._dirty:
                name = codec.producer_name(producer_id)
                key = codec.producer_key(stream_id, number, name)
                self._put(key, tables.PRODUCERS.pack(producer))
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
        # The sweep checks an entry that is too early and moves it. Replacing it here would cost a
        # write for every append to a stream with a TTL.
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
            for payload, piece in fill(bodies, RECORD_PAYLOAD):
                start = self._write_record(stream, start, payload, piece.flags)
            return
        more = b"".join(run)
        last = self._extendable(stream, start, added)
        if last is not None and stream.last_start is not None:
            key = codec.data_key(stream.state.id, stream.last_start)
            self._put_data(stream, key, codec.extend_data(last, more))
        else:
            self._write_record(stream, start, more, 0)

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
        """Return the value of the last data record if ``added`` bytes fit in, otherwise None."""
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
            # Extending the record would compute a new checksum and hide the corruption.
            return None
        whole = not flags and len(payload) == tail - stream.last_start
        return value if whole else None
