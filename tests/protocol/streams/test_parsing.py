"""Tests of `durable_streams_tw.protocol.streams.parsing`. Its fork fields: test_forks."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_TOKEN
from durable_streams_tw.protocol.streams import parsing
from durable_streams_tw.protocol.streams.commands import Append, LiveMode, ReadQuery
from durable_streams_tw.protocol.streams.offsets import NOW, START, format_offset
from durable_streams_tw.protocol.streams.parsing import CreateHeaders, HeaderMap
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime
from tests.protocol.refusal_case import RefusalTestCase

ROOT = b"/v1/stream/"
# 2026-11-24T12:00:00Z in milliseconds.
TODAY = 1_795_521_600_000
AT_5 = format_offset(None, 5).encode()
PRODUCER = {b"producer-id": b"p", b"producer-epoch": b"0", b"producer-seq": b"7"}


def _parse_append(header: HeaderMap) -> Append:
    return parsing.parse_append("a", header)


class ReadQueryTests(RefusalTestCase):
    """Query of GET."""

    def test_queries(self) -> None:
        """Parameters of PROTOCOL.md §5.6-§5.8 are parsed; unknown ones are ignored."""
        for query, expected in (
            (b"", ReadQuery(START)),
            (b"offset=-1", ReadQuery(START)),
            (b"offset=now", ReadQuery(NOW)),
            (b"offset=" + AT_5, ReadQuery(5)),
            (b"offset=" + AT_5 + b"&live=long-poll", ReadQuery(5, LiveMode.LONG_POLL)),
            (b"cursor=7&live=sse&offset=now", ReadQuery(NOW, LiveMode.SSE, 7)),
            (b"foo=bar", ReadQuery(START)),
            (b"foo=1&foo=2&offset=-1&Offset=x&LIVE=y", ReadQuery(START)),
            (b"&&offset=-1&&", ReadQuery(START)),
            (b"=x&offset=-1", ReadQuery(START)),
            (b"cursor=7", ReadQuery(START, None, 7)),
            (b"cursor=", ReadQuery(START)),
            (b"cursor", ReadQuery(START)),
            (b"offset=-1&cursor=abc", ReadQuery(START)),
            (b"o%66fset=%2D1", ReadQuery(START)),
            (b"offset=n%6Fw&live=long%2Dpoll", ReadQuery(NOW, LiveMode.LONG_POLL)),
            (b"x=%&offset=-1", ReadQuery(START)),
            (b"\xff=\xff&offset=-1", ReadQuery(START)),
        ):
            self.assertEqual(parsing.parse_read(query), expected, query)

    def test_refused(self) -> None:
        """Repeated, unknown and malformed values are refused."""
        for query, problem in (
            (b"offset=", Problem.MALFORMED_OFFSET),
            (b"offset", Problem.MALFORMED_OFFSET),
            (b"offset=%20", Problem.MALFORMED_OFFSET),
            (b"offset=%00", Problem.MALFORMED_OFFSET),
            (b"offset=%0A", Problem.MALFORMED_OFFSET),
            (b"offset=%2C", Problem.MALFORMED_OFFSET),
            (b"offset=-1%0A", Problem.MALFORMED_OFFSET),
            (b"offset=-1%0d%0a", Problem.MALFORMED_OFFSET),
            (b"offset=+-1", Problem.MALFORMED_OFFSET),
            (b"offset=0,1", Problem.MALFORMED_OFFSET),
            (b"offset=0_%D9%A1", Problem.MALFORMED_OFFSET),
            (b"offset=" + AT_5 + b"%00", Problem.MALFORMED_OFFSET),
            (b"offset=../" + AT_5, Problem.MALFORMED_OFFSET),
            (b"offset=%zz", Problem.MALFORMED_OFFSET),
            (b"offset=a=b", Problem.MALFORMED_OFFSET),
            (b"offset=-1;live=sse", Problem.MALFORMED_OFFSET),
            (b"offset=0_99999999999999999", Problem.OFFSET_OUT_OF_RANGE),
            (b"offset=-1&offset=-1", Problem.MALFORMED_REQUEST),
            (b"offset=-1&o%66fset=now", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=sse&live=sse", Problem.MALFORMED_REQUEST),
            (b"cursor=1&cursor=1", Problem.MALFORMED_REQUEST),
            (b"cursor&cursor", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=true", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=SSE", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=longpoll", Problem.MALFORMED_REQUEST),
            (b"offset=-1&live=sse%20", Problem.MALFORMED_REQUEST),
            (b"live=sse", Problem.MALFORMED_OFFSET),
            (b"live=long-poll&cursor=1", Problem.MALFORMED_OFFSET),
            (b"live=sse&offset=", Problem.MALFORMED_OFFSET),
        ):
            refusal = self.assertRefused(problem, parsing.parse_read, query)
            self.assertEqual(refusal.problem.status, 400)

    @given(
        st.binary(max_size=30)
        | st.text("offset=live&now-1_0%+;cursor", max_size=40).map(str.encode)
    )
    def test_any_query(self, query: bytes) -> None:
        """Any query is parsed or refused with 400."""
        try:
            parsing.parse_read(query)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem.status, 400)

    @given(
        st.text(), st.sampled_from((" ", "\0", "\n", "\r\n", ",", "/", "/..", "&", "=")), st.text()
    )
    def test_spoiled_offsets(self, before: str, spoiler: str, behind: str) -> None:
        """Characters that no offset contains are refused in any escaped form."""
        query = b"offset=" + quote(before + spoiler + behind, safe="").encode()
        self.assertRefused(Problem.MALFORMED_OFFSET, parsing.parse_read, query)


class CreateFieldsTests(RefusalTestCase):
    """Headers of PUT."""

    def _read(self, header: dict[bytes, bytes]) -> CreateHeaders:
        return parsing.parse_create(header, TODAY, ROOT)

    def test_nothing(self) -> None:
        """All headers are optional."""
        self.assertEqual(self._read({}), CreateHeaders(None, NO_EXPIRY, False, None))

    def test_content_type(self) -> None:
        """Content-Type is kept as written; an empty one counts as missing."""
        for value, expected in (
            (b"text/plain", "text/plain"),
            (b"Text/Plain; charset=UTF-8", "Text/Plain; charset=UTF-8"),
            (b"", None),
        ):
            self.assertEqual(self._read({b"content-type": value}).content_type, expected)
        for bad in (
            *(b"x", b"text/", b" ", b"text/plain, text/html", b"text/plain;a=b, text/html"),
            *(
                b"text/plain;\r\nx: y",
                b"a/b;\xe9",
                "a/b;é".encode(),
                b"a/" + b"b" * MAX_TOKEN,
                b"a/b\0",
            ),
        ):
            self.assertRefused(Problem.MALFORMED_FIELD, self._read, {b"content-type": bad})

    def test_closed(self) -> None:
        """Only ``true`` closes the stream."""
        for value, closed in ((b"true", True), (b"TRUE", True), (b"false", False), (b"1", False)):
            self.assertEqual(self._read({b"stream-closed": value}).closed, closed)

    def test_ttl(self) -> None:
        """Stream-TTL is parsed (PROTOCOL.md §5.1)."""
        for value, ttl in ((b"0", 0), (b"1", 1), (b"3600", 3600)):
            self.assertEqual(self._read({b"stream-ttl": value}).lifetime, Lifetime(ttl=ttl))
        for bad in (b"", b"abc", b"-1", b"00060", b"+60", b"60.5", b"1e3", b"60, 60", b"60 "):
            self.assertRefused(Problem.MALFORMED_FIELD, self._read, {b"stream-ttl": bad})

    def test_expires_at(self) -> None:
        """Stream-Expires-At is parsed to its time and kept as text."""
        text = b"2026-11-24T13:00:00.25+01:00"
        self.assertEqual(
            self._read({b"stream-expires-at": text}).lifetime,
            Lifetime(expires_at=TODAY + 250, expires_at_text=text.decode()),
        )
        for bad in (
            *(b"", b"not-a-timestamp", b"2026-11-25", b"1896091200", b"2026-02-30T00:00:00Z"),
            # A time in the past, or the current one.
            *(b"2026-11-24T11:59:59.999Z", b"2026-11-24T12:00:00Z", b"1970-01-01T00:00:00Z"),
            b"2026-11-24T13:00:00+02:00",
        ):
            self.assertRefused(Problem.MALFORMED_FIELD, self._read, {b"stream-expires-at": bad})

    def test_both(self) -> None:
        """Stream-TTL and Stream-Expires-At exclude each other."""
        for ttl in (b"60", b"x"):
            header = {b"stream-ttl": ttl, b"stream-expires-at": b"2030-01-31T12:00:00Z"}
            self.assertRefused(Problem.MALFORMED_FIELD, self._read, header)

    def test_encoding(self) -> None:
        """Content-Encoding is refused, since bodies are stored as sent."""
        for fine in (b"", b"identity", b"Identity", b" identity "):
            self._read({b"content-encoding": fine})
        for coded in (b"gzip", b"identity, gzip", b"br", b"x"):
            for read in (self._read, _parse_append):
                refusal = self.assertRefused(
                    Problem.UNSUPPORTED_ENCODING, read, {b"content-encoding": coded}
                )
                self.assertIn((b"Accept-Encoding", b"identity"), refusal.headers)


class AppendFieldsTests(RefusalTestCase):
    """Headers of POST."""

    def test_nothing(self) -> None:
        """All headers are optional."""
        self.assertEqual(_parse_append({}), Append("a", None, None))

    def test_all(self) -> None:
        """All headers together are parsed."""
        header = {
            **PRODUCER,
            b"content-type": b"text/plain",
            b"stream-closed": b"True",
            b"stream-seq": b"009\xff",
        }
        self.assertEqual(
            _parse_append(header),
            Append("a", "text/plain", None, True, b"009\xff", ProducerClaim("p", 0, 7)),
        )

    def test_stream_seq(self) -> None:
        """Stream-Seq is a non-empty string of bounded length without control characters."""
        for value in (b"0", b"a B", b"\xff", b"1, 2", b"a" * MAX_TOKEN):
            self.assertEqual(_parse_append({b"stream-seq": value}).stream_seq, value)
        for bad in (b"", b"a" * (MAX_TOKEN + 1), b"a\nb", b"\0"):
            self.assertRefused(Problem.MALFORMED_FIELD, _parse_append, {b"stream-seq": bad})

    def test_all_producer_fields_or_none(self) -> None:
        """Producer headers must be sent together, even with empty values."""
        names = list(PRODUCER)
        for chosen in range(1, 7):
            header = {name: PRODUCER[name] for bit, name in enumerate(names) if chosen & 1 << bit}
            self.assertRefused(Problem.MALFORMED_FIELD, _parse_append, header)
            empty = dict.fromkeys(header, b"")
            self.assertRefused(Problem.MALFORMED_FIELD, _parse_append, empty)

    def test_producer_fields(self) -> None:
        """Producer-Id is a string, epoch and sequence are counts."""
        for name, bad in (
            *[(b"producer-id", value) for value in (b"", b"p" * (MAX_TOKEN + 1), b"p\r\n", b"\0")],
            *[
                (name, value)
                for name in (b"producer-epoch", b"producer-seq")
                for value in (
                    b"",
                    b"1abc",
                    b"0xyz",
                    b"1e3",
                    b"-1",
                    b"1.0",
                    b"9007199254740992",
                    b"1, 1",
                )
            ],
        ):
            header = {**PRODUCER, name: bad}
            self.assertRefused(Problem.MALFORMED_FIELD, _parse_append, header)
        header = {
            b"producer-id": b"caf\xe9 1",
            b"producer-epoch": b"00",
            b"producer-seq": b"9007199254740991",
        }
        self.assertEqual(_parse_append(header).producer, ProducerClaim("café 1", 0, 2**53 - 1))

    @given(
        st.dictionaries(
            st.sampled_from(
                (
                    *(
                        b"content-type",
                        b"stream-closed",
                        b"stream-seq",
                        b"producer-id",
                        b"stream-ttl",
                    ),
                    *(
                        b"producer-epoch",
                        b"producer-seq",
                        b"content-encoding",
                        b"stream-expires-at",
                    ),
                )
            ),
            st.binary(max_size=12) | st.sampled_from((b"0", b"true", b"a/b", b"p")),
        )
    )
    def test_any_header(self, header: dict[bytes, bytes]) -> None:
        """Any values are parsed or refused with 400."""
        for read in (
            _parse_append,
            lambda header: parsing.parse_create(header, TODAY, ROOT),
        ):
            try:
                read(header)
            except Refused as refused:
                self.assertIn(refused.refusal.problem.status, (400, 415))
