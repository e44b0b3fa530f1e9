"""Tests of `durable_streams_tw.protocol.caching`."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.caching import (
    PRIVATE,
    PUBLIC,
    accepts_gzip,
    cache_control,
    etag,
    matches_etag,
)
from tests.protocol.refusal_case import RefusalTestCase

TAGS = st.builds(
    etag,
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(("", "gzip")),
)


class TagTests(RefusalTestCase):
    """Entity tags."""

    def test_form(self) -> None:
        """A tag has stream, start and end, ``:c`` at a closed end, and the coding if any."""
        self.assertEqual(etag(7, 0, 12, False), b'"7:0:12"')
        self.assertEqual(etag(7, 0, 12, True), b'"7:0:12:c"')
        self.assertEqual(etag(7, 0, 12, False, "gzip"), b'"7:0:12:gzip"')
        self.assertEqual(etag(7, 0, 12, True, "gzip"), b'"7:0:12:c:gzip"')

    @given(*[st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.booleans())] * 2)
    def test_distinct(
        self, one: tuple[int, int, int, bool], other: tuple[int, int, int, bool]
    ) -> None:
        """Different bytes, or another closed flag, have different tags."""
        self.assertEqual(etag(*one) == etag(*other), one == other)
        self.assertNotEqual(etag(*one), etag(*other, "gzip"))


class MatchTests(RefusalTestCase):
    """If-None-Match."""

    TAG = etag(7, 0, 12, False)

    def test_match(self) -> None:
        """A single tag, a weak one, a list and ``*`` match."""
        for value in (
            *(
                b'"7:0:12"',
                b'W/"7:0:12"',
                b'"a", "7:0:12"',
                b'"7:0:12","b"',
                b'"a" ,W/"7:0:12" , "b"',
            ),
            *(b"*", b" * ", b'"a,b","7:0:12"', b'"","7:0:12"'),
        ):
            self.assertTrue(matches_etag(value, self.TAG), value)

    def test_no_match(self) -> None:
        """Another tag and malformed values do not match."""
        for value in (
            *(None, b"", b'""', b'"7:0:1"', b'"7:0:12:c"', b'"7:0:12:gzip"', b'"wrong-etag"'),
            *(
                b"7:0:12",
                b"'7:0:12'",
                b'"7:0:12',
                b'7:0:12"',
                b'"a 7:0:12"',
                b'"7:0:12 "',
                b"**",
                b'"*"',
            ),
            *(b"\xff", b'"x7:0:12"'),
        ):
            self.assertFalse(matches_etag(value, self.TAG), value)

    @given(TAGS, st.lists(TAGS, max_size=4))
    def test_lists(self, tag: bytes, others: list[bytes]) -> None:
        """A list matches each tag that it contains."""
        self.assertEqual(matches_etag(b", ".join(others), tag), tag in others)
        self.assertTrue(matches_etag(b", ".join([*others, b"W/" + tag]), tag))

    @given(st.binary(max_size=30))
    def test_any_value(self, value: bytes) -> None:
        """Any bytes are compared without an error."""
        if b"7:0:12" not in value and b"*" not in value:
            self.assertFalse(matches_etag(value, self.TAG))


class DirectivesTests(RefusalTestCase):
    """Cache-Control."""

    def test_of_a_stream_that_stays(self) -> None:
        """Directives for a stream without a deadline (PROTOCOL.md §10.1)."""
        for left in (None, 360.0, 10.0**9):
            self.assertEqual(cache_control(False, left), PUBLIC)
            self.assertEqual(cache_control(True, left), PRIVATE)
        self.assertEqual(PUBLIC, b"public, max-age=60, stale-while-revalidate=300")

    def test_of_a_stream_that_ends(self) -> None:
        """Caches do not serve an expired stream."""
        for left, fresh, stale in (
            (359.9, 60, 299),
            (61.0, 60, 1),
            (60.0, 60, 0),
            (1.9, 1, 0),
            (0.5, 0, 0),
            (0.0, 0, 0),
            (-5.0, 0, 0),
        ):
            rest = f", max-age={fresh}, stale-while-revalidate={stale}"
            self.assertEqual(cache_control(False, left), f"public{rest}".encode())
            self.assertEqual(cache_control(True, left), f"private{rest}".encode())

    @given(st.floats(0, 1000), st.booleans())
    def test_never_beyond_the_end(self, left: float, private: bool) -> None:
        """max-age and stale-while-revalidate together do not exceed the remaining lifetime."""
        fresh, stale = map(int, re.findall(rb"=(\d+)", cache_control(private, left)))
        self.assertLessEqual(fresh + stale, left)
        self.assertLessEqual(fresh, 60)


class GzipTests(RefusalTestCase):
    """Accept-Encoding."""

    def test_accepted(self) -> None:
        """gzip is accepted by name and by ``*`` with any weight above 0."""
        for value in (
            *(b"gzip", b"GZip", b"gzip, deflate, br", b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"*"),
            *(
                b"gzip;q=0.001",
                b"gzip ; q=1",
                b"identity;q=0, gzip",
                b"*;q=0, gzip",
                b"deflate,*;q=0.5",
            ),
        ):
            self.assertTrue(accepts_gzip(value), value)

    def test_not_accepted(self) -> None:
        """gzip is not accepted if it is not listed, has weight 0, or the header is malformed."""
        for value in (
            *(None, b"", b"identity", b"br, deflate", b"gzip;q=0", b"gzip;q=0.000", b"*;q=0"),
            *(
                b"gzip;q=0, *",
                b"gzip;q=",
                b"gzip;q=x",
                b"gzip;q=nan",
                b"gzipped",
                b"x-gzip",
                b",",
                b";",
            ),
            *(b"identity, *;q=0", b"\xff"),
        ):
            self.assertFalse(accepts_gzip(value), value)

    @given(st.binary(max_size=30))
    def test_any_value(self, value: bytes) -> None:
        """Any bytes are parsed without an error."""
        if b"gzip" not in value.lower() and b"*" not in value:
            self.assertFalse(accepts_gzip(value))
