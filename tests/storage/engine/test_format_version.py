"""Tests of the format record of new stores."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.durable.reader import load_next_id
from durable_streams_tw.storage.engine.format_version import check_format
from tests.storage.engine.fake_engine import FakeEngine


class NewStoreTests(SynchronousTestCase):
    """Empty stores."""

    def first_id(self, now: int) -> int:
        """Return the first id of a store created at a time (ms since the Unix epoch)."""
        engine = FakeEngine()
        check_format(engine, "the fake", now)
        with engine.snapshot() as view:
            return load_next_id(view)

    def test_ids_of_an_earlier_store(self) -> None:
        """A store that replaces a deleted one reuses none of its ids and ETags."""
        earlier, later = self.first_id(1_790_000_000_000), self.first_id(1_790_000_000_001)
        # An older store would need a million new streams per millisecond to reach this id.
        self.assertGreater(later - earlier, 1_000_000)
        self.assertLess(later, 2**63)

    def test_recognised_again(self) -> None:
        """Opening a store again keeps its format record."""
        engine = FakeEngine()
        check_format(engine, "the fake", 5)
        check_format(engine, "the fake", 10)
        with engine.snapshot() as view:
            self.assertEqual(load_next_id(view), (5 << 20) + 1)
