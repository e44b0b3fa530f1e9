"""Tests of `durable_streams_tw.storage.shared.read_cache`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.shared.read_cache import NOT_CACHED, ChunkCache, StateCache


def state(tail: int) -> StreamState:
    """Return a state that is identified by its tail."""
    return StreamState(1, "a", "text/plain", tail, 0, 0)


class StateCacheTests(SynchronousTestCase):
    """States by path; the newest version wins."""

    def test_unknown(self) -> None:
        self.assertIs(StateCache().get("a"), NOT_CACHED)

    def test_newest_wins(self) -> None:
        published = StateCache()
        self.assertTrue(published.put("a", state(2), 2))
        self.assertFalse(published.put("a", state(1), 1))
        self.assertEqual(published.get("a"), state(2))
        self.assertTrue(published.put("a", state(3), 3))
        self.assertTrue(published.put("a", None, 4))
        self.assertFalse(published.put("a", state(3), 3))
        self.assertIsNone(published.get("a"))

    def test_commit(self) -> None:
        published = StateCache()
        published.put("b", state(9), 9)
        published.publish({"a": state(1), "b": None, "c": None}, 5)
        self.assertEqual(published.get("a"), state(1))
        self.assertEqual(published.get("b"), state(9))
        self.assertIsNone(published.get("c"))

    def test_bounded(self) -> None:
        published = StateCache(size=3)
        for number in range(10):
            published.put(f"p{number}", state(number), number)
        known = [n for n in range(10) if published.get(f"p{n}") is not NOT_CACHED]
        self.assertEqual(known, [7, 8, 9])

    def test_what_is_written_stays_longest(self) -> None:
        published = StateCache(size=2)
        published.publish({"a": state(1), "b": state(1)}, 1)
        published.publish({"a": state(2)}, 2)
        published.publish({"c": state(3)}, 3)
        self.assertIs(published.get("b"), NOT_CACHED)
        self.assertEqual(published.get("a"), state(2))

    def test_an_old_look_does_not_move_anything(self) -> None:
        """An older version does not affect the order of eviction."""
        published = StateCache(size=2)
        published.publish({"a": state(5), "b": state(5)}, 5)
        published.put("a", state(1), 1)
        published.publish({"c": state(6)}, 6)
        self.assertIs(published.get("a"), NOT_CACHED)

    def test_dropped_states_are_not_replaced_by_older_ones(self) -> None:
        """A state older than an evicted one is not cached."""
        published = StateCache(size=1)
        published.put("a", state(5), 5)
        published.put("b", state(6), 6)
        self.assertFalse(published.put("a", state(4), 4))
        self.assertIs(published.get("a"), NOT_CACHED)
        self.assertTrue(published.put("a", state(7), 7))

    def test_distrust(self) -> None:
        """After a failure only states of later versions are cached."""
        published = StateCache()
        published.put("a", state(5), 5)
        published.distrust(100)
        self.assertIs(published.get("a"), NOT_CACHED)
        self.assertFalse(published.put("a", state(5), 99))
        self.assertTrue(published.put("a", state(4), 100))
        self.assertEqual(published.get("a"), state(4))


class ChunkCacheTests(SynchronousTestCase):
    """Chunks within a bound."""

    def test_put_and_get(self) -> None:
        chunks = ChunkCache()
        chunks.put(1, 0, b"abc")
        chunks.put(1, 3, b"de")
        self.assertEqual(chunks.get(1, 0), b"abc")
        self.assertEqual(chunks.get(1, 3), b"de")
        self.assertIsNone(chunks.get(1, 1))
        self.assertIsNone(chunks.get(2, 0))

    def test_what_it_does_not_take(self) -> None:
        chunks = ChunkCache(largest=4)
        chunks.put(1, 0, b"")
        chunks.put(1, 1, b"12345")
        self.assertIsNone(chunks.get(1, 0))
        self.assertIsNone(chunks.get(1, 1))

    def test_bounded(self) -> None:
        """The oldest entries are evicted; their overhead counts."""
        chunks = ChunkCache(size=10_000, largest=100)
        for number in range(1000):
            chunks.put(1, number, bytes(50))
        kept = [number for number in range(1000) if chunks.get(1, number) is not None]
        self.assertTrue(10 < len(kept) < 200)
        self.assertEqual(kept, list(range(1000 - len(kept), 1000)))

    def test_same_place_again(self) -> None:
        """A longer chunk replaces a shorter one at the same position."""
        chunks = ChunkCache(size=1000, largest=900)
        for size in range(1, 700):
            chunks.put(1, 0, bytes(size))
        self.assertEqual(chunks.get(1, 0), bytes(699))

    def test_clear(self) -> None:
        chunks = ChunkCache(size=600, largest=300)
        chunks.put(1, 0, bytes(300))
        chunks.clear()
        self.assertIsNone(chunks.get(1, 0))
        chunks.put(2, 0, bytes(300))
        self.assertEqual(chunks.get(2, 0), bytes(300))
