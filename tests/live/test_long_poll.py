"""Tests of `durable_streams_tw.live.long_poll`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError

from durable_streams_tw.live.limits import FANOUT_SLICE
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.state import Lifetime, StreamState
from durable_streams_tw.storage.api import Chunk
from tests.live.live_case import TIMEOUT, LiveTestCase


class LongPollTests(LiveTestCase):
    """One long-poll at the tail of a stream that contains ``abc``."""

    def setUp(self) -> None:
        super().setUp()
        self.create(body=b"abc")

    def assertFound(self, found: object, data: bytes, closed: bool = False) -> None:
        """Assert that the long-poll returned bytes from its own position."""
        assert isinstance(found, Chunk), found
        self.assertEqual(found.start, 3)
        self.assertEqual(found.data, data)
        self.assertEqual(found.state.closed, closed)
        self.assertNothingLeft()

    def test_woken_by_an_append(self) -> None:
        waiting = self.wait(self.chunk())
        self.turn()
        self.assertNoResult(waiting)
        self.append(b"def")
        self.turn()
        self.assertFound(self.successResultOf(waiting), b"def")

    def test_the_writer_does_not_wait(self) -> None:
        """A commit wakes readers in the next turn; commits until then are included."""
        waiting = self.wait(self.chunk())
        self.append(b"def")
        self.assertNoResult(waiting)
        self.append(b"ghi")
        self.turn()
        self.assertFound(self.successResultOf(waiting), b"defghi")

    def test_woken_by_a_close(self) -> None:
        """A close without data ends the wait."""
        waiting = self.wait(self.chunk())
        self.close()
        self.turn()
        self.assertFound(self.successResultOf(waiting), b"", closed=True)

    def test_deleted(self) -> None:
        """The result is the refusal that a read gets now."""
        waiting = self.wait(self.chunk())
        self.delete()
        self.turn()
        refusal = self.successResultOf(waiting)
        assert isinstance(refusal, Refusal)
        self.assertIs(refusal.problem, Problem.STREAM_NOT_FOUND)
        self.assertNothingLeft()

    def test_deleted_and_created_again(self) -> None:
        """A later stream at the same path is another stream."""
        waiting = self.wait(self.chunk())
        self.delete()
        self.create(body=b"another")
        self.turn()
        self.assertIsInstance(self.successResultOf(waiting), Refusal)
        self.assertNothingLeft()

    def test_expired(self) -> None:
        """A deadline ends the wait."""
        deadline = int(self.clock.seconds() * 1000) + 10_000
        self.create(path="t", lifetime=Lifetime(expires_at=deadline))
        waiting = self.wait(self.chunk(path="t"))
        self.clock.advance(10)
        self.store.memory.sweep()
        self.turn()
        self.assertIsInstance(self.successResultOf(waiting), Refusal)
        self.assertNothingLeft()

    def test_does_not_expire_while_waiting(self) -> None:
        """A live reader keeps a stream from expiring; the TTL restarts when it leaves."""
        self.create(path="t", lifetime=Lifetime(ttl=5))
        waiting = self.wait(self.chunk(path="t"))
        self.clock.advance(TIMEOUT - 1)
        self.store.memory.sweep()
        self.clock.advance(1)
        self.assertIsInstance(self.successResultOf(waiting), Chunk)
        self.clock.advance(4)
        self.assertIsInstance(self.successResultOf(self.store.get_state("t")), StreamState)

    def test_timeout(self) -> None:
        """The result is an empty chunk at the tail."""
        waiting = self.wait(self.chunk())
        self.clock.advance(TIMEOUT - 0.25)
        self.assertNoResult(waiting)
        self.clock.advance(0.25)
        self.assertFound(self.successResultOf(waiting), b"")

    def test_other_streams_do_not_wake(self) -> None:
        """A commit on another stream causes no read."""
        self.create(path="other")
        waiting = self.wait(self.chunk())
        reads = self.store.reads
        self.append(b"x", path="other")
        self.turn()
        self.assertEqual(self.store.reads, reads)
        self.assertNoResult(waiting)

    def test_wake_up_without_news(self) -> None:
        """A long-poll that reads nothing new after a wake-up keeps waiting."""
        self.store.mute = True
        self.append(b"def")
        waiting = self.wait(self.chunk())
        self.store.tell()
        self.turn()
        self.assertNoResult(waiting)
        self.append(b"ghi")
        self.store.tell()
        self.turn()
        found = self.successResultOf(waiting)
        assert isinstance(found, Chunk)
        self.assertEqual((found.start, found.data), (6, b"ghi"))

    def test_cancelled(self) -> None:
        """Cancelling releases all resources and does not affect other long-polls."""
        waiting, other = self.wait(self.chunk()), self.wait(self.chunk())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.append(b"def")
        self.turn()
        self.assertFound(self.successResultOf(other), b"def")

    def test_cancelled_while_it_reads(self) -> None:
        """The result of a read is dropped after cancellation."""
        self.store.holding = True
        waiting = self.wait(self.chunk())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.store.release()
        self.assertNothingLeft()

    def test_cancelled_by_another_ones_answer(self) -> None:
        """A callback may cancel the long-poll that would be woken next."""
        first, second = self.wait(self.chunk()), self.wait(self.chunk())
        first.addCallback(lambda _: second.cancel())
        self.append(b"def")
        self.turn()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.assertNothingLeft()

    def test_waits_again_in_its_callback(self) -> None:
        """A callback may start the next long-poll."""
        seen: list[bytes] = []

        def again(found: Chunk | Refusal) -> None:
            assert isinstance(found, Chunk)
            seen.append(found.data)
            if found.data:
                self.wait(found).addCallback(again)

        self.wait(self.chunk()).addCallback(again)
        for data in (b"d", b"e", b"f"):
            self.append(data)
            self.turn()
        self.clock.advance(TIMEOUT)
        self.assertEqual(seen, [b"d", b"e", b"f", b""])
        self.assertNothingLeft()

    def test_many_are_woken_in_slices(self) -> None:
        """Other calls run while thousands of long-polls are woken."""
        waiting = [self.wait(self.chunk()) for _ in range(FANOUT_SLICE * 3)]
        answered: list[int] = []
        self.append(b"def")
        self.clock.callLater(0, lambda: answered.append(sum(w.called for w in waiting)))
        self.turn()
        self.assertEqual(answered, [FANOUT_SLICE])
        for one in waiting:
            self.successResultOf(one)
        self.assertNothingLeft()

    def test_one_timer_for_all(self) -> None:
        waiting = [self.wait(self.chunk()) for _ in range(10)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(TIMEOUT)
        for one in waiting:
            self.successResultOf(one)
        self.assertNothingLeft()

    def test_a_refused_read(self) -> None:
        """The result is the store's refusal."""
        waiting = self.wait(self.chunk())
        self.store.broken = Refusal(Problem.CORRUPT_RECORD, "bad bytes")
        self.append(b"def")
        self.turn()
        self.assertEqual(self.successResultOf(waiting), self.store.broken)
        self.assertNothingLeft()

    def test_a_failing_read(self) -> None:
        """A bug of the store fails the wait and releases it."""
        waiting = self.wait(self.chunk())
        self.store.broken = ZeroDivisionError()
        self.append(b"def")
        self.turn()
        self.failureResultOf(waiting, ZeroDivisionError)
        self.assertNothingLeft()

    def test_stop(self) -> None:
        """All long-polls read once more and end; later ones do not wait."""
        waiting = self.wait(self.chunk())
        stopped = self.polls.stop()
        self.assertFound(self.successResultOf(waiting), b"")
        self.successResultOf(stopped)
        self.assertFound(self.successResultOf(self.wait(self.chunk())), b"")

    def test_stop_waits_for_reads(self) -> None:
        """A read that was pending at the stop is repeated, because it may be too old."""
        self.store.holding = True
        waiting = self.wait(self.chunk())
        stopped = self.polls.stop()
        self.append(b"def")
        self.store.release()
        self.assertNoResult(waiting)
        self.assertNoResult(stopped)
        self.store.release()
        self.assertFound(self.successResultOf(waiting), b"def")
        self.successResultOf(stopped)

    def test_stop_without_waiters(self) -> None:
        self.successResultOf(self.polls.stop())


class RaceTests(LiveTestCase):
    """An append, a close or both at moments at which a long-poll could miss them."""

    def setUp(self) -> None:
        super().setUp()
        self.create(body=b"abc")

    def race(self, strike: Callable[[Callable[[], object]], Chunk | Refusal]) -> None:
        """Apply each change at a given moment, each on a new stream."""
        changes: list[tuple[Callable[[], object], bytes, bool]] = [
            (lambda: self.append(b"def"), b"def", False),
            (lambda: self.append(b"def", closed=True), b"def", True),
            (self.close, b"", True),
        ]
        for change, data, closed in changes:
            self.delete()
            self.create(body=b"abc")
            found = strike(change)
            assert isinstance(found, Chunk), found
            self.assertEqual((found.start, found.data, found.state.closed), (3, data, closed))
            self.assertNothingLeft()

    def test_between_look_and_registration(self) -> None:
        """The read after the registration finds the change."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            chunk = self.chunk()
            change()
            return self.successResultOf(self.wait(chunk))

        self.race(strike)

    def test_while_the_second_look_is_under_way(self) -> None:
        """The pending read missed the change, and its result arrives after the wake-up."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            self.store.holding = True
            waiting = self.wait(self.chunk())
            change()
            self.turn()
            self.store.release()
            self.store.holding = False
            self.store.release()
            return self.successResultOf(waiting)

        self.race(strike)

    def test_just_before_the_timeout(self) -> None:
        """The timeout fires before the turn of the wake-up."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            self.clock.callLater(TIMEOUT, change)
            waiting = self.wait(self.chunk())
            self.clock.advance(TIMEOUT)
            return self.successResultOf(waiting)

        self.race(strike)

    def test_while_the_last_look_is_under_way(self) -> None:
        """The read of the timeout missed the change, but a wake-up arrived before its result."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            waiting = self.wait(self.chunk())
            self.store.holding = True
            self.clock.advance(TIMEOUT)
            change()
            self.turn()
            self.store.release()
            self.assertNoResult(waiting)
            self.store.holding = False
            self.store.release()
            return self.successResultOf(waiting)

        self.race(strike)

    def test_within_the_last_look(self) -> None:
        """Too late for this result; the next long-poll returns the change at once."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            waiting = self.wait(self.chunk())
            self.store.hooks.append(change)
            self.clock.advance(TIMEOUT)
            nothing = self.successResultOf(waiting)
            assert isinstance(nothing, Chunk)
            self.assertEqual((nothing.end, nothing.data, nothing.state.closed), (3, b"", False))
            return self.successResultOf(self.wait(nothing))

        self.race(strike)

    def test_timeout_while_a_look_is_under_way(self) -> None:
        """A read that began before the timeout is repeated."""

        def strike(change: Callable[[], object]) -> Chunk | Refusal:
            self.store.holding = self.store.mute = True
            waiting = self.wait(self.chunk())
            change()
            self.clock.advance(TIMEOUT)
            self.store.release()
            self.assertNoResult(waiting)
            self.store.holding = self.store.mute = False
            self.store.release()
            self.store.tell()
            return self.successResultOf(waiting)

        self.race(strike)
