"""Test case of live reads: a bounded clock, a store with delays, and recording sinks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from durable_streams_tw.http.limits import MAX_CHUNK
from durable_streams_tw.live.body_output import PieceSize
from durable_streams_tw.live.limits import READ_PIECE, SSE_COMMENT_INTERVAL
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.live.sse.feed import Subscriber
from durable_streams_tw.live.transfers import Transfer
from durable_streams_tw.protocol.cursors import interval_at
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.offsets import START, RequestedOffset, parse_offset
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from durable_streams_tw.storage.api import (
    Change,
    Chunk,
    Command,
    IStreamStore,
    Listener,
    Outcome,
    Query,
    RecordListener,
    Stats,
    StoreObserver,
)
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.sse_parser import parse
from tests.tokens import at, bare

T = TypeVar("T")

PATH = "s"
BEGAN = 1_760_000_007.0
TIMEOUT = 30.0
RECONNECT = 60.0
COMMENT = SSE_COMMENT_INTERVAL


class BoundedClock(Clock):
    """Clock that fails a test whose calls schedule further calls without end."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def advance(self, amount: float) -> None:
        """Advance the time."""
        self._asked = 0
        super().advance(amount)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Schedule a call; more than a thousand at one moment fail the test."""
        self._asked += 1
        assert self._asked < 1_000, "calls are scheduled without end"
        return super().callLater(delay, callable, *args, **kw)


@implementer(IStreamStore)
class DelayedStore:
    """Memory store whose results and notifications are delivered on demand.

    While ``holding``, results of reads are delivered by `release`. While ``mute``, commits are
    announced by `tell`. ``hooks`` run one by one, each once, between a read and its result. If
    ``broken`` is set, reads fail with it.
    """

    duties = None
    keyring = None

    def __init__(self, now: Callable[[], int]) -> None:
        self.memory = MemoryStore(now)
        self.memory.add_listener(self._changed)
        self.holding = False
        self.mute = False
        self.broken: Refusal | Exception | None = None
        self.hooks: list[Callable[[], object]] = []
        self.reads = 0
        self.pins: dict[int, int] = {}
        self._held: list[tuple[Deferred[Chunk | Refusal], Deferred[Chunk | Refusal]]] = []
        self._untold: list[Change] = []
        self._listeners: list[Listener] = []

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)

    def submit(self, command: Command) -> Deferred[Outcome]:
        """Submit to the memory store."""
        return self.memory.submit(command)

    def execute(self, command: Command, told: Callable[[Outcome], object]) -> None:
        """Execute on the memory store."""
        self.memory.execute(command, told)

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Return the state from the memory store."""
        return self.memory.get_state(path)

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Read from the memory store; the result may be held back."""
        return self._read(lambda: self.memory.read(path, offset, limit, stream_id, piece))

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Read from the memory store; the result may be held back."""
        return self._read(lambda: self.memory.read_range(path, stream_id, start, stop))

    def _read(self, look: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        self.reads += 1
        if isinstance(self.broken, Exception):
            return fail(self.broken)
        if self.broken is not None:
            return succeed(self.broken)
        answer = look()
        if self.hooks:
            self.hooks.pop(0)()
        if not self.holding:
            return answer
        waiting: Deferred[Any] = Deferred()
        self._held.append((waiting, answer))
        return waiting

    def pin(self, stream_id: int) -> None:
        """Count the pin."""
        self.pins[stream_id] = self.pins.get(stream_id, 0) + 1
        self.memory.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """Count the unpin."""
        self.pins[stream_id] -= 1
        self.memory.unpin(stream_id)

    def add_listener(self, listener: Listener) -> None:
        """Add a listener that `tell` calls."""
        self._listeners.append(listener)

    def set_observer(self, observer: StoreObserver) -> None:
        """Set the observer of the memory store."""
        self.memory.set_observer(observer)

    def stats(self) -> Deferred[Stats | None]:
        """Return None."""
        return self.memory.stats()

    def check_writable(self) -> Deferred[str | None]:
        """Return None."""
        return self.memory.check_writable()

    def query(self, question: Query[T]) -> Deferred[T | Refusal]:
        """Query the memory store."""
        return self.memory.query(question)

    def add_record_listener(self, listener: RecordListener) -> None:
        """Add a listener to the memory store."""
        self.memory.add_record_listener(listener)

    def release(self) -> None:
        """Deliver the results of reads."""
        held, self._held = self._held, []
        for waiting, answer in held:
            answer.addCallback(waiting.callback)

    def tell(self) -> None:
        """Announce the commits so far."""
        untold, self._untold = self._untold, []
        if untold:
            for listener in self._listeners:
                listener(untold)

    def tell_states(self) -> None:
        """Announce states without bytes, as a store does after a commit of unknown outcome."""
        states = {change.state.id: change.state for change in self._untold}
        self._untold = [Change(state, state.tail, b"") for state in states.values()]
        self.tell()

    def _changed(self, changes: Sequence[Change]) -> None:
        self._untold.extend(changes)
        if not self.mute:
            self.tell()


class RecordingSink:
    """Sink that records all calls. It pauses its producer above ``room`` bytes, as
    transports do.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.writes: list[bytes] = []
        self.ended = self.aborted = False
        self.buffered = 0
        self.paused = False
        self.producer: Subscriber | Transfer | None = None
        self.failing = False
        self.on_write: Callable[[], object] | None = None

    def write(self, data: bytes) -> None:
        """Record the bytes; pause the producer above ``room``."""
        assert not self.over, "write to a body that has ended"
        if self.failing:
            raise RuntimeError("the sink is broken")
        self.writes.append(data)
        self.buffered += len(data)
        if self.on_write is not None:
            self.on_write()
        if self.room is not None and self.buffered > self.room:
            self.pause()

    def finish(self) -> None:
        """Record the end."""
        assert not self.over, "second end of a body"
        self.ended = True

    def abort(self) -> None:
        """Record the abort."""
        assert not self.over, "abort of a body that has ended"
        self.aborted = True

    @property
    def over(self) -> bool:
        """Return whether the body has ended or was aborted."""
        return self.ended or self.aborted

    def pause(self) -> None:
        """Pause the producer."""
        if not self.paused and self.producer is not None:
            self.paused = True
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Forget the written bytes and resume the producer."""
        self.buffered = 0
        if self.paused and self.producer is not None:
            self.paused = False
            self.producer.resumeProducing()

    @property
    def bytes(self) -> bytes:
        """Return all bytes written."""
        return b"".join(self.writes)

    @property
    def events(self) -> list[tuple[str, str]]:
        """Return all events, as a browser parses them."""
        return [(event.type, event.data) for event in parse(self.bytes)]

    @property
    def payload(self) -> str:
        """Return the data of all data events."""
        return "".join([data for kind, data in self.events if kind == "data"])

    @property
    def controls(self) -> list[dict[str, Any]]:
        """Return the control events, with offsets without incarnation."""
        told = [json.loads(data) for kind, data in self.events if kind == "control"]
        return [{**event, "streamNextOffset": bare(event["streamNextOffset"])} for event in told]

    @property
    def position(self) -> int:
        """Return the offset of the last control event."""
        position = parse_offset(self.controls[-1]["streamNextOffset"])
        assert isinstance(position, int)
        return position


class LiveTestCase(SynchronousTestCase):
    """A memory store and the live layer on top of it."""

    def setUp(self) -> None:
        self.clock = BoundedClock()
        self.clock.advance(BEGAN)
        self.store = DelayedStore(lambda: int(self.clock.seconds() * 1000))
        self.registry = FollowerRegistry(self.store, self.clock)
        self.polls = LongPolls(self.store, self.registry, self.clock, TIMEOUT)
        self.chance = 0.5
        self.piece_size = PieceSize()
        self.fanout = Broadcaster(
            self.store,
            self.registry,
            self.clock,
            RECONNECT,
            random=lambda: self.chance,
            piece_size=self.piece_size,
        )

    # -- writing ------------------------------------------------------------------------------

    def submit(self, command: Command) -> Outcome:
        """Carry out a command that must succeed."""
        outcome = self.successResultOf(self.store.submit(command))
        self.assertNotIsInstance(outcome, Refusal)
        return outcome

    def create(
        self,
        content_type: str = "text/plain",
        body: bytes = b"",
        path: str = PATH,
        lifetime: Lifetime = NO_EXPIRY,
    ) -> None:
        """Create a stream."""
        self.submit(
            Create(
                path=path,
                content_type=content_type,
                lifetime=lifetime,
                closed=False,
                body=bodies.initial(content_type, body),
            )
        )

    def append(self, data: bytes, path: str = PATH, closed: bool = False) -> None:
        """Append, and optionally close."""
        content_type = self.state(path).content_type
        body = bodies.appended(content_type, data)
        self.submit(Append(path=path, content_type=content_type, body=body, closed=closed))

    def close(self, path: str = PATH) -> None:
        """Close a stream."""
        self.submit(Append(path=path, content_type=None, body=None, closed=True))

    def delete(self, path: str = PATH) -> None:
        """Delete a stream."""
        self.submit(Delete(path=path))

    # -- reading --------------------------------------------------------------------------------

    def state(self, path: str = PATH) -> StreamState:
        """Return the state of the stream."""
        state = self.successResultOf(self.store.get_state(path))
        assert isinstance(state, StreamState)
        return state

    def chunk(self, offset: int = START, path: str = PATH, limit: int = READ_PIECE) -> Chunk:
        """Return the chunk that a request reads."""
        chunk = self.successResultOf(self.store.memory.read(path, offset, limit))
        assert isinstance(chunk, Chunk)
        return chunk

    def wait(self, chunk: Chunk) -> Deferred[Chunk | Refusal]:
        """Start a long-poll after a chunk."""
        return self.polls.wait(chunk, MAX_CHUNK)

    def subscribe(
        self,
        offset: int = START,
        path: str = PATH,
        *,
        cursor: int | None = None,
        room: int | None = None,
        chunk: Chunk | None = None,
    ) -> RecordingSink:
        """Subscribe to a stream; no turn has run yet."""
        sink = RecordingSink(room)
        sink.producer = self.fanout.subscribe(chunk or self.chunk(offset, path), cursor, sink)
        return sink

    def turn(self) -> None:
        """Run all calls that are due."""
        self.clock.advance(0)

    def assertNothingLeft(self) -> None:
        """Assert that no resources are held after all readers have left."""
        self.assertEqual(self.fanout.count, 0)
        self.assertEqual(self.polls.count, 0)
        self.assertEqual(self.registry.count, 0)
        self.assertEqual(self.piece_size.slow_readers, 0)
        self.assertEqual([pins for pins in self.store.pins.values() if pins], [])
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])


def control(position: int, *, up_to_date: bool = True, closed: bool = False) -> dict[str, Any]:
    """Return the control event of a position at the start time of the tests."""
    event: dict[str, Any] = {"streamNextOffset": at(position)}
    if not closed:
        event["streamCursor"] = str(interval_at(BEGAN))
    if up_to_date or closed:
        event["upToDate"] = True
    if closed:
        event["streamClosed"] = True
    return event
