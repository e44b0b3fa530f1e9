"""What a new store is marked with."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.durable.reader import load_next_id
from durable_streams_tw.storage.engine.format_version import check_format
from tests.storage.engine.fake_engine import FakeEngine


class NewStoreTests(SynchronousTestCase):
    """A store that is empty."""

    def first_id(self, now: int) -> int:
        """The first id of a store that is made at a time (milliseconds since 1970)."""
        engine = FakeEngine()
        check_format(engine, "the fake", now)
        with engine.snapshot() as view:
            return load_next_id(view)

    def test_ids_of_an_earlier_store(self) -> None:
        """Who deletes a directory and starts anew gets no id, and no ETag, of what was there."""
        earlier, later = self.first_id(1_790_000_000_000), self.first_id(1_790_000_000_001)
        # A million streams a millisecond would have to have been made.
        self.assertGreater(later - earlier, 1_000_000)
        self.assertLess(later, 2**63)

    def test_recognised_again(self) -> None:
        """Opening it later changes nothing."""
        engine = FakeEngine()
        check_format(engine, "the fake", 5)
        check_format(engine, "the fake", 10)
        with engine.snapshot() as view:
            self.assertEqual(load_next_id(view), (5 << 20) + 1)
