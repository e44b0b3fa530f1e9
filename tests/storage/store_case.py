"""Base of the suites of `IStreamStore`: a store, its clock, and helpers for requests.

A test of a store derives from `StoreSuite` (or one of its parts) and from
`twisted.trial.unittest.SynchronousTestCase`, and defines

1. `make_store`: return an open store whose clock is `now`;
2. `result`: return the result of a Deferred. By default it must have fired; a store with threads or
   queues runs them here;
3. `reopen`: close and open the store again, if it supports that;
4. `sweep`: expire streams at once;
5. `settle`: finish background work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from durable_streams_tw.storage.api import (
    Change,
    Chunk,
    Command,
    IStreamStore,
    Outcome,
    StoreSnapshot,
)

if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    # A mixin, so that the suites are not run without a store.
    _Base = object

TEXT = "text/plain"
JSON = "application/json"
START = 1_800_000_000_000
"""When every test begins (milliseconds since 1970)."""

T = TypeVar("T")


def put(
    path: str = "a",
    content_type: str | None = TEXT,
    raw: bytes = b"",
    lifetime: Lifetime = NO_EXPIRY,
    closed: bool = False,
) -> Create:
    """Return the command of a PUT request."""
    body = bodies.initial(content_type or content_types.DEFAULT, raw)
    return Create(path, content_type, lifetime, closed, body)


def post(
    raw: bytes = b"",
    path: str = "a",
    content_type: str | None = TEXT,
    closed: bool = False,
    seq: bytes | None = None,
    producer: tuple[str, int, int] | None = None,
) -> Append:
    """Return the command of a POST request."""
    body = bodies.appended(content_type, raw) if raw else None
    claim = None if producer is None else ProducerClaim(*producer)
    return Append(path, content_type, body, closed, seq, claim)


class Ask(Struct):
    """Question of a test: the answer is what a function returns."""

    function: Callable[[StoreSnapshot], Any]

    def answer(self, snapshot: StoreSnapshot) -> Any:
        """Call the function."""
        return self.function(snapshot)


class StoreCase(_Base):
    """Fresh store per test. `told` has the changes of each commit."""

    lead = 0
    """Lead of the wall clock over the store's time, in ms."""

    def make_store(self) -> IStreamStore:
        """Open an empty store with clock ``self.now`` and wall clock offset ``self.lead``."""
        raise NotImplementedError

    def reopen(self, store: IStreamStore) -> IStreamStore:
        """Return the store after a restart; itself if it does not survive one."""
        return store

    def sweep(self, store: IStreamStore) -> None:
        """End expired streams."""
        raise NotImplementedError

    def settle(self, store: IStreamStore) -> None:
        """Finish the background work."""

    def result(self, deferred: Deferred[T]) -> T:
        """Return the result of a Deferred."""
        return self.successResultOf(deferred)

    # -- the store ------------------------------------------------------------------------

    def setUp(self) -> None:
        self.begin()
        self.addCleanup(self.finish)

    def begin(self) -> None:
        """Make a store and add a listener."""
        self.now = START
        self.announced: list[Sequence[Change]] = []
        self.store = self.make_store()
        self.store.add_listener(self.announced.append)

    def finish(self) -> None:
        self.settle(self.store)
        self.result(self.store.close())

    def restart(self) -> None:
        """Close and reopen the store if it can."""
        store = self.reopen(self.store)
        if store is not self.store:
            self.store = store
            store.add_listener(self.announced.append)

    @property
    def owner(self) -> IStreamStore:
        """The store that keeps the records: `store` itself, unless that is a remote one."""
        return self.store

    def sleep(self, seconds: float) -> None:
        """Advance the time."""
        self.now += round(seconds * 1000)

    # -- short words ------------------------------------------------------------------------

    def submit(self, command: Command) -> Outcome:
        """Carry out one command."""
        return self.result(self.store.submit(command))

    def submit_all(self, *commands: Command) -> list[Outcome]:
        """Submit commands without waiting in between, and return their outcomes."""
        submitted = list(map(self.store.submit, commands))
        return [self.result(deferred) for deferred in submitted]

    def created(self, command: Create) -> StreamState:
        """Create a stream that must not exist."""
        outcome = self.submit(command)
        assert isinstance(outcome, Created), outcome
        self.assertTrue(outcome.fresh)
        return outcome.state

    def appended(self, command: Append) -> StreamState:
        """Append or close; must not be a duplicate."""
        outcome = self.submit(command)
        assert isinstance(outcome, Appended), outcome
        self.assertFalse(outcome.duplicate)
        return outcome.state

    def deleted(self, path: str = "a") -> StreamState:
        """Delete a stream that must exist."""
        outcome = self.submit(Delete(path))
        assert isinstance(outcome, Deleted), outcome
        return outcome.state

    def state_of(self, path: str = "a") -> StreamState:
        """Return the state of a stream that must exist."""
        state = self.result(self.store.get_state(path))
        assert isinstance(state, StreamState), state
        return state

    def read(
        self, offset: int = 0, limit: int = 2**20, path: str = "a", stream_id: int | None = None
    ) -> Chunk:
        """Read once; must succeed."""
        chunk = self.result(self.store.read(path, offset, limit, stream_id))
        assert isinstance(chunk, Chunk), chunk
        self.assertEqual(chunk.state.path, path)
        return chunk

    def chunks(self, limit: int, path: str = "a", start: int = 0) -> list[Chunk]:
        """Return all chunks of a stream from a position, and check each."""
        found = [self.read(start, limit, path)]
        while not found[-1].at_tail:
            self.assertTrue(found[-1].data, "a read that is not at the tail brings something")
            found.append(self.read(found[-1].end, limit, path))
        return found

    def content(self, path: str = "a", start: int = 0) -> bytes:
        """Return all stored bytes from a position."""
        return b"".join([chunk.data for chunk in self.chunks(2**20, path, start)])

    def messages(self, path: str = "a", start: int = 0) -> tuple[bytes, ...]:
        """Return all messages of a JSON stream from a position."""
        return json_mode.split(json_mode.document(self.content(path, start)))

    def assertRefused(self, problem: Problem, outcome: object) -> Refusal:
        """Assert that an outcome is a refusal with a problem; return it."""
        assert isinstance(outcome, Refusal), outcome
        self.assertEqual(outcome.problem, problem)
        return outcome

    def assertGone(self, path: str = "a", problem: Problem = Problem.STREAM_NOT_FOUND) -> None:
        """Assert that the only command a path accepts is the creation of a stream."""
        outcomes: list[Any] = [
            self.result(self.store.get_state(path)),
            self.result(self.store.read(path, 0, 100)),
            *self.submit_all(post(b"x", path), post(b"", path, closed=True), Delete(path)),
        ]
        for outcome in outcomes:
            self.assertRefused(problem, outcome)
