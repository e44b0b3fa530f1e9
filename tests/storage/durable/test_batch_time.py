"""Tests of the time bounds on batches and sweeps."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.commands.streams import apply as carry_out
from durable_streams_tw.storage.commands.transaction import Transaction
from durable_streams_tw.storage.durable import committer as committing
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.limits import BATCH_TIME, RECORD_PAYLOAD
from tests.storage.command_builders import append, create, delete
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.engine.fake_engine import Fault
from tests.storage.store_case import post, put

_COST = BATCH_TIME / 4
"""Time that each measured step takes by the fake clock: three steps fit into a batch."""


class BatchTimeTests(CommitterCase):
    """Batches on a clock that advances with each call."""

    def setUp(self) -> None:
        super().setUp()
        self.tick = _COST

    def test_remaining_commands_wait(self) -> None:
        """Commands beyond the time bound stay queued, and run on the result of the first ones."""
        commands: list[Command] = [
            create("a"),
            *[append("a", b"%d" % number) for number in range(9)],
        ]
        sizes: list[int] = []
        while commands:
            outcomes = self.step(*commands)
            self.assertEqual(set(self.problems(outcomes)), {""})
            sizes.append(len(outcomes))
            commands = commands[len(outcomes) :]
        self.assertEqual(sum(sizes), 10)
        self.assertEqual(set(sizes[:-1]), {4})
        self.assertEqual(self.content("a"), b"012345678")

    def test_one_at_least(self) -> None:
        self.tick = 2 * BATCH_TIME
        self.assertEqual(len(self.step(create("a"), create("b"))), 1)
        self.assertIsNotNone(self.state("a"))
        self.assertIsNone(self.state("b"))

    def test_restarted_batch(self) -> None:
        """A batch that restarts after an exception does not get its time again."""
        self.step(create("a"))
        decided = 0

        def apply(transaction: Transaction, command: Command, now: int) -> Outcome | None:
            nonlocal decided
            decided += 1
            outcome = carry_out(transaction, command, now)
            if command == append("a", b"?"):
                raise ZeroDivisionError
            return outcome

        self.patch(committing, "apply", apply)
        outcomes = self.step(append("a", b"0"), append("a", b"1"), *[append("a", b"?")] * 100)
        self.assertEqual(self.problems(outcomes)[:3], ["", "", "internal"])
        self.assertLess(decided, 20)
        self.assertEqual(self.content("a"), b"01")
        self.flushLoggedErrors(ZeroDivisionError)

    def test_split_batch(self) -> None:
        """Parts of a batch that does not fit share its time."""
        (made,) = self.step(create("a"))
        self.assertIsInstance(made, Created)
        self.engine.room = False
        outcomes = self.step(*[append("a", b"x") for _ in range(100)])
        self.assertEqual(set(self.problems(outcomes)), {"storage-full"})
        self.assertLess(len(outcomes), 10)


class SweepTimeTests(CommitterCase):
    """Sweeps on a clock that advances with each call."""

    def everything_is_gone(self) -> None:
        self.assertEqual(set(self.engine.content), {codec.META_KEY, codec.NEXT_ID_KEY})

    def test_streams_that_expire_together(self) -> None:
        self.step(*[create(f"s{number}", b"x", ttl=1) for number in range(100)])
        self.now += 1_000
        self.tick = _COST
        committed = self.committer.sweep()
        assert committed is not None
        self.assertTrue(committed.more)
        self.assertLess(len(committed.changes), 10)
        self.sweep()
        self.everything_is_gone()

    def test_a_large_stream(self) -> None:
        self.step(create("a"), append("a", bytes(100 * RECORD_PAYLOAD)))
        self.step(delete("a"))
        self.tick = _COST
        self.assertGreater(self.sweep(), 10)
        self.everything_is_gone()

    def test_new_work_during_a_sweep(self) -> None:
        """A sweep does not return to keys before its position; the next one does."""
        self.step(*[create(f"s{number}", b"x", expires_at=self.now + 9) for number in range(10)])
        self.now += 9
        self.tick = _COST
        committed = self.committer.sweep()
        assert committed is not None and committed.more
        self.tick = 0.0
        self.step(create("early", b"x", expires_at=self.now - 1))
        self.sweep()
        self.sweep()
        self.everything_is_gone()

    def test_failed_step(self) -> None:
        """Work of a failed step is found again."""
        self.step(create("a"), append("a", bytes(20 * RECORD_PAYLOAD)))
        self.step(delete("a"))
        self.tick = _COST
        self.committer.sweep()
        self.engine.plan = fail_commit
        committed = self.committer.sweep()
        assert committed is not None and committed.failed
        self.engine.clear_plan()
        self.sweep()
        self.everything_is_gone()


def fail_commit(call: str) -> Fault | None:
    """Fail every commit without effect."""
    return Fault(EngineFailed) if call == "commit" else None


class StoreTests(DurableStoreCase, SynchronousTestCase):
    """The whole store: commands beyond the time bound stay at the head of the queue."""

    store: DurableStore

    def test_in_order(self) -> None:
        self.submit(put())
        now = 0.0

        def clock() -> float:
            nonlocal now
            now += _COST
            return now

        self.patch(self.store._committer, "_clock", clock)
        self.announced.clear()
        self.submit_all(*[post(b"%d" % number) for number in range(10)])
        self.assertEqual(self.content(), b"0123456789")
        self.assertEqual([len(changes) for changes in self.announced], [4, 4, 2])
