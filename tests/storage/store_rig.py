"""What the suites of `IStreamStore` stand on: a store, its clock, and short words for requests.

A test of a store derives from `StoreSuite` (or one of its parts) and from
`twisted.trial.unittest.SynchronousTestCase`, and says how to make a store:

1. `make_store` gives an opened store whose clock is `now`;
2. `result` gives what a Deferred comes to. By default it has to have fired already; a store
   with threads or queues of its own runs them here until it has;
3. `reopen` closes and opens the store again, where it can; by default nothing happens;
4. `sweep` makes the store look for expired streams at once, and finish what follows;
5. `settle` makes it do what is left to be done in the background, by default nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from durable_streams_tw.storage.api import Change, Chunk, Command, IStreamStore, Outcome

if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    # A mixin, so that nobody runs the suites without a store.
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
    """A PUT as it comes from the wire."""
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
    """A POST as it comes from the wire."""
    body = bodies.appended(content_type, raw) if raw else None
    claim = None if producer is None else ProducerClaim(*producer)
    return Append(path, content_type, body, closed, seq, claim)


class StoreRig(_Base):
    """A fresh store for every test. `told` is what its listener heard, commit by commit."""

    lead = 0
    """How far the wall clock is ahead of the store's time (ms)."""

    def make_store(self) -> IStreamStore:
        """Make an open, empty store whose clock is ``self.now``, and the wall clock ``self.lead``
        ahead of it."""
        raise NotImplementedError

    def reopen(self, store: IStreamStore) -> IStreamStore:
        """The same store after a restart; itself where it does not outlive one."""
        return store

    def sweep(self, store: IStreamStore) -> None:
        """End what has expired."""
        raise NotImplementedError

    def settle(self, store: IStreamStore) -> None:
        """Do what is left to be done in the background."""

    def result(self, deferred: Deferred[T]) -> T:
        """What a Deferred comes to."""
        return self.successResultOf(deferred)

    # -- the store ------------------------------------------------------------------------

    def setUp(self) -> None:
        self.begin()
        self.addCleanup(self.finish)

    def begin(self) -> None:
        """A new store at the beginning of time."""
        self.now = START
        self.told: list[Sequence[Change]] = []
        self.store = self.make_store()
        self.store.add_listener(self.told.append)

    def finish(self) -> None:
        """Close the store."""
        self.settle(self.store)
        self.result(self.store.close())

    def restart(self) -> None:
        """Close the store and open it again, if it can."""
        store = self.reopen(self.store)
        if store is not self.store:
            self.store = store
            store.add_listener(self.told.append)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)

    # -- short words ------------------------------------------------------------------------

    def submit(self, command: Command) -> Outcome:
        """One command, alone."""
        return self.result(self.store.submit(command))

    def submit_all(self, *commands: Command) -> list[Outcome]:
        """Commands one behind the other, none waiting for the one before."""
        submitted = list(map(self.store.submit, commands))
        return [self.result(deferred) for deferred in submitted]

    def created(self, command: Create) -> StreamState:
        """Create what is not there yet."""
        outcome = self.submit(command)
        assert isinstance(outcome, Created), outcome
        self.assertTrue(outcome.fresh)
        return outcome.state

    def appended(self, command: Append) -> StreamState:
        """Append, or close, what is not a duplicate."""
        outcome = self.submit(command)
        assert isinstance(outcome, Appended), outcome
        self.assertFalse(outcome.duplicate)
        return outcome.state

    def deleted(self, path: str = "a") -> StreamState:
        """Delete what is there."""
        outcome = self.submit(Delete(path))
        assert isinstance(outcome, Deleted), outcome
        return outcome.state

    def look(self, path: str = "a") -> StreamState:
        """The stream at a path, which has one."""
        state = self.result(self.store.get_state(path))
        assert isinstance(state, StreamState), state
        return state

    def read(
        self, offset: int = 0, limit: int = 2**20, path: str = "a", stream_id: int | None = None
    ) -> Chunk:
        """One read, which succeeds."""
        chunk = self.result(self.store.read(path, offset, limit, stream_id))
        assert isinstance(chunk, Chunk), chunk
        self.assertEqual(chunk.state.path, path)
        return chunk

    def chunks(self, limit: int, path: str = "a", start: int = 0) -> list[Chunk]:
        """All of a stream from a position, chunk by chunk; each of them is looked at."""
        found = [self.read(start, limit, path)]
        while not found[-1].at_tail:
            self.assertTrue(found[-1].data, "a read that is not at the tail brings something")
            found.append(self.read(found[-1].end, limit, path))
        return found

    def content(self, path: str = "a", start: int = 0) -> bytes:
        """All stored bytes from a position."""
        return b"".join([chunk.data for chunk in self.chunks(2**20, path, start)])

    def messages(self, path: str = "a", start: int = 0) -> tuple[bytes, ...]:
        """All messages of a stream in JSON mode from a position."""
        return json_mode.split(json_mode.document(self.content(path, start)))

    def assertRefused(self, problem: Problem, outcome: object) -> Refusal:
        """Assert that an outcome is a refusal with a problem; the refusal."""
        assert isinstance(outcome, Refusal), outcome
        self.assertEqual(outcome.problem, problem)
        return outcome

    def assertGone(self, path: str = "a", problem: Problem = Problem.STREAM_NOT_FOUND) -> None:
        """Assert that nothing can be done with a path but creating a stream there."""
        outcomes: list[Any] = [
            self.result(self.store.get_state(path)),
            self.result(self.store.read(path, 0, 100)),
            *self.submit_all(post(b"x", path), post(b"", path, closed=True), Delete(path)),
        ]
        for outcome in outcomes:
            self.assertRefused(problem, outcome)
