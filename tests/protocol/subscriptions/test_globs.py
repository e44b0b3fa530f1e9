"""Tests of `durable_streams_tw.protocol.subscriptions.globs`: matches, errors and running time."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.limits import MAX_GLOB_STARS
from durable_streams_tw.protocol.subscriptions.globs import (
    MANY,
    ONE,
    literal_prefix,
    matches,
    parse_glob,
)
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from tests.protocol.refusal_case import RefusalTestCase

_TABLE = (
    ("a", ("a",), ("b", "a/b", "aa")),
    ("events/*", ("events/a", "events/*"), ("events", "events/a/b", "event/a", "x/events/a")),
    ("*", ("a", "*"), ("a/b",)),
    ("**", ("a", "a/b", "a/b/c"), ()),
    ("a/**", ("a", "a/b", "a/b/c"), ("ab", "b/a")),
    ("**/z", ("z", "a/z", "a/b/z"), ("z/a", "az")),
    ("a/**/z", ("a/z", "a/b/z", "a/b/c/z"), ("a", "z", "a/z/b")),
    ("a/*/z", ("a/b/z",), ("a/z", "a/b/c/z")),
    ("**/a/**/b/**", ("a/b", "x/a/y/b/z", "a/a/b"), ("b/a", "a", "b")),
    ("*/**", ("a", "a/b"), ()),
    ("**/**", ("a", "a/b"), ()),
    ("**/*/*", ("a/b", "a/b/c"), ("a",)),
    ("a/%2A/%2a", ("a/*/*",), ("a/b/c", "a/%2A/%2a")),
)

# Few letters, so that names often match.
_segments = st.sampled_from(("a", "b", "c"))
_names = st.lists(_segments, min_size=1, max_size=7).map("/".join)
_globs = st.lists(st.sampled_from(("a", "b", "*", "**")), min_size=1, max_size=7).map("/".join)


def matches_by_regex(pattern: str, name: str) -> bool:
    """Return the match of an equivalent regular expression."""
    parts = {"*": "[^/]+/", "**": "(?:[^/]+/)*"}
    text = "".join([parts.get(part, re.escape(part) + "/") for part in pattern.split("/")])
    return re.fullmatch(text, name + "/") is not None


class GlobTests(RefusalTestCase):
    """Parsing and matching."""

    def test_table(self) -> None:
        for pattern, good, bad in _TABLE:
            glob = parse_glob(pattern)
            for name in good:
                self.assertTrue(matches(glob, name), (pattern, name))
                self.assertTrue(name.startswith(literal_prefix(glob)), (pattern, name))
            for name in bad:
                self.assertFalse(matches(glob, name), (pattern, name))

    def test_segments(self) -> None:
        self.assertEqual(parse_glob("a/*/**/**/b"), ("a", ONE, MANY, "b"))

    def test_refused(self) -> None:
        """Globs that match no stream, or are ambiguous, are refused."""
        many = "/".join(["*"] * (MAX_GLOB_STARS + 1))
        for pattern in ("", "a//b", "a/../b", ".", "user-*", "a/***", "a/x**", "a\n", many):
            self.assertRefused(Problem.INVALID_REQUEST, parse_glob, pattern)
        parse_glob("/".join(["*"] * MAX_GLOB_STARS))

    @given(_globs, _names)
    def test_like_a_regular_expression(self, pattern: str, name: str) -> None:
        self.assertEqual(matches(parse_glob(pattern), name), matches_by_regex(pattern, name))

    def test_running_time(self) -> None:
        """Matching many ** against many segments does not take exponential time."""
        glob = parse_glob("/".join(["**", "a"] * MAX_GLOB_STARS))
        name = "/".join(["a"] * 1000) + "/b"
        self.assertFalse(matches(glob, name))
        index = SubscriptionIndex()
        index.add((1, "s"), glob, None)
        self.assertEqual(index.matching(name), ())
