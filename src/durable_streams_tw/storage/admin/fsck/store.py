"""Walking a store and proving that it holds together.

What has to be true of every store that a batch has left:

1. every value passes its checksum and can be read, every key is of a known kind, and the
   journal has all that the map does not have yet;
2. the next id is greater than every id in use;
3. paths and streams belong together one to one;
4. a stream's data records follow each other without a gap from its origin to its tail, the
   last one where the stream's record says; in JSON mode they hold whole messages, or say on
   which side they do not;
5. the deadline index has one entry for every stream that says so, not behind the moment at
   which the stream ends, and no other;
6. bytes and producers belong to streams, or to ended ones that wait to be freed;
7. a fork's source is there, older, and reaches the fork point; sources know how many forks
   they have, and a deleted stream has some;
8. subscriptions, their links and their cursors agree (`check_subscriptions`).

Goes through keys in their order and keeps next to nothing of them, so the size of a store is a
matter of time, not of memory.
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
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import Buffer, EngineFailed, SnapshotSource, View
from durable_streams_tw.storage.errors import CorruptRecord

# How many sources' forks are counted at a time.
_COUNTED: Final = 100_000

# Everything between the known ranges of keys.
_STRANGE: Final = (
    (b"\x00", b"P"),
    (b"Q", b"d"),
    (b"f", b"g"),
    (b"h", b"j"),
    (b"j\x00", b"k"),
    (b"l", b"m"),
    (b"m\x00", b"n"),
    (b"n\x00", b"p"),
    (b"r", b"s"),
    (b"t", b"u"),
    (b"v", b"w"),
    (b"y", b"\xff" * 512),
)


def check(engine: SnapshotSource, deep: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with a store.

    ``deep`` parses every JSON message too. The walk ends where the map cannot be read, or its keys
    are not in order.
    """
    try:
        with engine.snapshot() as view:
            yield from _Walk(_Ordered(view), deep).findings()
    except EngineFailed as failure:
        yield Finding(Flaw.UNREADABLE, b"", str(failure))


class _Ordered:
    """View that refuses keys which are out of order: a walk that goes on from each key to the one
    after it would never end.

    LMDB trusts its pages. Two that have changed places still have valid records.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.get = view.get

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs from ``first`` up to ``stop``. Raises `EngineFailed`."""
        return _in_order(self._view.scan(first, stop), first, stop)

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs from the greatest key up to ``first``. Raises `EngineFailed`."""
        return _in_order(self._view.scan_from_floor(first, lowest, stop), lowest, stop)


def _in_order(
    pairs: Iterator[tuple[Buffer, Buffer]], first: bytes, stop: bytes
) -> Iterator[tuple[Buffer, Buffer]]:
    last: bytes | None = None
    for raw, value in pairs:
        key = bytes(raw)
        if not first <= key < stop or (last is not None and key <= last):
            before = first if last is None else last
            raise EngineFailed(f"its keys are out of order: {key.hex()} after {before.hex()}")
        last = key
        yield key, value


class _Walk:
    def __init__(self, view: View, deep: bool) -> None:
        self._view = view
        self._deep = deep
        self._greatest_id = 0

    def findings(self) -> Iterator[Finding]:
        yield from self._format()
        for first, behind in _STRANGE:
            for key, _ in self._view.scan(first, behind):
                yield Finding(Flaw.STRANGE_KEY, bytes(key), "no record has such a key")
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
            yield Finding(
                Flaw.NEXT_ID,
                codec.NEXT_ID_KEY,
                f"{next_id} is next, {self._greatest_id} is in use",
            )

    def _record(self, stream_id: int) -> StreamRecord | CorruptRecord | None:
        try:
            return reader.load_stream(self._view, stream_id)
        except CorruptRecord as corrupt:
            return corrupt

    def _has(self, key: bytes) -> bool:
        return self._view.get(key) is not None

    # -- paths and streams --------------------------------------------------------------------

    def _paths(self) -> Iterator[Finding]:
        for first, behind in codec.PATHS:
            for raw, value in self._view.scan(first, behind):
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
                    yield Finding(Flaw.PATH, key, "the path leads to no stream")
                    continue
                state = record.state
                if codec.path_key(state.path) != key or (
                    codec.pack_path(state.path, state.id) != payload
                ):
                    yield Finding(Flaw.PATH, key, f"the path leads to {state.path!r}")

    def _streams(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.STREAMS):
            key = bytes(raw)
            if len(key) != 9:
                yield Finding(Flaw.STRANGE_KEY, key, "a stream's key has nine bytes")
                continue
            stream_id = codec.unpack_integer(key[1:])
            self._greatest_id = max(self._greatest_id, stream_id)
            try:
                record = codec.unpack_stream(key, value)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)
                yield from self._owned(stream_id)
                continue
            self._greatest_id = max(self._greatest_id, newest_incarnation(record.state))
            state = record.state
            if state.id != stream_id:
                yield Finding(Flaw.STREAM, key, f"the record says that it is stream {state.id}")
                continue
            if not self._has(codec.path_key(state.path)):
                yield Finding(Flaw.PATH, key, f"nothing leads to {state.path!r}")
            if state.closed_by is not None and not state.closed:
                yield Finding(Flaw.STREAM, key, "an open stream was closed by a producer")
            yield from self._deadline_of(key, record)
            yield from LogChecker(self._view, key, record, self._deep).findings()
            yield from self._producers(stream_id, record.producers)
            if state.fork is not None:
                yield from self._fork(key, state)

    def _deadline_of(self, key: bytes, record: StreamRecord) -> Iterator[Finding]:
        state, indexed_at = record.state, record.indexed_at
        deadline = None if state.deleted else state.deadline()
        if indexed_at is None or deadline is None:
            if indexed_at is not deadline:
                yield Finding(Flaw.DEADLINE, key, f"ends at {deadline}, looked at {indexed_at}")
            return
        if indexed_at > deadline:
            yield Finding(Flaw.DEADLINE, key, f"ends at {deadline}, looked at {indexed_at} only")
        if not self._has(codec.deadline_key(indexed_at, state.id)):
            yield Finding(Flaw.DEADLINE, key, f"its entry at {indexed_at} is missing")

    def _deadlines(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.DEADLINES):
            key = bytes(raw)
            if len(key) != 17 or len(value):
                yield Finding(Flaw.STRANGE_KEY, key, "an entry is a moment and an id, no more")
                continue
            deadline = codec.unpack_integer(key[1:9])
            record = self._record(codec.unpack_integer(key[9:]))
            # The entry of a stream that cannot be read is moved unseen.
            if record is None or (
                isinstance(record, StreamRecord) and record.indexed_at != deadline
            ):
                yield Finding(Flaw.DEADLINE, key, "no stream has this entry")

    # -- what belongs to streams ----------------------------------------------------------------

    def _producers(self, stream_id: int, current: Generation) -> Iterator[Finding]:
        _, (first, behind) = codec.stream_ranges(stream_id)
        for raw, value in self._view.scan(first, behind):
            key = bytes(raw)
            generation, name = codec.parse_producer_key(key)
            if not (name[:1] == b"=" or (name[:1] == b"#" and len(name) == 33)):
                yield Finding(Flaw.STRANGE_KEY, key, "it names no producer")
                continue
            if generation > current.number:
                yield Finding(Flaw.STRANGE_KEY, key, "its generation has not begun")
                continue
            try:
                codec.unpack_producer(key, value)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)

    def _owned(self, stream_id: int) -> Iterator[Finding]:
        """Checksums alone, of what belongs to a stream of which nothing else is known."""
        for first, behind in codec.stream_ranges(stream_id):
            for key, value in self._view.scan(first, behind):
                try:
                    codec.unseal(bytes(key), value)
                except CorruptRecord as corrupt:
                    yield unreadable(corrupt)

    def _garbage(self) -> Iterator[Finding]:
        for raw, value in self._view.scan(*codec.GARBAGE):
            key = bytes(raw)
            if len(key) not in (9, 17) or len(value):
                yield Finding(Flaw.STRANGE_KEY, key, "an ended stream's entry is an id, no more")
                continue
            stream_id = codec.unpack_integer(key[1:9])
            self._greatest_id = max(self._greatest_id, stream_id)
            if len(key) == 17:
                yield from self._forgotten(key, stream_id)
                continue
            if self._has(codec.stream_key(stream_id)):
                yield Finding(Flaw.GARBAGE, key, f"stream {stream_id} is there")
            else:
                yield from self._owned(stream_id)

    def _forgotten(self, key: bytes, stream_id: int) -> Iterator[Finding]:
        """An entry of producers that a stream has forgotten. One that has ended may have some."""
        record = self._record(stream_id)
        if isinstance(record, StreamRecord):
            if not 0 < codec.unpack_integer(key[9:]) < record.producers.number:
                yield Finding(Flaw.STRANGE_KEY, key, "no producers were forgotten so")
        elif record is None and not self._has(codec.garbage_key(stream_id)):
            yield Finding(Flaw.STRANGE_KEY, key, "there is no stream whose producers they were")

    def _orphans(self) -> Iterator[Finding]:
        for prefix, what in ((b"d", "bytes"), (b"q", "producers")):
            first, stop = prefix, bytes((prefix[0] + 1,))
            # From each id to the next, however many keys it has.
            while (found := next(self._view.scan(first, stop), None)) is not None:
                key = bytes(found[0])
                if len(key) < 9:
                    yield Finding(Flaw.STRANGE_KEY, key, "it names no stream")
                    first = key + b"\x00"
                    continue
                stream_id = codec.unpack_integer(key[1:9])
                self._greatest_id = max(self._greatest_id, stream_id)
                if not self._has(codec.stream_key(stream_id)) and not self._has(
                    codec.garbage_key(stream_id)
                ):
                    owner = f"stream {stream_id}, which is gone"
                    yield Finding(Flaw.ORPHAN, key[:9], f"{what} of {owner}")
                first = key[:9] + b"\xff" * 512

    # -- forks ----------------------------------------------------------------------------------

    def _fork(self, key: bytes, state: StreamState) -> Iterator[Finding]:
        fork = state.fork
        assert fork is not None, "asked of forks only"
        record = self._record(fork.source_id)
        if isinstance(record, CorruptRecord):
            return
        if record is None or fork.source_id >= state.id:
            yield Finding(Flaw.FORK, key, f"its source {fork.source_id} is not there, or younger")
            return
        source = record.state
        depth = 1 if source.fork is None else source.fork.depth + 1
        if not source.forks:
            yield Finding(Flaw.FORK, key, f"its source {source.id} knows of no forks")
        if fork.depth != depth or depth > MAX_FORK_DEPTH:
            yield Finding(Flaw.FORK, key, f"it says that it is {fork.depth} deep, not {depth}")
        if not content_types.same(state.content_type, source.content_type):
            yield Finding(Flaw.FORK, key, f"its source is {source.content_type}")
        if not 0 <= fork.position <= min(source.tail, state.tail):
            yield Finding(
                Flaw.FORK, key, f"it leaves its source at {fork.position} of {source.tail}"
            )
        elif self._deep and not self._between_messages(source, fork.position):
            yield Finding(Flaw.FORK, key, f"{fork.position} lies inside a message of its source")

    def _between_messages(self, source: StreamState, position: int) -> bool:
        try:
            return reader.is_boundary(self._view, reader.lookup_in(self._view), source, position)
        except CorruptRecord:
            # Found where the record is.
            return True

    def _fork_counts(self) -> Iterator[Finding]:
        """Count the forks of so many sources at a time as memory allows."""
        first, stop = codec.STREAMS
        while True:
            sources: dict[int, int] = {}
            for state in self._states(first, stop):
                if state.deleted and not state.forks:
                    key = codec.stream_key(state.id)
                    yield Finding(Flaw.FORK, key, "it is deleted, and no fork needs it")
                if state.forks:
                    sources[state.id] = state.forks
                    if len(sources) == _COUNTED:
                        break
            for state in self._states(*codec.STREAMS) if sources else ():
                if state.fork is not None and state.fork.source_id in sources:
                    sources[state.fork.source_id] -= 1
            for source_id, left in sources.items():
                if left:
                    key = codec.stream_key(source_id)
                    yield Finding(Flaw.FORK, key, f"it counts {left} forks more than it has")
            if len(sources) < _COUNTED:
                return
            first = codec.stream_key(max(sources) + 1)

    def _states(self, first: bytes, stop: bytes) -> Iterator[StreamState]:
        for raw, value in self._view.scan(first, stop):
            try:
                yield codec.unpack_stream(bytes(raw), value).state
            except CorruptRecord:
                # Found already.
                continue
