"""Tests of `durable_streams_tw.protocol.subscriptions.index`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import MATCH_CACHE
from durable_streams_tw.protocol.subscriptions.globs import matches, parse_glob
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from tests.protocol.subscriptions.test_globs import _globs, _names

_subscriptions = st.lists(
    st.tuples(st.none() | _globs, st.sets(_names, max_size=3), st.none() | _names, st.booleans()),
    max_size=12,
)


class IndexTests(SynchronousTestCase):
    """Index compared with a loop over all subscriptions."""

    @given(_subscriptions, st.lists(_names, min_size=1, max_size=10))
    def test_equals_a_loop(
        self, asked: list[tuple[str | None, set[str], str | None, bool]], names: list[str]
    ) -> None:
        """Lookups equal those of a loop, also after removals and earlier lookups."""
        index = SubscriptionIndex()
        there = {}
        for number, (pattern, explicit, wake_stream, stays) in enumerate(asked):
            member = (number, f"s{number}")
            glob = None if pattern is None else parse_glob(pattern)
            index.add(member, glob, wake_stream)
            for path in explicit:
                index.link(member, path)
            index.matching(names[number % len(names)])
            there[member] = (glob, explicit, wake_stream)
            if not stays:
                index.remove(member, glob, wake_stream)
                del there[member]
        self.assertEqual(bool(index), bool(there))
        waking = {wake_stream for _, _, wake_stream in there.values()}
        for name in names:
            found = [
                member
                for member, (glob, explicit, _) in there.items()
                if name in explicit or (glob is not None and matches(glob, name))
            ]
            expected = () if name in waking else tuple(sorted(found))
            self.assertEqual(index.matching(name), expected)
            self.assertEqual(
                sorted(index.with_wake_stream(name)),
                sorted(member for member, (_, _, through) in there.items() if through == name),
            )

    def test_links_come_and_go(self) -> None:
        index = SubscriptionIndex()
        index.add((1, "s"), None, None)
        self.assertEqual(index.matching("a"), ())
        index.link((1, "s"), "a")
        self.assertEqual(index.matching("a"), ((1, "s"),))
        index.unlink((1, "s"), "a")
        index.unlink((1, "s"), "a")
        self.assertEqual(index.matching("a"), ())

    def test_no_remains(self) -> None:
        """Removed subscriptions and looked-up names leave no entries."""
        index = SubscriptionIndex()
        for number in range(100):
            glob = parse_glob(f"a/{number}/**/b")
            index.add((number, "s"), glob, "w")
            index.link((number, "s"), f"n{number}")
            index.remove((number, "s"), glob, "w")
        self.assertFalse(index)
        self.assertEqual(index._root.children, {})
        self.assertEqual((index._explicit, index._links, index._wake_streams), ({}, {}, {}))
        for number in range(MATCH_CACHE + 10):
            index.matching(f"n{number}")
        self.assertLessEqual(len(index._found), MATCH_CACHE)
