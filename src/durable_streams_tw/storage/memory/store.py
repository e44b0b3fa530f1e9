"""The store that keeps nothing: same rules and answers, no disk (used without a data
directory, and by tests)."""

from __future__ import annotations

import math
import os
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.producers import Generation, ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage.access_times import AccessTimes, check_usable
from durable_streams_tw.storage.api import (
    Change,
    Chunk,
    Command,
    IStreamStore,
    Listener,
    Outcome,
    RecordChange,
    RecordListener,
    RecordTable,
    StoreObserver,
    StoreSnapshot,
    StoreStats,
    notify_listeners,
)
from durable_streams_tw.storage.commands import forks, pending
from durable_streams_tw.storage.commands.forks import Counting, ForkCounter
from durable_streams_tw.storage.commands.streams import apply, expire
from durable_streams_tw.storage.durable.record_layout import cut
from durable_streams_tw.storage.engine.tables import Table, owned_range
from durable_streams_tw.storage.fork_ranges import (
    INSIDE_MESSAGE,
    check_same_stream,
    extents,
    resolve_offset,
)
from durable_streams_tw.storage.limits import (
    BATCH_TIME,
    MAX_PRODUCERS,
    RECORD_PAYLOAD,
    SWEEP_INTERVAL,
)
from durable_streams_tw.storage.memory.sorted_names import SortedNames
from durable_streams_tw.storage.memory.tables import MemoryTables

T = TypeVar("T")


_STOPPING: Final = Refusal(Problem.STOPPING, "the server is stopping")
_BUG: Final = Refusal(Problem.INTERNAL, "the server failed; nothing was written")


class _Log:
    """One stream's own bytes, its message boundaries in JSON mode, and its producers.

    ``boundaries`` has the end of every append, and the cuts of large ones.
    """

    __slots__ = ("boundaries", "data", "earlier", "origin", "producers", "state")

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.origin = state.origin
        self.data = bytearray()
        self.boundaries = array("Q", [state.origin])
        # The current generation, and the one before.
        self.producers: dict[str, ProducerState] = {}
        self.earlier: dict[str, ProducerState] = {}

    def slice(self, start: int, stop: int) -> bytes:
        with memoryview(self.data) as view:
            return bytes(view[start - self.origin : stop - self.origin])

    def boundary_from(self, position: int) -> int:
        """The first message boundary at or behind a position."""
        return self.boundaries[bisect_left(self.boundaries, position)]

    def run_end(self, position: int) -> int:
        """Where a run of messages ends that begins at a boundary: at most a record, or one
        message that is larger."""
        following = bisect_right(self.boundaries, position + RECORD_PAYLOAD)
        end = self.boundaries[following - 1]
        return end if end > position else self.boundaries[following]

    def is_boundary(self, position: int) -> bool:
        """Whether a position lies between messages."""
        following = bisect_left(self.boundaries, position)
        if self.boundaries[following] == position:
            return True
        before, after = self.boundaries[following - 1], self.boundaries[following]
        # What is larger than a record and has no cut in it is one message.
        return after - before <= RECORD_PAYLOAD and json_mode.is_boundary(
            self.slice(before, position)
        )


@implementer(IStreamStore)
class MemoryStore:
    """Streams in dictionaries. Every Deferred that it returns has fired.

    ``now`` and ``lead`` are those of a `clocks.StreamTime`. ``clock`` runs the sweep between
    `open` and `close`; without one, expired streams that nobody asks for stay in memory.
    """

    def __init__(
        self,
        now: Callable[[], int],
        clock: IReactorTime | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = MAX_PRODUCERS,
    ) -> None:
        self._max_producers = max_producers
        self._now = now
        self._clock = clock
        self._counter = ForkCounter(self._count, _BUG)
        self._sweeps: LoopingCall | None = None
        if clock is not None:
            self._sweeps = LoopingCall(self.sweep)
            self._sweeps.clock = clock
        self._by_path: dict[str, int] = {}
        self._logs: dict[int, _Log] = {}
        self._names: SortedNames | None = None
        self._mortal: set[int] = set()
        # Those of them that the sweep under way has not looked at.
        self._mortal_left: list[int] = []
        # Offsets and entity tags carry ids, and clients keep them for longer than a process lives.
        self._next_id = self.process_first_id = (now() << 20) + 1
        self.access = AccessTimes(lead)
        self._listeners: list[Listener] = []
        self._note_listeners: list[RecordListener] = []
        self._telling = False
        self._observer: StoreObserver | None = None
        self._tables = MemoryTables()
        self._notes: list[RecordChange] = []
        self.changes: list[Change] = []
        self.index = SubscriptionIndex()
        self.has_space = True
        self.fan_outs: OrderedDict[str, FanOut] = OrderedDict()

    # -- IStreamStore ---------------------------------------------------------------------

    def open(self) -> None:
        """Begin to sweep."""
        if self._sweeps is not None:
            self._sweeps.start(SWEEP_INTERVAL, now=False)

    def close(self) -> Deferred[None]:
        """Sweep no more."""
        if self._sweeps is not None and self._sweeps.running:
            self._sweeps.stop()
        self._mortal_left.clear()
        self._counter.stop(_STOPPING)
        return succeed(None)

    def submit(self, command: Command) -> Deferred[Outcome]:
        """Carry out a command at once."""
        done: Deferred[Outcome] = Deferred()
        self.execute(command, done.callback)
        return done

    def execute(self, command: Command, callback: Callable[[Outcome], object]) -> None:
        """Carry out a command at once, but for a fork whose messages take long to count."""
        if forks.needs_count(command):
            assert isinstance(command, Create)
            self._counter.count(command, partial(self._counted, callback))
        else:
            self._apply(command, callback)

    def _counted(self, callback: Callable[[Outcome], object], counted: Create | Refusal) -> None:
        if isinstance(counted, Refusal):
            callback(counted)
        else:
            self._apply(counted, callback)

    def _count(
        self, command: Create, counting: Counting | None
    ) -> Deferred[Create | Counting | Refusal]:
        """Count messages of a fork's source: a step in each turn of the reactor."""
        reached = forks.count_some(self, command, counting)
        while isinstance(reached, Counting) and self._clock is None:
            reached = forks.count_some(self, command, reached)
        if not isinstance(reached, Counting) or self._clock is None:
            return succeed(reached)
        later: Deferred[Create | Counting | Refusal] = Deferred()
        self._clock.callLater(0, later.callback, reached)
        return later

    def _apply(self, command: Command, callback: Callable[[Outcome], object]) -> None:
        known = len(self.changes)
        outcome = self._carry_out(command, self._now())
        if self._observer is not None:
            self._observer.record_command(command, outcome, self.changes[known:])
        self._tell()
        callback(outcome)

    def _carry_out(self, command: Command, now: int) -> Outcome:
        outcome = None
        while outcome is None:
            outcome = apply(self, command, now)
            self._finish_fan_outs(now)
        return outcome

    def _finish_fan_outs(self, now: int) -> None:
        while self.fan_outs:
            pending.resume(self, now)

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """The stream at a path."""
        return succeed(self._look(path, self._now()))

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Bytes of the stream at a path."""
        return succeed(self._read(path, offset, limit, stream_id, piece))

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Exactly the bytes ``[start, stop)`` of a stream."""
        state = check_same_stream(self._look(path, self._now()), stream_id)
        if isinstance(state, Refusal):
            return succeed(state)
        return succeed(b"".join(self._parts(state, start, stop)))

    def pin(self, stream_id: int) -> None:
        """A live reader came."""
        self.access.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """A live reader went."""
        self.access.unpin(stream_id, self._now())

    def add_listener(self, listener: Listener) -> None:
        """Tell ``listener`` of every change."""
        self._listeners.append(listener)

    def query(self, question: Callable[[StoreSnapshot], T]) -> Deferred[T | Refusal]:
        """What a function finds."""
        answer: T | Refusal = question(self)
        return succeed(answer)

    def add_record_listener(self, listener: RecordListener) -> None:
        """Tell ``listener`` of every change of a watched record."""
        self._note_listeners.append(listener)

    def set_observer(self, observer: StoreObserver) -> None:
        """Count into ``meter`` from now on."""
        self._observer = observer

    def stats(self) -> Deferred[StoreStats | None]:
        """There is no disk."""
        return succeed(None)

    def check_writable(self) -> Deferred[str | None]:
        """There is none."""
        return succeed(None)

    def sweep(self) -> None:
        """End the streams whose time has come, in each turn as many as BATCH_TIME allows."""
        if not self._mortal_left:
            self._mortal_left = list(self._mortal)
            self._sweep_some()

    def _sweep_some(self) -> None:
        now, clock, left = self._now(), self._clock, self._mortal_left
        until = math.inf if clock is None else clock.seconds() + BATCH_TIME
        while left:
            expire(self, left.pop(), now)
            self._finish_fan_outs(now)
            if clock is not None and clock.seconds() >= until:
                break
        self._tell()
        if left and clock is not None:
            clock.callLater(0, self._sweep_some)

    def count(self) -> int:
        """How many streams there are, those that live on for their forks too."""
        return len(self._logs)

    # -- Transaction ------------------------------------------------------------------------

    def stream_at(self, path: str) -> StreamState | None:
        """The stream that holds a path."""
        stream_id = self._by_path.get(path)
        return None if stream_id is None else self._logs[stream_id].state

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of an id."""
        log = self._logs.get(stream_id)
        return None if log is None else log.state

    def new_id(self) -> int:
        """The next id."""
        self._next_id += 1
        return self._next_id - 1

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """What the stream remembers of a producer."""
        log = self._logs[stream_id]
        return log.producers.get(producer_id) or log.earlier.get(producer_id)

    def gather(self, state: StreamState, start: int, limit: int) -> bytes:
        """Stored bytes of a stream, inherited ones too."""
        return b"".join(self._parts(state, start, self._answer_end(state, start, limit)))

    def _answer_end(self, state: StreamState, start: int, limit: int) -> int:
        """Return where an answer of about ``limit`` bytes from ``start`` ends."""
        stop = start + limit
        if stop >= state.tail or not content_types.is_json(state.content_type):
            return min(stop, state.tail)
        for extent in extents(self.stream, state, start, state.tail):
            if stop < extent.stop:
                # A fork may end a source's extent where the source's log has no cut.
                return min(extent.stop, self._logs[extent.stream_id].boundary_from(stop))
            if stop == extent.stop:
                break
        return stop

    def _parts(self, state: StreamState, start: int, stop: int) -> list[bytes]:
        return [
            self._logs[extent.stream_id].slice(extent.start, extent.stop)
            for extent in extents(self.stream, state, start, stop)
        ]

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """The stored messages of a stream."""
        for extent in extents(self.stream, state, start, state.tail):
            log, position = self._logs[extent.stream_id], extent.start
            while position < extent.stop:
                end = min(log.run_end(position), extent.stop)
                size = end - position
                yield size, log.slice(position, end) if size <= RECORD_PAYLOAD else None
                position = end

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Whether a position lies between messages."""
        if position in (0, state.tail) or not content_types.is_json(state.content_type):
            return True
        (extent,) = extents(self.stream, state, position - 1, position)
        return self._logs[extent.stream_id].is_boundary(position)

    def save(self, state: StreamState) -> None:
        """Write a stream's state."""
        log = self._logs.get(state.id)
        if log is None:
            self._logs[state.id] = _Log(state)
            self._by_path[state.path] = state.id
            if self._names is not None:
                self._names.add(state.path)
            if state.deadline() is not None:
                self._mortal.add(state.id)
        else:
            log.state = state
            if state.deleted:
                self._mortal.discard(state.id)

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write what a stream remembers of a producer."""
        log = self._logs[stream_id]
        if producer_id not in log.producers:
            log.earlier.pop(producer_id, None)
            size = len(log.producers)
            if Generation(0, size).joined(self._max_producers).number:
                log.earlier, log.producers = log.producers, {}
        log.producers[producer_id] = state

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Write bytes at the tail."""
        log = self._logs[state.id]
        log.data += body.data
        if content_types.is_json(state.content_type):
            for piece in cut(body, RECORD_PAYLOAD):
                if not piece.torn_after:
                    log.boundaries.append(start + piece.stop)

    def remove_stream(self, state: StreamState) -> None:
        """End a stream."""
        del self._logs[state.id]
        del self._by_path[state.path]
        if self._names is not None:
            self._names.remove(state.path)
        self._mortal.discard(state.id)
        self.access.forget(state.id)

    # -- records ----------------------------------------------------------------------------

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """The record of a key."""
        return self._tables.get(table, key)

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a record."""
        self._tables.put(table, key, value)
        if table.watched:
            self._notes.append(RecordChange(table, key, value))

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record."""
        self._tables.delete(table, key)
        if table.watched:
            self._notes.append(RecordChange(table, key, None))

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Records in order."""
        return self._tables.range(table, first, stop)

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table."""
        return next(self._tables.range(table, *owned_range(number)), None) is not None

    def remove_owned(self, number: int) -> None:
        """Let go of all that a number owns."""
        self._tables.remove_owned(number)

    def random_bytes(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
        return os.urandom(size)

    # -- Moment -----------------------------------------------------------------------------

    def active_stream(self, path: str) -> StreamState | None:
        """The stream at a path, where a client may use it."""
        state = self._look(path, self._now())
        return None if isinstance(state, Refusal) else state

    def stream_names(self, prefix: str, after: str = "") -> Iterator[str]:
        """The names of streams that begin with a text, and perhaps others."""
        if self._names is None:
            # From now on kept in order; until somebody asks, that would be work for nothing.
            self._names = SortedNames(self._by_path)
        return self._names.following(prefix, after)

    # -- reading ----------------------------------------------------------------------------

    def _look(self, path: str, now: int) -> StreamState | Refusal:
        return check_usable(self.stream_at(path), self.access, now)

    def _read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> Chunk | Refusal:
        now = self._now()
        state = self._look(path, now)
        if isinstance(state, Refusal):
            return state
        position = resolve_offset(state, offset, stream_id)
        if isinstance(position, Refusal):
            return position
        if not self.is_boundary(state, position):
            return INSIDE_MESSAGE
        if state.lifetime.ttl is not None:
            self.access.record(state.id, now)
        end = self._answer_end(state, position, limit)
        stop = end if piece is None else min(end, position + piece)
        data = b"".join(self._parts(state, position, stop))
        return Chunk(state, position, data, end - stop)

    def _tell(self) -> None:
        # A listener may submit a command itself: that is callback when all know of the first.
        if self._telling:
            return
        self._telling = True
        try:
            while self.changes or self._notes:
                notes, self._notes = self._notes, []
                notify_listeners(self._note_listeners, notes)
                changes, self.changes = self.changes, []
                notify_listeners(self._listeners, changes)
        finally:
            self._telling = False
