"""Tests of `durable_streams_tw.protocol.streams.preconditions`."""

from __future__ import annotations

from msgspec.structs import replace

from durable_streams_tw.protocol import caching
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.preconditions import (
    Precondition,
    check_entity_tags,
    check_precondition,
    parse_precondition,
    require_match,
)
from durable_streams_tw.protocol.streams.state import StreamState
from tests.protocol.refusal_case import RefusalTestCase

STREAM = StreamState(7, "a", "text/plain", 12, created_at=0, touched_at=0)
TAG = caching.etag(7, 0, 12, False)


class ParseTests(RefusalTestCase):
    """Parsing of If-Match and If-None-Match."""

    def test_fields(self) -> None:
        """Lists of tags and ``*`` are parsed."""
        for header, asked in (
            ({}, None),
            ({b"if-modified-since": b"x", b"if-range": b"x"}, None),
            ({b"if-match": b" * "}, Precondition(match=(b"*",))),
            (
                {b"if-none-match": b' , "a", W/"b,c" ,, "" '},
                Precondition(None, (b'"a"', b'W/"b,c"', b'""')),
            ),
            ({b"if-match": b'"a" , '}, Precondition(match=(b'"a"',))),
        ):
            self.assertEqual(parse_precondition(header), asked)

    def test_refused(self) -> None:
        """Malformed lists of tags are refused, in linear time, and so is If-Unmodified-Since."""
        endless = b'"a"' + b", " * 1000 + b"b"
        for value in (
            b"",
            b"a",
            b'"a',
            b"*, *",
            b'w/"a"',
            b'"a" "b"',
            b'"a"W/"b"',
            b'"a", *',
            b" , ",
            endless,
        ):
            for name in (b"if-match", b"if-none-match"):
                self.assertRefused(Problem.MALFORMED_FIELD, parse_precondition, {name: value})
        date = {b"if-unmodified-since": b"Sat, 28 Nov 2026 12:00:00 GMT"}
        self.assertRefused(Problem.PRECONDITION_FAILED, parse_precondition, date)


class UnmetTests(RefusalTestCase):
    """Evaluation of preconditions."""

    def test_match(self) -> None:
        """If-Match needs the current tag, compared strongly, or any stream for ``*``."""
        closed = replace(STREAM, closed=True)
        for tags, state, met in (
            ((b"*",), STREAM, True),
            ((b"*",), None, False),
            ((TAG,), STREAM, True),
            ((b'"x"', TAG), STREAM, True),
            ((caching.etag(7, 0, 12, False, "gzip"),), STREAM, True),
            ((b"W/" + TAG,), STREAM, False),
            ((TAG,), closed, False),
            ((TAG,), None, False),
            ((b'"bogus"',), STREAM, False),
        ):
            refusal = check_precondition(Precondition(match=tags), state)
            self.assertEqual(refusal is None, met, tags)

    def test_none_match(self) -> None:
        """If-None-Match fails for the listed tags, compared weakly, or for any stream
        with ``*``.
        """
        for tags, state, met in (
            ((b"*",), None, True),
            ((b"*",), STREAM, False),
            ((TAG,), STREAM, False),
            ((b"W/" + TAG,), STREAM, False),
            ((b'"x"',), STREAM, True),
            ((TAG,), None, True),
        ):
            refusal = check_precondition(Precondition(none_match=tags), state)
            self.assertEqual(refusal is None, met, tags)

    def test_tells_the_current_tag(self) -> None:
        refusal = check_precondition(Precondition(match=(b'"bogus"',)), STREAM)
        assert isinstance(refusal, Refusal)
        self.assertEqual((refusal.problem.status, refusal.headers), (412, ((b"ETag", TAG),)))

    def test_read(self) -> None:
        """A read needs the tag of its response, compared strongly, or any for ``*``."""
        for value in (None, b"*", b'"x", ' + TAG):
            require_match(value, TAG)
        for value, tags, current in (
            (b'"x"', (TAG,), ((b"ETag", TAG),)),
            (b"W/" + TAG, (TAG,), ((b"ETag", TAG),)),
            (TAG, (), ()),
        ):
            refusal = self.assertRefused(Problem.PRECONDITION_FAILED, require_match, value, *tags)
            self.assertEqual(refusal.headers, current)
        require_match(b"*")
        self.assertRefused(Problem.MALFORMED_FIELD, require_match, b"x", TAG)

    def test_without_tags(self) -> None:
        """No tag matches a resource without entity tags."""
        for asked, exists, met in (
            (None, True, True),
            (Precondition(match=(TAG,)), True, False),
            (Precondition(match=(b"*",)), True, True),
            (Precondition(none_match=(TAG,)), True, True),
            (Precondition(none_match=(b"*",)), True, False),
        ):
            self.assertEqual(check_entity_tags(asked, exists=exists) is None, met)
