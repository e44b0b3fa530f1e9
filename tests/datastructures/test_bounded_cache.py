"""Tests of `durable_streams_tw.datastructures.bounded_cache`."""

from __future__ import annotations

import sys
from collections import OrderedDict
from types import FrameType

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.datastructures.bounded_cache import BoundedCache

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "insert"]), KEYS, st.binary(max_size=6)),
        st.tuples(st.sampled_from(["pop", "trim", "clear"]), KEYS, st.just(b"")),
    )
)


class BoundedCacheTests(SynchronousTestCase):
    """Entries, weight and eviction."""

    def test_evicts_the_oldest(self) -> None:
        cache: BoundedCache[str, int] = BoundedCache(2)
        self.assertEqual(cache.put("a", 1), [])
        self.assertEqual(cache.put("b", 2), [])
        self.assertEqual(cache.put("a", 3), [], "a replaced entry becomes the newest")
        self.assertEqual(cache.put("c", 4), [("b", 2)])
        self.assertEqual(list(cache), ["a", "c"])
        self.assertEqual(cache.get("a"), 3)
        self.assertIsNone(cache.get("b"))
        self.assertNotIn("b", cache)

    def test_insert_waits_for_trim(self) -> None:
        cache: BoundedCache[int, int] = BoundedCache(2)
        for key in range(5):
            cache.insert(key, key)
        self.assertEqual(len(cache), 5)
        self.assertEqual([key for key, _ in cache.trim()], [0, 1, 2])

    @given(st.integers(0, 12), STEPS)
    def test_agrees_with_a_model(self, bound: int, steps: list[tuple[str, str, bytes]]) -> None:
        """The cache has the same entries as an ordered dictionary that is trimmed after each
        change.
        """
        cache: BoundedCache[str, bytes] = BoundedCache(bound, len)
        model: OrderedDict[str, bytes] = OrderedDict()
        for step, key, value in steps:
            if step in ("put", "insert"):
                model.pop(key, None)
                model[key] = value
                getattr(cache, step)(key, value)
            elif step == "pop":
                self.assertEqual(cache.pop(key), model.pop(key, None))
            else:
                getattr(cache, step)()
            if step == "clear":
                model.clear()
            if step in ("put", "trim"):
                while sum(map(len, model.values())) > bound:
                    model.popitem(last=False)
            self.assertEqual([(at, cache.get(at)) for at in cache], list(model.items()))
            self.assertEqual(cache.weight, sum(map(len, model.values())))

    def test_put_makes_few_calls(self) -> None:
        """A put on a full cache makes a constant number of Python calls."""
        cache: BoundedCache[int, int] = BoundedCache(1000)
        for key in range(5000):
            cache.put(key, key)
        calls = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            cache.put(5000, 5000)
        finally:
            sys.setprofile(None)
        self.assertLess(calls, 20)
