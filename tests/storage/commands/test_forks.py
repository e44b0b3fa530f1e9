"""Tests of forks with a sub-offset, whose messages are counted outside of the committer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import forks
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.offsets import START
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import IStreamStore, Outcome
from durable_streams_tw.storage.commands import forks as commands_forks
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import JSON, StoreCase, post, put

_LARGE = b'"' + b"x" * 50_000 + b'"'
_MESSAGES = [b"%d" % number for number in range(3_000)] + [_LARGE, b"[1,2]", _LARGE, b"{}"]


def fork(path: str, sub_offset: int, source: str = "a") -> Create:
    """Return a PUT that forks a stream at a number of messages from its start."""
    return Create(path, None, NO_EXPIRY, False, Body(b""), ForkRequest(source, START, sub_offset))


class _DelayedTurns(Clock):
    """Clock whose calls for the next turn wait for a second."""

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> IDelayedCall:
        return super().callLater(delay or 1, callable, *args, **kw)


class CountingSuite(StoreCase):
    """Tests for every store. The source is larger than what a transaction examines."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "FORK_COUNT_STEP", 10_000)
        self.submit(put(content_type=JSON))
        for start in range(0, len(_MESSAGES), 500):
            body = b"[" + b",".join(_MESSAGES[start : start + 500]) + b"]"
            self.submit(post(body, content_type=JSON))

    def assertForked(self, outcome: Outcome, messages: int) -> None:
        assert isinstance(outcome, Created), outcome
        expected = sum(len(message) + 1 for message in _MESSAGES[:messages])
        self.assertEqual(outcome.state.tail, expected)

    def test_message_boundaries(self) -> None:
        """A fork point may be after any message, also one larger than a record."""
        for messages in (1, 499, 500, 501, 2_999, 3_000, 3_001, 3_002, 3_003, len(_MESSAGES)):
            with self.subTest(messages):
                self.assertForked(self.submit(fork(f"f{messages}", messages)), messages)
        self.assertForked(self.submit(fork("of a fork", 3_001, "f3002")), 3_001)

    def test_beyond_the_end(self) -> None:
        for source, last in (("a", len(_MESSAGES)), ("f", 2_500)):
            outcome = self.submit(fork("g", last + 1, source))
            self.assertRefused(Problem.INVALID_FORK, outcome)
            self.submit(fork("f", 2_500))

    def test_existing_fork(self) -> None:
        """A PUT for an existing fork counts nothing."""
        self.submit(fork("f", 2_500))
        self.patch(commands_forks, "_count", None)
        outcome = self.submit(fork("f", 2_500))
        assert isinstance(outcome, Created)
        self.assertFalse(outcome.fresh)
        self.assertRefused(Problem.STREAM_EXISTS, self.submit(fork("f", 2_501)))

    def test_no_source(self) -> None:
        self.assertRefused(Problem.STREAM_NOT_FOUND, self.submit(fork("f", 1, "missing")))
        self.submit_all(fork("f", 0), Delete("a"))
        self.assertRefused(Problem.SOURCE_GONE, self.submit(fork("g", 2_500)))


class MemoryCountingTests(CountingSuite, SynchronousTestCase):
    """Memory store with and without a clock."""

    def make_store(self) -> IStreamStore:
        return MemoryStore(lambda: self.now)

    def test_other_requests_run_between(self) -> None:
        """On the reactor's thread one step runs per turn, so other requests run between."""
        clock = _DelayedTurns()
        self.store = MemoryStore(lambda: self.now, clock)
        self.submit(put(content_type=JSON))
        self.submit(post(b"[" + b",".join(_MESSAGES) + b"]", content_type=JSON))
        forked = self.store.submit(fork("f", 3_003))
        turns = 0
        while not forked.called:
            self.submit(post(b"1", content_type=JSON))
            clock.advance(1)
            turns += 1
        self.assertGreater(turns, 1)
        self.assertForked(self.result(forked), 3_003)


class LMDBCountingTests(CountingSuite, DurableStoreCase, SynchronousTestCase):
    """Durable store, on reader threads."""

    store: DurableStore

    def test_writers_run_between(self) -> None:
        """The committer gets a fork only after its messages are counted."""
        forked = [self.store.submit(fork(f"f{number}", 3_003)) for number in range(20)]
        self.executor.turn()
        self.appended(post(b"1", content_type=JSON))
        self.assertEqual([made.called for made in forked], [False] * 20)
        self.assertEqual(len(self.executor._reads), 1, "and reads find a thread")
        for made in forked:
            self.assertForked(self.result(made), 3_003)

    def test_replaced_source(self) -> None:
        """If the source is deleted and created again during the count, the result is discarded."""
        forked = self.store.submit(fork("f", 3_003))
        while self.executor._reads:
            self.executor.turn()
        # The fork waits for the committer, which is given this first.
        jobs = list(self.executor._jobs)
        self.executor._jobs.clear()
        body = b"[" + b",".join(_MESSAGES[:3_002]) + b"]"
        self.submit_all(Delete("a"), put(content_type=JSON), post(body, content_type=JSON))
        self.executor._jobs.extend(jobs)
        self.assertRefused(Problem.OVERLOADED, self.result(forked))
        self.assertRefused(Problem.STREAM_NOT_FOUND, self.result(self.store.get_state("f")))

    def test_closed_meanwhile(self) -> None:
        forked = [self.store.submit(fork(f"f{number}", 3_003)) for number in range(3)]
        self.executor.turn()
        self.result(self.store.close())
        for made in forked:
            self.assertRefused(Problem.STOPPING, self.result(made))
        self.assertEqual((self.store._queued, self.store._queued_bytes), (0, 0))
        self.store = self.open_store()

    def test_too_many(self) -> None:
        self.patch(limits, "MAX_COUNTED_FORKS", 2)
        forked = [self.store.submit(fork(f"f{number}", 2_000)) for number in range(4)]
        self.assertRefused(Problem.OVERLOADED, self.result(forked[3]))
        for made in forked[:3]:
            self.assertForked(self.result(made), 2_000)

    def test_failures(self) -> None:
        """Unreadable records and exceptions fail only their own fork."""
        for error, problem in (
            (CorruptRecord(b"d", "broken by the test"), Problem.CORRUPT_RECORD),
            (ZeroDivisionError(), Problem.INTERNAL),
        ):

            def count(*_: Any, error: Exception = error) -> None:
                raise error

            patched = self.patch(commands_forks, "_count", count)
            self.assertRefused(problem, self.submit(fork("f", 2_000)))
            patched.restore()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertForked(self.submit(fork("f", 2_000)), 2_000)


class ForkCounterTests(SynchronousTestCase):
    """Order of waiting counts."""

    def test_take_turns(self) -> None:
        """A count of many steps does not delay one of few steps."""
        steps = {"long": 5, "short": 2}
        running: list[tuple[str, Deferred[Any]]] = []
        ended: list[str] = []

        def run(command: Create, counting: Any) -> Deferred[Any]:
            done: Deferred[Any] = Deferred()
            running.append((command.path, done))
            return done

        def told(outcome: Create | Refusal) -> None:
            assert isinstance(outcome, Create)
            ended.append(outcome.path)

        counter = commands_forks.ForkCounter(run)
        counting = commands_forks.Counting(1, 0, forks.RemainingMessages(0, 1))
        for path in steps:
            counter.count(fork(path, 9), told)
        while running:
            self.assertEqual(len(running), 1)
            path, done = running.pop()
            steps[path] -= 1
            done.callback(counting if steps[path] else fork(path, 9))
        self.assertEqual(ended, ["short", "long"])
