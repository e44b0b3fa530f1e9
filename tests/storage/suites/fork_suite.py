"""Suite: random trees of forks, compared with a model that copies bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime
from durable_streams_tw.storage.api import Chunk, IStreamStore
from tests.storage.store_case import StoreCase

JSON = "application/json"


@dataclass
class Copy:
    """Stream of the model: all its bytes, inherited ones included, and its forks."""

    content: bytes
    source: Copy | None = None
    expires_at: int | None = None
    deleted: bool = False
    forks: set[int] = field(default_factory=set)


class Model:
    """Streams by path. A fork copies bytes."""

    def __init__(self) -> None:
        self.streams: dict[str, Copy] = {}

    def state_of(self, path: str, now: int) -> str:
        """Return whether a path has no stream, a stream, or a deleted one that its forks need."""
        self.expire(now)
        stream = self.streams.get(path)
        if stream is None:
            return "absent"
        return "held" if stream.deleted else "alive"

    def end(self, path: str) -> None:
        """Delete, or expire, a stream."""
        stream = self.streams[path]
        stream.deleted = True
        self._collect(path, stream)

    def expire(self, now: int) -> None:
        """Expire all streams that are due."""
        for path, stream in list(self.streams.items()):
            if not stream.deleted and stream.expires_at is not None and now >= stream.expires_at:
                self.end(path)

    def fork(self, path: str, source: Copy, size: int, expires_at: int | None) -> None:
        """Return a copy of the first ``size`` bytes."""
        stream = self.streams[path] = Copy(source.content[:size], source, expires_at)
        source.forks.add(id(stream))

    def _collect(self, path: str, stream: Copy) -> None:
        while stream.deleted and not stream.forks:
            del self.streams[path]
            source = stream.source
            if source is None:
                return
            source.forks.discard(id(stream))
            above = [name for name, other in self.streams.items() if other is source]
            if not above:
                return
            path, stream = above[0], source


PATHS = ["a", "b", "c", "d", "e"]
MESSAGES = [b"1", b'"x,y"', b'{"k":[1,{"l":","}]}', b'"' + b"z" * 3000 + b'"', b"[[],{}]"]

paths = st.sampled_from(PATHS)
steps = st.one_of(
    st.tuples(st.just("create"), paths, st.booleans()),
    st.tuples(
        st.just("append"), paths, st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=9)
    ),
    st.tuples(st.just("fork"), paths, paths, st.integers(0, 12), st.sampled_from([None, 5, 500])),
    st.tuples(st.just("delete"), paths),
    st.tuples(st.just("wait"), st.sampled_from([1, 10, 100])),
    st.tuples(st.just("reopen")),
)


class ForkSuite:
    """Random trees of forks. A test of a store defines how to create, run and inspect one."""

    now: int

    def make_fork_store(self) -> IStreamStore:
        """Return a new store whose clock is ``self.now`` (ms)."""
        raise NotImplementedError

    def reopen_fork_store(self, store: IStreamStore) -> IStreamStore:
        """Return the store after a restart if it supports one."""
        raise NotImplementedError

    def sweep_fork_store(self, store: IStreamStore) -> None:
        """Expire streams and free what is no longer needed."""
        raise NotImplementedError

    def finish_fork_store(self, store: IStreamStore, streams: int) -> None:
        """Check that exactly ``streams`` streams are stored (deleted ones included), then close."""
        raise NotImplementedError

    def now_of(self, deferred: Deferred[Any]) -> Any:
        """Return the result of a Deferred, running the store's executor if needed."""
        raise NotImplementedError

    @given(st.booleans(), st.lists(steps, max_size=40))
    @settings(max_examples=60)
    def test_random_trees(self, json: bool, script: list[tuple[Any, ...]]) -> None:
        self.now = 1_000_000
        run = _Run(self, json)
        for step in script:
            note(repr(step))
            getattr(run, step[0])(*step[1:])
        run.compare()
        run.end_all()
        self.finish_fork_store(run.store, len(run.model.streams))


class _Run:
    """One sequence of steps on a store and on the model."""

    def __init__(self, suite: ForkSuite, json: bool) -> None:
        self.suite = suite
        self.json = json
        self.type = JSON if json else "application/octet-stream"
        self.model = Model()
        self.store = suite.make_fork_store()

    def submit(self, command: Create | Append | Delete) -> Any:
        return self.suite.now_of(self.store.submit(command))

    def create(self, path: str, expiring: bool) -> None:
        before = self.model.state_of(path, self.suite.now)
        expires_at = self.suite.now + 50 if expiring else None
        lifetime = Lifetime(expires_at=expires_at) if expiring else NO_EXPIRY
        outcome = self.submit(Create(path, self.type, lifetime, False, bodies.EMPTY))
        if before == "absent":
            assert isinstance(outcome, Created) and outcome.fresh, outcome
            self.model.streams[path] = Copy(b"", expires_at=expires_at)
        elif before == "held":
            assert isinstance(outcome, Refusal) and outcome.problem.status == 409, outcome

    def append(self, path: str, messages: list[bytes]) -> None:
        before = self.model.state_of(path, self.suite.now)
        raw = b"[" + b",".join(messages) + b"]" if self.json else b"".join(messages)
        outcome = self.submit(Append(path, self.type, bodies.appended(self.type, raw)))
        if before == "alive":
            assert isinstance(outcome, Appended), outcome
            stream = self.model.streams[path]
            stream.content += b"".join([m + b"," for m in messages]) if self.json else raw
            assert outcome.state.tail == len(stream.content)
        else:
            self.refused(outcome, before)

    def fork(self, path: str, of: str, sub_offset: int, ttl: int | None) -> None:
        there, before = (self.model.state_of(name, self.suite.now) for name in (path, of))
        expires_at = None if ttl is None else self.suite.now + ttl
        lifetime = NO_EXPIRY if ttl is None else Lifetime(expires_at=expires_at)
        request = ForkRequest(of, 0, sub_offset)
        command = Create(path, None, lifetime, False, bodies.EMPTY, request)
        outcome = self.submit(command)
        if there != "absent":
            assert not (isinstance(outcome, Created) and outcome.fresh), outcome
        elif before != "alive":
            assert isinstance(outcome, Refusal), outcome
            assert outcome.problem.status == (404 if before == "absent" else 409), outcome
        else:
            source = self.model.streams[of]
            size = self.prefix(source.content, sub_offset)
            if size is None:
                assert isinstance(outcome, Refusal) and outcome.problem.status == 400, outcome
                return
            assert isinstance(outcome, Created) and outcome.fresh, outcome
            assert outcome.state.tail == size
            inherited = source.expires_at if ttl is None else expires_at
            self.model.fork(path, source, size, inherited)

    def prefix(self, content: bytes, sub_offset: int) -> int | None:
        """Return the length of the first messages, or bytes; None if there are fewer."""
        if not self.json:
            return sub_offset if sub_offset <= len(content) else None
        size = 0
        for _ in range(sub_offset):
            following = [m + b"," for m in MESSAGES if content[size:].startswith(m + b",")]
            if not following:
                return None
            size += len(following[0])
        return size

    def delete(self, path: str) -> None:
        before = self.model.state_of(path, self.suite.now)
        outcome = self.submit(Delete(path))
        if before == "alive":
            assert isinstance(outcome, Deleted), outcome
            self.model.end(path)
        else:
            self.refused(outcome, before)

    def wait(self, milliseconds: int) -> None:
        self.suite.now += milliseconds
        # Until its last fork is swept, a deleted source may keep its path (§4.2).
        self.suite.sweep_fork_store(self.store)

    def reopen(self) -> None:
        self.compare()
        self.store = self.suite.reopen_fork_store(self.store)
        self.compare()

    def refused(self, outcome: object, before: str) -> None:
        assert isinstance(outcome, Refusal), outcome
        assert outcome.problem.status == (404 if before == "absent" else 410), outcome

    def compare(self) -> None:
        for path in PATHS:
            before = self.model.state_of(path, self.suite.now)
            if before != "alive":
                self.refused(self.suite.now_of(self.store.read(path, 0, 100)), before)
                continue
            content = b""
            while True:
                chunk = self.suite.now_of(self.store.read(path, len(content), 700))
                assert isinstance(chunk, Chunk), chunk
                content += chunk.data
                if chunk.at_tail:
                    break
            assert content == self.model.streams[path].content, path

    def end_all(self) -> None:
        for path in PATHS:
            if self.model.state_of(path, self.suite.now) == "alive":
                self.delete(path)
        self.model.expire(self.suite.now)
        assert not self.model.streams, "deleted sources remain after their last fork"


class StoreCaseForkSuite(ForkSuite, StoreCase):
    """Random trees of forks with the stores of a `StoreCase`, which follows it as a base class."""

    def setUp(self) -> None:
        """Do nothing: the suite creates its stores."""

    def make_fork_store(self) -> IStreamStore:
        return self.make_store()

    def reopen_fork_store(self, store: IStreamStore) -> IStreamStore:
        return self.reopen(store)

    def sweep_fork_store(self, store: IStreamStore) -> None:
        self.sweep(store)

    def now_of(self, deferred: Deferred[Any]) -> Any:
        return self.result(deferred)
