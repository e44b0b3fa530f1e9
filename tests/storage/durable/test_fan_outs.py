"""Tests of appends to streams with more subscriptions than one step updates."""

from __future__ import annotations

from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.subscriptions.commands import Claim, Unsubscribe
from durable_streams_tw.protocol.subscriptions.outcomes import Claimed, Unsubscribed
from durable_streams_tw.protocol.subscriptions.state import Cursor, Kind, Subscription
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.commands import pending
from durable_streams_tw.storage.engine.kv import EngineFull
from durable_streams_tw.storage.engine.tables import CURSORS, FAN_OUTS, SUBSCRIPTIONS, scan
from durable_streams_tw.storage.limits import FAN_OUT_WRITE
from tests.storage.command_builders import JSON, append, create, delete
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.engine.fake_engine import Fault, nth
from tests.storage.store_case import post, put
from tests.storage.suites.subscription_suite import subscribe

_COUNT = 40
_STEP = 8 * FAN_OUT_WRITE


class FanOutTests(CommitterCase):
    """A stream with many subscriptions; each batch has time for one step of a fan-out."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "FAN_OUT_STEP", _STEP)
        self.tick = 1.0
        self.step(create("wake", content_type=JSON))
        for number in range(_COUNT):
            self.carry_out(subscribe(f"s{number:02}", pattern="a/*", wake_stream=None))
        self.carry_out(create("a/1"))
        self.carry_out(create("b"))

    def carry_out(self, command: Command) -> Outcome:
        """Carry out a command in as many steps as it needs."""
        for _ in range(4 * _COUNT):
            outcomes = self.step(command)
            if outcomes:
                return outcomes[0]
        raise AssertionError(f"{command} was never carried out")

    def cursors(self) -> list[Cursor]:
        with self.engine.snapshot() as view:
            return [cursor for _, cursor in scan(view, CURSORS, b"", None)]

    def awake(self) -> list[Subscription]:
        with self.engine.snapshot() as view:
            found = [state for _, state in scan(view, SUBSCRIPTIONS, b"", None)]
        return [state for state in found if not state.idle]

    def fan_outs(self) -> int:
        with self.engine.snapshot() as view:
            return len(list(scan(view, FAN_OUTS, b"", None)))

    def test_append(self) -> None:
        """One step commits the append; the sweep wakes the other subscriptions."""
        self.carry_out(append("a/1", b"x"))
        self.assertEqual((len(self.awake()), len(self.cursors()), self.fan_outs()), (8, 8, 1))
        self.assertGreater(self.sweep(), 2)
        self.assertEqual((len(self.awake()), self.fan_outs()), (_COUNT, 0))
        self.assertEqual(self.cursors(), [Cursor("a/1", 0)] * _COUNT)

    def test_each_step_is_bounded(self) -> None:
        self.carry_out(append("a/1", b"x"))
        awake = len(self.awake())
        while self.fan_outs():
            committed = self.committer.sweep()
            assert committed is not None
            self.assertLessEqual(len(self.awake()) - awake, 8)
            awake = len(self.awake())
        self.assertEqual(awake, _COUNT)

    def test_crash(self) -> None:
        """The rest of a fan-out is stored with the append, and survives a crash."""
        self.carry_out(append("a/1", b"x"))
        self.restart()
        self.committer.sweep()
        self.restart()
        self.sweep()
        self.assertEqual(len(self.awake()), _COUNT)
        self.assertEqual(self.cursors(), [Cursor("a/1", 0)] * _COUNT)

    def test_the_same_stream_waits(self) -> None:
        """A later append waits, since it is not the first one of a subscription that is not updated
        yet.
        """
        self.carry_out(append("a/1", b"x"))
        committed = self.committer.step([append("a/1", b"y"), append("b", b"z")])
        self.assertEqual((list(committed.waiting), len(committed.outcomes)), ([0], 1))
        self.assertEqual((self.content("a/1"), self.content("b")), (b"x", b"z"))
        self.carry_out(append("a/1", b"y"))
        self.sweep()
        self.assertEqual(self.content("a/1"), b"xy")
        self.assertEqual(self.cursors(), [Cursor("a/1", 0)] * _COUNT)

    def test_subscriptions_wait(self) -> None:
        self.carry_out(append("a/1", b"x"))
        self.assertEqual(self.step(Claim("s39", "w")), [])
        self.assertIsInstance(self.carry_out(Unsubscribe("s39")), Unsubscribed)
        self.assertEqual(self.fan_outs(), 0)
        self.assertEqual(len(self.awake()), _COUNT - 1)

    def test_no_further_fan_out_overtakes_a_subscription(self) -> None:
        self.patch(pending, "_ONE_STEP", 8)
        self.carry_out(create("a/2"))
        self.carry_out(append("a/1", b"x"))
        waits = Unsubscribe("s39")
        committed = self.committer.step([waits, append("a/2", b"y"), append("b", b"z")])
        self.assertEqual(list(committed.waiting), [0, 1])

    def test_deletion(self) -> None:
        self.carry_out(append("a/1", b"x"))
        self.sweep()
        self.carry_out(delete("a/1"))
        self.assertEqual(self.fan_outs(), 1)
        self.assertGreater(len(self.cursors()), 30)
        self.restart()
        # The new stream must not inherit cursors of the old one.
        self.carry_out(create("a/1", b"new"))
        self.sweep()
        self.assertEqual(self.cursors(), [Cursor("a/1", 0)] * _COUNT)
        self.carry_out(delete("a/1"))
        self.sweep()
        self.assertEqual((self.cursors(), self.awake(), self.fan_outs()), ([], [], 0))

    def test_creation_over_an_expired_stream(self) -> None:
        self.carry_out(create("a/2", b"old", ttl=1))
        self.sweep()
        self.now += 1_000
        self.assertEqual(self.step(create("a/2", b"newer")), [])
        self.carry_out(create("a/2", b"newer"))
        self.sweep()
        self.assertEqual(self.content("a/2"), b"newer")
        self.assertEqual(self.cursors(), [Cursor("a/2", 0)] * _COUNT)

    def test_expiry_waits(self) -> None:
        self.carry_out(create("a/2", b"x", ttl=1))
        self.now += 1_000
        self.sweep()
        self.sweep()
        self.assertEqual((self.cursors(), self.awake(), self.fan_outs()), ([], [], 0))
        self.assertIsNone(self.state("a/2"))

    def test_stream_becomes_a_wake_stream(self) -> None:
        self.carry_out(append("a/1", b"x"))
        self.sweep()
        self.carry_out(subscribe("p", "b", wake_stream="a/1"))
        self.assertEqual(self.fan_outs(), 1)
        self.restart()
        self.sweep()
        self.assertEqual((self.cursors(), self.awake()), ([], []))

    def test_wake_stream_is_created(self) -> None:
        for number in range(_COUNT):
            self.carry_out(subscribe(f"p{number:02}", "b", wake_stream="late"))
        self.carry_out(append("b", b"x"))
        self.sweep()
        self.carry_out(create("late", content_type=JSON))
        self.assertEqual(self.fan_outs(), 1)
        self.restart()
        self.sweep()
        self.assertEqual(self.content("late").count(b"subscription_id"), _COUNT)
        self.assertEqual(len([s for s in self.awake() if s.config.kind is Kind.PULL]), _COUNT)
        self.assertIsInstance(self.carry_out(Claim("p39", "w")), Claimed)

    def test_no_room(self) -> None:
        """If a fan-out cannot be written, its commands are refused; other streams can
        be deleted.
        """
        self.carry_out(append("a/1", b"x"))
        self.tick = 0.0
        self.engine.plan = nth("put", 0, Fault(EngineFull))
        outcomes = self.step(append("a/1", b"y"), delete("b"))
        self.assertEqual(self.problems(outcomes), ["storage-full", ""])
        self.sweep()
        self.assertEqual(len(self.awake()), _COUNT)

    def test_damaged_subscription(self) -> None:
        """A damaged subscription does not keep others from waking."""
        key = SUBSCRIPTIONS.prefix + b"s20"
        self.restart()
        sound = self.engine.content[key]
        self.carry_out(append("b", b"x"))
        self.engine.clear_plan()
        self.engine.content[key] = b"?"
        self.carry_out(append("a/1", b"x"))
        self.sweep()
        self.engine.content[key] = sound
        self.assertEqual(len(self.awake()), _COUNT - 1)
        self.flushLoggedErrors()


def _note(order: list[str], name: str, _: Outcome) -> None:
    order.append(name)


class QueueTests(DurableStoreCase, SynchronousTestCase):
    """Order of commands in the store's queue."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "FAN_OUT_STEP", 1)
        self.submit_all(put("a"), put("b"), *[subscribe(f"s{n}", "a", (), None) for n in range(5)])
        self.settle(self.store)

    def queue(self, *commands: Command) -> list[str]:
        """Submit commands together; return a list that gets their names when they are done."""
        order: list[str] = []
        for number, command in enumerate(commands):
            self.store.execute(command, partial(_note, order, str(number)))
        return order

    def test_order_is_kept(self) -> None:
        """Other commands overtake waiting ones, which keep their order."""
        order = self.queue(
            post(b"x"), post(b"y"), Unsubscribe("s4"), post(b"1", "b"), post(b"z"), post(b"2", "b")
        )
        self.executor.drain()
        self.assertEqual((self.content("a"), self.content("b")), (b"xyz", b"12"))
        self.assertEqual(order, ["0", "3", "5", "1", "2", "4"])

    def test_jobs_that_come_meanwhile_have_their_turn(self) -> None:
        order = self.queue(post(b"x"), post(b"y"))
        self.executor.turn()
        self.assertEqual(order, ["0"])
        self.assertTrue(self.executor.busy)

    def test_close(self) -> None:
        """Closing the store carries out all commands."""
        order = self.queue(post(b"x"), post(b"y"), Unsubscribe("s4"))
        self.executor.turn()
        self.restart()
        self.assertEqual(order, ["0", "1", "2"])
        self.assertEqual(self.content("a"), b"xy")
