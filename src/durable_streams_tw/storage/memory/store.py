"""Memory store: streams in dictionaries, lost when the process ends.

Used without a data directory, and by tests.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from sortedcontainers import SortedDict, SortedKeyList
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.producers import Generation, ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage import api, fork_ranges, limits
from durable_streams_tw.storage.access_times import AccessTimes, check_usable
from durable_streams_tw.storage.commands import forks, pending
from durable_streams_tw.storage.commands.forks import Counting, ForkCounter
from durable_streams_tw.storage.commands.streams import apply, expire
from durable_streams_tw.storage.engine.codec import listing_key, listing_range
from durable_streams_tw.storage.engine.tables import OWNED, Table, owned_range
from durable_streams_tw.storage.shared.record_layout import cut

T = TypeVar("T")


class _Log:
    """Own bytes, producers and, in JSON mode, message boundaries of one stream.

    ``boundaries`` are the ends of appends and the positions at which large bodies are cut.
    """

    __slots__ = ("boundaries", "data", "earlier", "origin", "producers", "state")

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.origin = state.origin
        self.data = bytearray()
        self.boundaries = array("Q", [state.origin])
        # Producers of the current generation and of the one before.
        self.producers: dict[str, ProducerState] = {}
        self.earlier: dict[str, ProducerState] = {}

    def slice(self, start: int, stop: int) -> bytes:
        with memoryview(self.data) as view:
            return bytes(view[start - self.origin : stop - self.origin])

    def boundary_from(self, position: int) -> int:
        """Return the first message boundary at or after a position."""
        return self.boundaries[bisect_left(self.boundaries, position)]

    def run_end(self, position: int) -> int:
        """Return the end of a run of messages that begins at a boundary.

        A run is at most a record long, or one message that is larger.
        """
        following = bisect_right(self.boundaries, position + limits.RECORD_PAYLOAD)
        end = self.boundaries[following - 1]
        return end if end > position else self.boundaries[following]

    def is_boundary(self, position: int) -> bool:
        """Return whether a position lies between messages."""
        following = bisect_left(self.boundaries, position)
        if self.boundaries[following] == position:
            return True
        before, after = self.boundaries[following - 1], self.boundaries[following]
        # A range larger than a record without a cut is a single message.
        return after - before <= limits.RECORD_PAYLOAD and json_mode.is_boundary(
            self.slice(before, position)
        )


@implementer(api.IStreamStore)
class MemoryStore(api.ObservedStore):
    """Store that keeps streams in memory.

    Commands and reads complete synchronously, except forks whose messages take long to count.
    ``now`` and ``lead`` are those of a `clocks.StreamTime`. ``clock`` runs the sweep between `open`
    and `close`; without a clock expired streams stay in memory. ``max_producers`` is the number of
    producers that a stream remembers at least.
    """

    def __init__(
        self,
        now: Callable[[], int],
        clock: IReactorTime | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = limits.MAX_PRODUCERS,
    ) -> None:
        super().__init__()
        self._max_producers = max_producers
        self._now = now
        self._clock = clock
        self._counter = ForkCounter(self._count)
        self._sweeps: LoopingCall | None = None
        if clock is not None:
            self._sweeps = LoopingCall(self.sweep)
            self._sweeps.clock = clock
        self._by_path: dict[str, int] = {}
        self._logs: dict[int, _Log] = {}
        self._names: SortedKeyList | None = None
        self._expiring: set[int] = set()
        # Ids that the current sweep has not checked yet.
        self._sweep_left: list[int] = []
        # Ids are part of offsets and entity tags, which clients keep across restarts of the server,
        # so ids must not repeat.
        self._next_id = self.process_first_id = (now() << 20) + 1
        self.access = AccessTimes(lead)
        self._notifying = False
        # Records of each table by key.
        self._tables: defaultdict[bytes, SortedDict] = defaultdict(SortedDict)
        self._record_changes: list[api.RecordChange] = []
        self.changes: list[api.Change] = []
        self.index = SubscriptionIndex()
        self.has_space = True
        self.fan_outs: OrderedDict[str, FanOut] = OrderedDict()

    # -- IStreamStore ---------------------------------------------------------------------

    def open(self) -> None:
        """Start the sweep."""
        if self._sweeps is not None:
            self._sweeps.start(limits.SWEEP_INTERVAL, now=False)

    def close(self) -> Deferred[None]:
        """Stop the sweep."""
        if self._sweeps is not None and self._sweeps.running:
            self._sweeps.stop()
        self._sweep_left.clear()
        self._counter.stop(api.STOPPING)
        return succeed(None)

    def execute(self, command: api.Command, callback: Callable[[api.Outcome], object]) -> None:
        """Carry out a command and call ``callback`` with its outcome."""
        if isinstance(command, Create) and forks.needs_count(command):
            self._counter.count(command, partial(self._counted, callback))
        else:
            self._apply(command, callback)

    def _counted(
        self, callback: Callable[[api.Outcome], object], counted: Create | Refusal
    ) -> None:
        if isinstance(counted, Refusal):
            callback(counted)
        else:
            self._apply(counted, callback)

    def _count(
        self, command: Create, counting: Counting | None
    ) -> Deferred[Create | Counting | Refusal]:
        """Count messages of a fork's source, one step per reactor turn."""
        reached = forks.count_some(self, command, counting)
        while isinstance(reached, Counting) and self._clock is None:
            reached = forks.count_some(self, command, reached)
        if not isinstance(reached, Counting) or self._clock is None:
            return succeed(reached)
        later: Deferred[Create | Counting | Refusal] = Deferred()
        self._clock.callLater(0, later.callback, reached)
        return later

    def _apply(self, command: api.Command, callback: Callable[[api.Outcome], object]) -> None:
        known = len(self.changes)
        outcome = self._apply_to_end(command, self._now())
        if self._observer is not None:
            self._observer.record_command(command, outcome, self.changes[known:])
        self._notify()
        callback(outcome)

    def _apply_to_end(self, command: api.Command, now: int) -> api.Outcome:
        outcome = None
        while outcome is None:
            outcome = apply(self, command, now)
            self._finish_fan_outs(now)
        return outcome

    def _finish_fan_outs(self, now: int) -> None:
        while self.fan_outs:
            pending.resume(self, now)

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Return the state of the stream at a path."""
        return succeed(self._usable_state(path, self._now()))

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[api.Chunk | Refusal]:
        """Return bytes of the stream at a path."""
        return succeed(self._read(path, offset, limit, stream_id, piece))

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Return exactly the bytes ``[start, stop)`` of a stream."""
        state = fork_ranges.check_same_stream(self._usable_state(path, self._now()), stream_id)
        if isinstance(state, Refusal):
            return succeed(state)
        return succeed(b"".join(self._parts(state, start, stop)))

    def pin(self, stream_id: int) -> None:
        """Keep a stream from expiring by its TTL."""
        self.access.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """Undo one `pin`."""
        self.access.unpin(stream_id, self._now())

    def query(self, question: api.Query[T]) -> Deferred[T | Refusal]:
        """Return the answer to a question."""
        result: T | Refusal = question.answer(self)
        return succeed(result)

    def stats(self) -> Deferred[api.Stats | None]:
        """Return None: there is no disk."""
        return succeed(None)

    def check_writable(self) -> Deferred[str | None]:
        """Return None: memory can always be written."""
        return succeed(None)

    def sweep(self) -> None:
        """End expired streams, for at most `limits.BATCH_TIME` seconds per reactor turn."""
        if not self._sweep_left:
            self._sweep_left = list(self._expiring)
            self._sweep_some()

    def _sweep_some(self) -> None:
        now, clock, left = self._now(), self._clock, self._sweep_left
        until = math.inf if clock is None else clock.seconds() + limits.BATCH_TIME
        while left:
            expire(self, left.pop(), now)
            self._finish_fan_outs(now)
            if clock is not None and clock.seconds() >= until:
                break
        self._notify()
        if left and clock is not None:
            clock.callLater(0, self._sweep_some)

    def count(self) -> int:
        """Return the number of streams, deleted ones that still have forks included."""
        return len(self._logs)

    # -- Transaction ------------------------------------------------------------------------

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream that holds a path."""
        stream_id = self._by_path.get(path)
        return None if stream_id is None else self._logs[stream_id].state

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream of an id."""
        log = self._logs.get(stream_id)
        return None if log is None else log.state

    def new_id(self) -> int:
        """Return the next id."""
        self._next_id += 1
        return self._next_id - 1

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a stream's producer."""
        log = self._logs[stream_id]
        return log.producers.get(producer_id) or log.earlier.get(producer_id)

    def gather(self, state: StreamState, start: int, limit: int) -> bytes:
        """Return about ``limit`` stored bytes of a stream, inherited ones included."""
        return b"".join(self._parts(state, start, self._response_end(state, start, limit)))

    def _response_end(self, state: StreamState, start: int, limit: int) -> int:
        """Return the end of a response of about ``limit`` bytes from ``start``."""
        stop = start + limit
        if stop >= state.tail or not content_types.is_json(state.content_type):
            return min(stop, state.tail)
        for extent in fork_ranges.extents(self.stream, state, start, state.tail):
            if stop < extent.stop:
                # The fork point may lie before the next boundary in the source's log.
                return min(extent.stop, self._logs[extent.stream_id].boundary_from(stop))
            if stop == extent.stop:
                break
        return stop

    def _parts(self, state: StreamState, start: int, stop: int) -> list[bytes]:
        return [
            self._logs[extent.stream_id].slice(extent.start, extent.stop)
            for extent in fork_ranges.extents(self.stream, state, start, stop)
        ]

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the stored messages of a JSON stream from a boundary to its tail."""
        for extent in fork_ranges.extents(self.stream, state, start, state.tail):
            log, position = self._logs[extent.stream_id], extent.start
            while position < extent.stop:
                end = min(log.run_end(position), extent.stop)
                size = end - position
                yield size, log.slice(position, end) if size <= limits.RECORD_PAYLOAD else None
                position = end

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position lies between messages; always true outside JSON mode."""
        if position in (0, state.tail) or not content_types.is_json(state.content_type):
            return True
        (extent,) = fork_ranges.extents(self.stream, state, position - 1, position)
        return self._logs[extent.stream_id].is_boundary(position)

    def save(self, state: StreamState) -> None:
        """Write the state of a stream."""
        log = self._logs.get(state.id)
        if log is None:
            self._logs[state.id] = _Log(state)
            self._by_path[state.path] = state.id
            if self._names is not None:
                self._names.add(state.path)
            if state.deadline() is not None:
                self._expiring.add(state.id)
        else:
            log.state = state
            if state.deleted:
                self._expiring.discard(state.id)

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write the state of a stream's producer."""
        log = self._logs[stream_id]
        if producer_id not in log.producers:
            log.earlier.pop(producer_id, None)
            size = len(log.producers)
            if Generation(0, size).joined(self._max_producers).number:
                log.earlier, log.producers = log.producers, {}
        log.producers[producer_id] = state

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Append a body at the tail."""
        log = self._logs[state.id]
        log.data += body.data
        if content_types.is_json(state.content_type):
            for piece in cut(body, limits.RECORD_PAYLOAD):
                if not piece.torn_after:
                    log.boundaries.append(start + piece.stop)

    def is_receiving(self, path: str) -> bool:
        """Return False: bodies are written at once."""
        return False

    def remove_stream(self, state: StreamState) -> None:
        """Remove a stream."""
        del self._logs[state.id]
        del self._by_path[state.path]
        if self._names is not None:
            self._names.remove(state.path)
        self._expiring.discard(state.id)
        self.access.forget(state.id)

    # -- records ----------------------------------------------------------------------------

    def get(self, table: api.RecordTable[T], key: bytes) -> T | None:
        """Return the record of a key."""
        record: T | None = self._tables[table.prefix].get(key)
        return record

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Write a record."""
        self._tables[table.prefix][key] = value
        if table.watched:
            self._record_changes.append(api.RecordChange(table, key, value))

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record if it exists."""
        self._tables[table.prefix].pop(key, None)
        if table.watched:
            self._record_changes.append(api.RecordChange(table, key, None))

    def range(
        self, table: api.RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop`` in order.

        The table must not change during the iteration.
        """
        records = self._tables[table.prefix]
        for key in records.irange(first, stop, inclusive=(True, False)):
            yield key, records[key]

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table."""
        return next(self.range(table, *owned_range(number)), None) is not None

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns."""
        for table in OWNED:
            for key, _ in list(self.range(table, *owned_range(number))):
                del self._tables[table.prefix][key]

    # -- StoreSnapshot ----------------------------------------------------------------------

    def active_stream(self, path: str) -> StreamState | None:
        """Return the stream at a path, None if clients cannot use it."""
        state = self._usable_state(path, self._now())
        return None if isinstance(state, Refusal) else state

    def stream_names(self, prefix: str, after: str = "") -> Iterator[str]:
        """Return an iterator over stream names with a prefix and after ``after``, and others.

        The store must not change during the iteration.
        """
        if self._names is None:
            # Kept in order only after the first listing: most stores are never listed.
            self._names = SortedKeyList(self._by_path, key=listing_key)
        first, stop = listing_range(prefix)
        last = listing_key(after)
        names: Iterator[str] = self._names.irange_key(
            max(first, last), stop, inclusive=(first > last, False)
        )
        return names

    # -- reading ----------------------------------------------------------------------------

    def _usable_state(self, path: str, now: int) -> StreamState | Refusal:
        return check_usable(self.stream_at(path), self.access, now)

    def _read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> api.Chunk | Refusal:
        now = self._now()
        state = self._usable_state(path, now)
        if isinstance(state, Refusal):
            return state
        position = fork_ranges.resolve_offset(state, offset, stream_id)
        if isinstance(position, Refusal):
            return position
        if not self.is_boundary(state, position):
            return fork_ranges.INSIDE_MESSAGE
        if state.lifetime.ttl is not None:
            self.access.record(state.id, now)
        end = self._response_end(state, position, limit)
        stop = end if piece is None else min(end, position + piece)
        data = b"".join(self._parts(state, position, stop))
        return api.Chunk(state, position, data, end - stop)

    def _notify(self) -> None:
        # A listener may submit a command: its changes are announced after those of this one.
        if self._notifying:
            return
        self._notifying = True
        try:
            while self.changes or self._record_changes:
                notes, self._record_changes = self._record_changes, []
                api.notify_listeners(self._record_listeners, notes)
                changes, self.changes = self.changes, []
                api.notify_listeners(self._listeners, changes)
        finally:
            self._notifying = False
