"""Check of a whole store.

Invariants of every committed batch:

1. Every value passes its checksum and can be decoded, every key is of a known kind, and the WAL has
   all batches that LMDB lacks.
2. The next id is greater than every id in use.
3. Paths and streams match one to one.
4. The data records of a stream cover its origin to its tail without gaps; the last one is where the
   stream's record says. In JSON mode they hold whole messages, or have flags for the side on which
   they do not.
5. A stream whose record has an index time has one key in the deadline index, not after its
   deadline; the index has no other keys.
6. Data records and producers belong to streams, or to ended streams that are marked for deletion.
7. The source of a fork exists, is older, and reaches the fork position. Sources count their forks,
   and a deleted stream has at least one.
8. Subscriptions, their links and their cursors are consistent (`fsck.subscriptions`).

Scans keys in order and keeps almost nothing of them: memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.limits import MAX_FORK_DEPTH
from durable_streams_tw.protocol.streams.lineage import newest_incarnation
from durable_streams_tw.protocol.streams.producers import Generation
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw, unreadable
from durable_streams_tw.storage.admin.fsck.log import LogChecker
from durable_streams_tw.storage.admin.fsck.subscriptions import SubscriptionChecker
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import Buffer, EngineFailed, SnapshotSource, View
from durable_streams_tw.storage.engine.tables import STAGED, name_key, scan_with_errors
from durable_streams_tw.storage.errors import CorruptRecord

# Sources whose forks are counted in one pass.
_SOURCES_PER_PASS: Final = 100_000

# Key ranges between the known prefixes.
_UNKNOWN_RANGES: Final = (
    (b"\x00", b"P"),
    (b"Q", b"d"),
    (b"f", b"g"),
    (b"h", b"j"),
    (b"j\x00", b"k"),
    (b"l", b"m"),
    (b"m\x00", b"n"),
    (b"n\x00", b"p"),
    (b"r", b"s"),
    (b"v", b"w"),
    (b"y", b"\xff" * 512),
)


def check(engine: SnapshotSource, deep: bool = False) -> Iterator[Finding]:
    """Yield the flaws of a store.

    ``deep`` parses every JSON message too. The check ends early if the engine cannot be read or
    returns keys out of order.
    """
    try:
        with engine.snapshot() as view:
            yield from _StoreChecker(_OrderedView(view), deep).findings()
    except EngineFailed as failure:
        yield Finding(Flaw.UNREADABLE, b"", str(failure))


class _OrderedView:
    """View that raises `EngineFailed` for keys out of order, which could loop the check forever.

    LMDB does not verify its pages: two that were swapped still have valid records.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.get = view.get

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs with ``first <= key < stop``. Raises `EngineFailed`."""
        return _in_order(self._view.scan(first, stop), first, stop)

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs from the greatest key in ``[lowest, first]``. Raises `EngineFailed`."""
        return _in_order(self._view.scan_from_floor(first, lowest, stop), lowest, stop)


def _in_order(
    pairs: Iterator[tuple[Buffer, Buffer]], first: bytes, stop: bytes
) -> Iterator[tuple[Buffer, Buffer]]:
    last: bytes | None = None
    for raw, value in pairs:
        key = bytes(raw)
        if not first <= key < stop or (last is not None and key <= last):
            before = first if last is None else last
            raise EngineFailed(f"keys are out of order: {key.hex()} after {before.hex()}")
        last = key
        yield key, value


class _StoreChecker:
    def __init__(self, view: View, deep: bool) -> None:
        self._view = view
        self._deep = deep
        self._greatest_id = 0
        # Where bytes begin that do not belong to their stream yet, by stream id.
        self._staged: dict[int, int] = {}

    def findings(self) -> Iterator[Finding]:
        yield from self._format()
        for first, stop in _UNKNOWN_RANGES:
            for key, _ in self._view.scan(first, stop):
                yield _strange(bytes(key), "the prefix is unknown")
        yield from self._staged_bodies()
        yield from self._paths()
        yield from self._streams()
        yield from self._garbage()
        yield from self._orphans()
        yield from self._deadlines()
        yield from self._fork_counts()
        subscriptions = SubscriptionChecker(self._view)
        yield from subscriptions.findings()
        self._greatest_id = max(self._greatest_id, subscriptions.greatest)
        yield from self._next_id()

    # -- the store as a whole -----------------------------------------------------------------

    def _format(self) -> Iterator[Finding]:
        value = self._view.get(codec.META_KEY)
        if value is None:
            yield Finding(Flaw.FORMAT, codec.META_KEY, "the record of the format is missing")
            return
        try:
            meta = codec.unpack_meta(value)
        except msgspec.MsgspecError as error:
            yield Finding(Flaw.FORMAT, codec.META_KEY, str(error))
            return
        if meta.kind != codec.KIND or not 1 <= meta.format <= codec.FORMAT:
            yield Finding(Flaw.FORMAT, codec.META_KEY, f"{meta.kind}, format {meta.format}")

    def _next_id(self) -> Iterator[Finding]:
        try:
            next_id = reader.load_next_id(self._view)
        except CorruptRecord as corrupt:
            yield unreadable(corrupt)
            return
        if next_id <= self._greatest_id:
            detail = f"{next_id} is next, {self._greatest_id} is in use"
            yield Finding(Flaw.NEXT_ID, codec.NEXT_ID_KEY, detail)

    def _record(self, stream_id: int) -> StreamRecord | CorruptRecord | None:
        try:
            return reader.load_stream(self._view, stream_id)
        except CorruptRecord as corrupt:
            return corrupt

    def _has(self, key: bytes) -> bool:
        return self._view.get(key) is not None

    def _staged_bodies(self) -> Iterator[Finding]:
        for key, record in scan_with_errors(self._view, STAGED, b"", None):
            if isinstance(record, CorruptRecord):
                yield unreadable(record)
            elif key != name_key(record.path):
                yield Finding(Flaw.STREAM, STAGED.prefix + key, f"it is of {record.path!r}")
            else:
                self._staged[record.stream_id] = record.start
                self._greatest_id = max(self._greatest_id, record.stream_id)

    # -- paths and streams --------------------------------------------------------------------

    def _paths(self) -> Iterator[Finding]:
        for first, stop in codec.PATHS:
            for raw, value in self._view.scan(first, stop):
                key = bytes(raw)
                try:
                    payload = codec.unseal(key, value)
                except CorruptRecord as corrupt:
                    yield unreadable(corrupt)
                    continue
                record = self._record(codec.unpack_path(payload))
                if isinstance(record, CorruptRecord):
                    continue
                if record is None:
                    yield Finding(Flaw.PATH, key, "the path has no stream")
                    continue
                state = record.state
                if codec.path_key(state.path) != key or (
                    codec.pack_path(state.path, state.id) != payload
                ):
                    yield Finding(Flaw.PATH, key, f"the stream's path is {state.path!r}")

    def _streams(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.STREAMS):
            key = bytes(raw)
            if len(key) != 9:
                yield _strange(key, "the key of a stream must have 9 bytes")
                continue
            stream_id = codec.unpack_integer(key[1:])
            self._greatest_id = max(self._greatest_id, stream_id)
            try:
                record = tables.STREAMS.unpack(key, value)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)
                yield from self._owned(stream_id)
                continue
            self._greatest_id = max(self._greatest_id, newest_incarnation(record.state))
            state = record.state
            if state.id != stream_id:
                yield Finding(Flaw.STREAM, key, f"the record is that of stream {state.id}")
                continue
            if not self._has(codec.path_key(state.path)):
                yield Finding(Flaw.PATH, key, f"{state.path!r} has no path record")
            if state.closed_by is not None and not state.closed:
                yield Finding(Flaw.STREAM, key, "the stream is open, but has a closing producer")
            yield from self._deadline_of(key, record)
            yield from LogChecker(
                self._view, key, record, self._deep, self._staged.get(stream_id)
            ).findings()
            yield from self._producers(stream_id, record.producers)
            if state.fork is not None:
                yield from self._fork(key, state)

    def _deadline_of(self, key: bytes, record: StreamRecord) -> Iterator[Finding]:
        state, indexed_at = record.state, record.indexed_at
        deadline = None if state.deleted else state.deadline()
        if indexed_at is None or deadline is None:
            if indexed_at is not deadline:
                yield Finding(Flaw.DEADLINE, key, f"deadline {deadline}, index entry {indexed_at}")
            return
        if indexed_at > deadline:
            yield Finding(
                Flaw.DEADLINE, key, f"deadline {deadline}, later index entry {indexed_at}"
            )
        if not self._has(codec.deadline_key(indexed_at, state.id)):
            yield Finding(Flaw.DEADLINE, key, f"the index entry {indexed_at} is missing")

    def _deadlines(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.DEADLINES):
            key = bytes(raw)
            if len(key) != 17 or len(value):
                yield _strange(key, "an index entry must have 17 bytes and no value")
                continue
            deadline = codec.unpack_integer(key[1:9])
            record = self._record(codec.unpack_integer(key[9:]))
            # Skip entries of corrupt streams: the sweep moves them without updating the record.
            if record is None or (
                isinstance(record, StreamRecord) and record.indexed_at != deadline
            ):
                yield Finding(Flaw.DEADLINE, key, "the entry belongs to no stream")

    # -- what belongs to streams ----------------------------------------------------------------

    def _producers(self, stream_id: int, current: Generation) -> Iterator[Finding]:
        _, (first, stop) = codec.stream_ranges(stream_id)
        for raw, value in self._view.scan(first, stop):
            key = bytes(raw)
            generation, name = codec.parse_producer_key(key)
            if not (name[:1] == b"=" or (name[:1] == b"#" and len(name) == 33)):
                yield _strange(key, "the key has no producer name")
                continue
            if generation > current.number:
                yield _strange(key, "the generation is newer than the stream's")
                continue
            try:
                tables.PRODUCERS.unpack(key, value)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)

    def _owned(self, stream_id: int) -> Iterator[Finding]:
        """Check the checksums only of the records of a stream whose own record is corrupt."""
        for first, stop in codec.stream_ranges(stream_id):
            for key, value in self._view.scan(first, stop):
                try:
                    codec.unseal(bytes(key), value)
                except CorruptRecord as corrupt:
                    yield unreadable(corrupt)

    def _garbage(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.GARBAGE):
            key = bytes(raw)
            if len(key) not in (9, 17) or len(value):
                yield _strange(key, "a deletion mark must have 9 or 17 bytes and no value")
                continue
            stream_id = codec.unpack_integer(key[1:9])
            self._greatest_id = max(self._greatest_id, stream_id)
            if len(key) == 17:
                yield from self._old_producers(key, stream_id)
                continue
            if self._has(codec.stream_key(stream_id)):
                yield Finding(Flaw.GARBAGE, key, f"stream {stream_id} exists")
            else:
                yield from self._owned(stream_id)

    def _old_producers(self, key: bytes, stream_id: int) -> Iterator[Finding]:
        """Check a deletion mark for old producers. Ended streams may have some."""
        record = self._record(stream_id)
        if isinstance(record, StreamRecord):
            if not 0 < codec.unpack_integer(key[9:]) < record.producers.number:
                yield _strange(key, "the generation is not an older one of the stream")
        elif record is None and not self._has(codec.garbage_key(stream_id)):
            yield _strange(key, "the stream does not exist")

    def _orphans(self) -> Iterator[Finding]:
        for prefix, what in ((b"d", "bytes"), (b"q", "producers")):
            first, stop = prefix, bytes((prefix[0] + 1,))
            # Jump from each id to the next, without scanning all keys of an id.
            while (found := next(self._view.scan(first, stop), None)) is not None:
                key = bytes(found[0])
                if len(key) < 9:
                    yield _strange(key, "the key has no stream id")
                    first = key + b"\x00"
                    continue
                stream_id = codec.unpack_integer(key[1:9])
                self._greatest_id = max(self._greatest_id, stream_id)
                if (
                    stream_id not in self._staged
                    and not self._has(codec.stream_key(stream_id))
                    and not self._has(codec.garbage_key(stream_id))
                ):
                    detail = f"{what} of stream {stream_id}, which does not exist"
                    yield Finding(Flaw.ORPHAN, key[:9], detail)
                first = key[:9] + b"\xff" * 512

    # -- forks ----------------------------------------------------------------------------------

    def _fork(self, key: bytes, state: StreamState) -> Iterator[Finding]:
        fork = state.fork
        assert fork is not None, "called for forks only"
        record = self._record(fork.source_id)
        if isinstance(record, CorruptRecord):
            return
        if record is None or fork.source_id >= state.id:
            yield _wrong_fork(key, f"its source {fork.source_id} does not exist or is newer")
            return
        source = record.state
        depth = 1 if source.fork is None else source.fork.depth + 1
        if not source.forks:
            yield _wrong_fork(key, f"its source {source.id} counts no forks")
        if fork.depth != depth or depth > MAX_FORK_DEPTH:
            yield _wrong_fork(key, f"its depth is {depth}, recorded as {fork.depth}")
        if not content_types.same(state.content_type, source.content_type):
            yield _wrong_fork(key, f"the content type of its source is {source.content_type}")
        if not 0 <= fork.position <= min(source.tail, state.tail):
            where = f"outside its source (tail {source.tail})"
            yield _wrong_fork(key, f"its fork position {fork.position} is {where}")
        elif self._deep and not self._between_messages(source, fork.position):
            detail = f"its fork position {fork.position} is inside a message of its source"
            yield _wrong_fork(key, detail)

    def _between_messages(self, source: StreamState, position: int) -> bool:
        try:
            return reader.ViewReader(self._view).is_boundary(source, position)
        except CorruptRecord:
            # The corrupt record is reported where it is scanned.
            return True

    def _fork_counts(self) -> Iterator[Finding]:
        """Compare each source's fork count, in passes of bounded memory."""
        first = b""
        while True:
            sources: dict[int, int] = {}
            for state in self._states(first):
                if state.deleted and not state.forks:
                    key = codec.stream_key(state.id)
                    yield _wrong_fork(key, "it is deleted and has no forks")
                if state.forks:
                    sources[state.id] = state.forks
                    if len(sources) == _SOURCES_PER_PASS:
                        break
            for state in self._states(b"") if sources else ():
                if state.fork is not None and state.fork.source_id in sources:
                    sources[state.fork.source_id] -= 1
            for source_id, left in sources.items():
                if left:
                    key = codec.stream_key(source_id)
                    yield _wrong_fork(key, f"its fork count is {left} too high")
            if len(sources) < _SOURCES_PER_PASS:
                return
            first = codec.pack_integer(max(sources) + 1)

    def _states(self, first: bytes) -> Iterator[StreamState]:
        for _, record in tables.scan_with_errors(self._view, tables.STREAMS, first, None):
            # `_streams` reports the corrupt ones.
            if not isinstance(record, CorruptRecord):
                yield record.state


def _strange(key: bytes, detail: str) -> Finding:
    return Finding(Flaw.STRANGE_KEY, key, detail)


def _wrong_fork(key: bytes, detail: str) -> Finding:
    return Finding(Flaw.FORK, key, detail)
