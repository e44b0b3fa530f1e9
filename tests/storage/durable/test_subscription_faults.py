"""Tests of subscriptions on a failing disk."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.subscriptions.commands import Claim, Subscribe, Unsubscribe
from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, load, subscription_key
from tests.storage.command_builders import JSON, append, create
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.engine.fake_engine import Fault, nth
from tests.storage.suites.subscription_suite import subscribe


class UnknownOutcomeTests(CommitterCase):
    """Commits of unknown outcome."""

    def fetch(self, name: str) -> Subscription | None:
        with self.engine.snapshot() as view:
            return load(view, SUBSCRIPTIONS, subscription_key(name))

    def test_notified_afterwards(self) -> None:
        """Once the disk works, the scheduler is notified of the current state."""
        for applied in (True, False):
            name = f"s{applied}"
            self.step(subscribe(name, f"{name}/*"))
            self.engine.plan = nth("commit", 0, Fault(EngineFailed, applied))
            outcomes = self.step(create(f"{name}/a", b"x"))
            self.assertEqual(self.problems(outcomes), ["outcome-unknown"])
            self.engine.clear_plan()
            committed = self.committer.sweep()
            assert committed is not None
            (note,) = committed.notes
            self.assertEqual(note.value, self.fetch(name))
            self.assertEqual(note.value.generation, int(applied))
            self.assertIsNone(self.committer.sweep())

    def test_index_is_read_again(self) -> None:
        """Links of a lost commit are not in the index."""
        self.step(subscribe("s", "a"))
        self.engine.plan = nth("commit", 0, Fault(EngineFailed))
        self.step(subscribe("t", "a"), Unsubscribe("s"))
        self.engine.clear_plan()
        self.step(create("a", b"x"))
        state = self.fetch("s")
        assert state is not None
        self.assertEqual(state.generation, 1)
        self.assertIsNone(self.fetch("t"))

    def test_full_disk(self) -> None:
        """Acks and releases succeed; creation and wake events wait."""
        self.step(create("wake", content_type=JSON), subscribe("s", "a"), create("a", b"x"))
        self.step(Claim("s", "w"))
        self.engine.room = False
        self.now += 10_000
        outcomes = self.step(subscribe("t", "a"), append("a", b"y"), Claim("s", "v"))
        self.assertEqual(self.problems(outcomes), ["storage-full", "storage-full", ""])
        self.assertEqual(self.content("wake").count(b"generation"), 1)
        self.engine.room = True


class CorruptTests(CommitterCase):
    """A subscription that cannot be read affects no other."""

    def tearDown(self) -> None:
        """Skip the check of the store."""

    def spoil(self, name: str) -> None:
        key = SUBSCRIPTIONS.prefix + subscription_key(name)
        value = bytearray(self.engine.content[key])
        value[-1] ^= 1
        self.engine.content[key] = bytes(value)

    def test_unreadable_subscription(self) -> None:
        """Streams of an unreadable subscription accept appends, and other subscriptions wake."""
        named: Subscribe = subscribe("bad", None, ("a",), None)
        self.step(named, subscribe("good", "*", (), None), create("a"))
        self.spoil("bad")
        self.restart()
        self.assertEqual(self.problems(self.step(append("a", b"x"))), [""])
        with self.engine.snapshot() as view:
            good = load(view, SUBSCRIPTIONS, subscription_key("good"))
        assert good is not None
        self.assertEqual(good.generation, 1)
        outcomes = self.step(Claim("bad", "w"), Unsubscribe("bad"), append("a", b"y"))
        self.assertEqual(
            self.problems(outcomes), [Problem.CORRUPT_RECORD.slug, Problem.CORRUPT_RECORD.slug, ""]
        )

    def test_damaged_while_indexed(self) -> None:
        """A subscription that is damaged after it was indexed fails when its record is read."""
        self.step(subscribe("bad", "*", (), None), create("a"))
        self.spoil("bad")
        self.committer._written.records.clear()
        self.assertEqual(self.problems(self.step(append("a", b"x"))), [""])

    def test_damaged_wake_stream(self) -> None:
        """An append succeeds although the wake stream is damaged, and the wake is retried."""
        self.step(create("wake", content_type=JSON), subscribe("s", "a"), create("a"))
        (key,) = [k for k in self.engine.content if k == codec.path_key("wake")]
        self.engine.content[key] = b"nonsense"
        self.restart()
        self.assertEqual(self.problems(self.step(append("a", b"x"))), [""])
        with self.engine.snapshot() as view:
            state = load(view, SUBSCRIPTIONS, subscription_key("s"))
        assert state is not None
        self.assertEqual((state.generation, state.failures), (1, 1))
