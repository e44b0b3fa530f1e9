"""Tests of the committer's work for streams with pending work, counted in calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, subscription_key
from durable_streams_tw.storage.limits import OWNED_AHEAD
from tests.storage.command_builders import create, delete
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.suites.subscription_suite import subscribe

_COUNT = 1_000


class PendingBoundsTests(CommitterCase):
    """Subscription without a worker, and many pending streams."""

    def setUp(self) -> None:
        super().setUp()
        self.step(subscribe(pattern="**", wake_stream=None))

    def cursors(self) -> int:
        """Return the number of pending streams on disk."""
        return len([key for key in self.engine.content if key[:1] == b"k"])

    def idle(self) -> bool:
        """Return True if the subscription is idle on disk."""
        with self.engine.snapshot() as view:
            state = tables.load(view, SUBSCRIPTIONS, subscription_key("s"))
        assert state is not None
        return state.idle

    def in_one_batch(self, commands: Sequence[Command]) -> None:
        """Carry out commands in one batch."""
        self.step(*commands)

    def assertFewScans(self, work: Callable[[], object]) -> None:
        self.engine.calls.clear()
        work()
        self.assertLessEqual(self.engine.calls["scan"], 3 * _COUNT // OWNED_AHEAD + 100)

    def test_deleted(self) -> None:
        """Deleting pending streams takes work linear in their number, in any order."""
        paths = [f"a/{number:04}" for number in range(_COUNT)]
        orders = {"up": paths, "down": paths[::-1], "mixed": Random(1).sample(paths, _COUNT)}
        for name, order in orders.items():
            with self.subTest(name):
                self.in_one_batch([create(path, b"x") for path in paths])
                self.assertEqual((self.cursors(), self.idle()), (_COUNT, False))
                ends = [delete(path) for path in order[:-1]]
                self.assertFewScans(partial(self.in_one_batch, ends))
                self.assertEqual((self.cursors(), self.idle()), (1, False))
                self.step(delete(order[-1]))
                self.assertEqual((self.cursors(), self.idle()), (0, True))

    def test_expired(self) -> None:
        self.in_one_batch([create(f"a/{number}", b"x", ttl=1) for number in range(_COUNT)])
        self.now += 1_000
        self.assertFewScans(self.committer.sweep)
        self.sweep()
        self.assertEqual((self.cursors(), self.idle()), (0, True))

    def test_gap_before_the_last_key(self) -> None:
        """A pending stream is found after many removed ones."""
        self.in_one_batch([create(f"b/{number}", b"x") for number in range(10)])
        self.in_one_batch([delete(f"b/{number}") for number in range(9)])
        self.step(create("a/late", b"x"))
        self.step(delete("b/9"))
        self.assertEqual((self.cursors(), self.idle()), (1, False))
        self.step(delete("a/late"))
        self.assertEqual((self.cursors(), self.idle()), (0, True))
