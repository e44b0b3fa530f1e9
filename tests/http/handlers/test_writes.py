"""Tests of `durable_streams_tw.http.handlers.writes`: order of writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.writes import WriteHandler
from durable_streams_tw.http.limits import INLINE_BODY
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk, Command, Outcome
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.http.server_fixture import FakeThreads

JSON = {b"content-type": b"application/json"}


class DelayedStates(MemoryStore):
    """Store whose `get_state` results the test delays."""

    def __init__(self) -> None:
        super().__init__(lambda: 0)
        self.states: list[tuple[str, Deferred[StreamState | Refusal]]] = []

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Wait for the test."""
        found: Deferred[StreamState | Refusal] = Deferred()
        self.states.append((path, found))
        return found

    def release(self) -> None:
        """Return the waiting results."""
        looks, self.states = self.states, []
        for path, found in looks:
            super().get_state(path).chainDeferred(found)


class OrderTests(SynchronousTestCase):
    """Writes to a stream are carried out in the order of the calls."""

    def setUp(self) -> None:
        self.store = DelayedStates()
        self.threads = FakeThreads()
        self.writing = WriteHandler(self.store, lambda: 0, self.threads)
        for path in ("a", "b"):
            self.successResultOf(self.writing.create(path, JSON, b"", b"/"))

    def content(self, path: str) -> bytes:
        """Return the bytes of a stream."""
        chunk = self.successResultOf(self.store.read(path, 0, 1_000_000_000))
        assert isinstance(chunk, Chunk)
        return chunk.data

    def test_queue_behind_a_read(self) -> None:
        """A thousand appends queue after one that waits for a state."""
        outcomes = [self.writing.append_untyped("a", {}, b"0")]
        outcomes += [self.writing.append("a", JSON, b"%d" % n) for n in range(1, 2000)]
        other = self.writing.append("b", JSON, b"1")
        self.assertIsInstance(self.successResultOf(other), Appended)
        self.assertNoResult(outcomes[-1])
        self.store.release()
        for outcome in outcomes:
            self.assertIsInstance(self.successResultOf(outcome), Appended)
        self.assertEqual(self.content("a"), b"".join(b"%d," % n for n in range(2000)))
        self.assertEqual(self.writing._queues, {})

    def test_many_reads(self) -> None:
        """Appends that each wait for a state run one after another, without recursion."""
        outcomes = [self.writing.append_untyped("a", {}, b"%d" % n) for n in range(2000)]
        for _ in range(2000):
            self.assertEqual(len(self.store.states), 1)
            self.store.release()
        for outcome in outcomes:
            self.assertIsInstance(self.successResultOf(outcome), Appended)
        self.assertEqual(self.content("a"), b"".join(b"%d," % n for n in range(2000)))

    def test_deletion_waits_too(self) -> None:
        """A deletion waits for earlier appends."""
        appended = self.writing.append_untyped("a", {}, b"0")
        deleted = self.writing.delete("a", {})
        created = self.writing.create("a", {b"content-type": b"text/plain"}, b"new", b"/")
        self.store.release()
        for outcome in (appended, deleted, created):
            self.successResultOf(outcome)
        self.assertEqual(self.content("a"), b"new")

    def test_failed_read(self) -> None:
        """A failing `get_state` fails only its own append."""
        lost = self.writing.append_untyped("missing", {}, b"0")
        created = self.writing.create("missing", JSON, b"1", b"/")
        self.store.release()
        refused = self.failureResultOf(lost, Refused).value
        self.assertEqual(refused.refusal.problem, Problem.STREAM_NOT_FOUND)
        self.successResultOf(created)
        self.assertEqual(self.content("missing"), b"1,")

    def test_cancelled(self) -> None:
        """Cancelling does not undo a write."""
        outcome = self.writing.append_untyped("a", {}, b"0")
        outcome.addErrback(lambda _: None)
        outcome.cancel()
        self.store.release()
        self.assertEqual(self.content("a"), b"0,")

    def test_bug(self) -> None:
        """A queued write fails if the store raises an error; the next one is carried out."""
        failing = self.writing.append_untyped("a", {}, b"0")
        later = self.writing.append("a", JSON, b"1")
        submit = self.store.submit

        def raise_once(command: Command) -> Deferred[Outcome]:
            self.store.submit = submit  # type: ignore[method-assign]
            raise ZeroDivisionError

        self.store.submit = raise_once  # type: ignore[method-assign]
        self.store.release()
        self.failureResultOf(failing, ZeroDivisionError)
        self.assertIsInstance(self.successResultOf(later), Appended)
        self.assertEqual(self.content("a"), b"1,")

    @given(st.lists(st.sampled_from(["small", "large", "look"]), max_size=12), st.randoms())
    def test_any_mix(self, kinds: list[str], luck: object) -> None:
        """The order holds for any mix of writes and delays."""
        self.setUp()
        outcomes: list[Deferred[Outcome]] = []
        expected = b""
        for number, kind in enumerate(kinds):
            raw = b"%d" % number
            if kind == "large":
                raw = b'"' + raw + b"x" * INLINE_BODY + b'"'
            expected += raw + b","
            if kind == "look":
                outcomes.append(self.writing.append_untyped("a", {}, raw))
            else:
                outcomes.append(self.writing.append("a", JSON, raw))
            if luck.random() < 0.3:  # type: ignore[attr-defined]
                self.store.release()
                self.threads.run()
        while self.store.states or self.threads.waiting:
            self.store.release()
            self.threads.run()
        for outcome in outcomes:
            self.assertIsInstance(self.successResultOf(outcome), Appended)
        self.assertEqual(self.content("a"), expected)
        self.assertEqual(self.writing._queues, {})
