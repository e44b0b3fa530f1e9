"""Tests of `durable_streams_tw.http.http2.heads`."""

from __future__ import annotations

from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http import limits
from durable_streams_tw.http.http2.frames import Code, ConnectionFault
from durable_streams_tw.http.http2.heads import HeadReader, HeadWriter, RawFields, integer
from durable_streams_tw.http.messages import NO_HEADERS, CommonHeaders, InvalidHeader
from durable_streams_tw.http.request_head import HeadContext, RequestHead
from durable_streams_tw.http.response_headers import with_content
from durable_streams_tw.protocol.errors import Problem, Refused

AROUND = HeadContext(b"/s/", 1_000, secure=True)
GET: RawFields = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a:1"),
    (b":path", b"/s/x?y"),
]
DATE = b"Sat, 28 Nov 2026 17:50:35 GMT"


def head_of(*fields: tuple[bytes, bytes]) -> RequestHead:
    """Return the head of these headers."""
    return HeadReader(AROUND).read(Encoder().encode(list(fields)))


def decoded(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of a field block."""
    return [(bytes(name), bytes(value)) for name, value, *_ in decoder.decode(block, raw=True)]


class ReaderTests(SynchronousTestCase):
    """Field blocks to heads."""

    def test_request(self) -> None:
        """A head equals that of the same HTTP/1.1 request."""
        head = head_of(*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"accept", b"x/y"))
        self.assertEqual((head.method, head.path, head.query), (b"GET", b"x", b"y"))
        self.assertEqual((head.url, head.is_stream, head.length), (b"https://a:1/s/x", True, 0))
        self.assertEqual(
            dict(head.headers), {b"host": b"a:1", b"cookie": b"a=1; b=2", b"accept": b"x/y"}
        )

    def test_routing(self) -> None:
        """All targets below the root go to the request handler, except operator resources."""
        for path, stream in (
            (b"/s/x", True),
            (b"/s/__ds/y", True),
            (b"/s/", True),
            (b"/s", False),
            (b"/-/ready", False),
            (b"/t/x", False),
        ):
            self.assertEqual(head_of(*GET[:3], (b":path", path)).is_stream, stream)
        operators = HeadReader(HeadContext(b"/", 1_000))
        block = Encoder().encode([*GET[:3], (b":path", b"/-/ready")])
        self.assertFalse(operators.read(block).is_stream)

    def test_refused(self) -> None:
        """Heads that HTTP/2 forbids, or that could smuggle an HTTP/1.1 request, are malformed."""
        method, scheme, authority, path = GET
        for fields in (
            [],
            [scheme, authority, path],
            [method, authority, path],
            [method, scheme, authority],
            [*GET, method],
            [*GET, (b":status", b"200")],
            [*GET, (b":protocol", b"websocket")],
            [method, scheme, (b"accept", b"x/y"), authority, path],
            [method, (b":scheme", b"ftp"), authority, path],
            [method, scheme, authority, (b":path", b"")],
            [method, scheme, authority, (b":path", b"s/x")],
            [method, scheme, authority, (b":path", b"*")],
            [method, scheme, authority, (b":path", b"https://a:1/s/x")],
            [method, scheme, authority, (b":path", b"/s/a b")],
            [method, scheme, authority, (b":path", b"/s/x HTTP/1.1\r\nX: y")],
            [method, scheme, authority, (b":path", b"/s/x#y")],
            [(b":method", b"GET /s/y HTTP/1.1\r\nX:"), scheme, authority, path],
            [(b":method", b"G T"), scheme, authority, path],
            [method, scheme, path],
            [method, scheme, (b":authority", b""), path],
            [method, scheme, (b":authority", b"user@a"), path],
            [method, scheme, (b":authority", b"a\r\nX: y"), path],
            [*GET, (b"host", b"b")],
            [*GET, (b"host", b"a:1"), (b"host", b"a:1")],
            [*GET, (b"Accept", b"x/y")],
            [*GET, (b"", b"x")],
            [*GET, (b"x:y", b"z")],
            [*GET, (b"x y", b"z")],
            [*GET, (b"x\r\ny", b"z")],
            [*GET, (b"x", b"y\r\nz: a")],
            [*GET, (b"x", b"y\nz: a")],
            [*GET, (b"x", b"y\0z")],
            [*GET, (b"x", b" y")],
            [*GET, (b"x", b"y\t")],
            [*GET, (b"connection", b"close")],
            [*GET, (b"keep-alive", b"x")],
            [*GET, (b"proxy-connection", b"x")],
            [*GET, (b"transfer-encoding", b"chunked")],
            [*GET, (b"upgrade", b"h2c")],
            [*GET, (b"te", b"gzip")],
            [*GET, (b"content-length", b"x")],
            [*GET, (b"content-length", b"1"), (b"content-length", b"1")],
            [(b":method", b"CONNECT"), authority],
        ):
            refused = self.assertRaises(Refused, head_of, *fields)
            self.assertEqual(refused.refusal.problem, Problem.MALFORMED_REQUEST, fields)

    def test_taken(self) -> None:
        """Unusual valid heads are read."""
        method, scheme, _, path = GET
        self.assertEqual(head_of(method, scheme, path, (b"host", b"a:1")).url, b"https://a:1/s/x")
        self.assertEqual(head_of(*GET, (b"host", b"A:1")).url, b"https://a:1/s/x")
        self.assertEqual(head_of(*GET, (b"te", b"trailers")).headers[b"te"], b"trailers")
        self.assertTrue(head_of(*GET, (b"expect", b"100-continue")).expects_continue)

    def test_sizes(self) -> None:
        """The limits are those of HTTP/1.1."""
        many = [(b"x%d" % number, b"y") for number in range(limits.MAX_FIELDS)]
        self.assertEqual(len(head_of(*GET, *many[:-1]).headers), limits.MAX_FIELDS)
        for fields, problem in (
            ([*GET, *many], Problem.HEAD_TOO_LARGE),
            ([*GET, (b"x", b"y" * limits.MAX_HEAD)], Problem.HEAD_TOO_LARGE),
            ([*GET[:3], (b":path", b"/" * limits.MAX_HEAD)], Problem.TARGET_TOO_LONG),
            ([*GET, (b"content-length", b"1001")], Problem.BODY_TOO_LARGE),
        ):
            refused = self.assertRaises(Refused, head_of, *fields)
            self.assertEqual(refused.refusal.problem, problem)

    def test_decompression_bomb(self) -> None:
        """A small block that decodes to a large head ends the connection."""
        reader = HeadReader(AROUND)
        encoder = Encoder()
        reader.skip(encoder.encode([(b"x", b"y" * 4_000)]))
        bomb = encoder.encode([(b"x", b"y" * 4_000)] * 1_000)
        self.assertLess(len(bomb), 2_000)
        fault = self.assertRaises(ConnectionFault, reader.skip, bomb)
        self.assertEqual(fault.code, Code.ENHANCE_YOUR_CALM)

    def test_garbage(self) -> None:
        """A malformed block ends the connection."""
        for block in (b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\x00\x05ab", b"\x3f\xff\xff\x7f"):
            fault = self.assertRaises(ConnectionFault, HeadReader(AROUND).read, block)
            self.assertEqual(fault.code, Code.COMPRESSION_ERROR)

    def test_remembered(self) -> None:
        """Equal blocks are decoded once, as long as they mean the same."""
        reader, encoder = HeadReader(AROUND), Encoder()
        first = reader.read(encoder.encode(GET))
        block = encoder.encode(GET)
        again = reader.read(block)
        self.assertEqual(again, first)
        self.assertIs(reader.read(block), again)
        # From here on, every index in the block refers to another field.
        reader.skip(encoder.encode([(b":path", b"/s/other")]))
        self.assertEqual(reader._known, {})
        self.assertEqual(reader.read(encoder.encode(GET)), first)

    def test_resized(self) -> None:
        """A change of the table invalidates cached blocks."""
        reader, encoder = HeadReader(AROUND), Encoder()
        reader.read(encoder.encode(GET))
        block = encoder.encode(GET)
        reader.read(block)
        reader.skip(b"\x20")
        self.assertRaises(ConnectionFault, reader.read, block)

    def test_decoder_table(self) -> None:
        """hpack keeps its table where `HeadReader` reads it."""
        reader = HeadReader(AROUND)
        self.assertEqual(len(reader._table), 0)
        reader.skip(Encoder().encode([(b"x", b"y")]))
        self.assertEqual(list(reader._table), [(b"x", b"y")])
        self.assertIs(reader._table, reader._decoder.header_table.dynamic_entries)


class WriterTests(SynchronousTestCase):
    """Responses to field blocks."""

    def test_responses(self) -> None:
        """A client decodes the headers of the first and of later responses."""
        writer, decoder = HeadWriter(), Decoder()
        some = CommonHeaders((b"Vary", b"Origin"), (b"X-A", b"1" * 200))
        other = CommonHeaders((b"X-B", b"2"), (b"Vary", b"Origin"))
        large = CommonHeaders((b"X-C", b"3" * 5_000))
        sizes = []
        for common in (some, some, other, some, other, NO_HEADERS, large, some):
            block = writer.write(200, [(b"ETag", b'"x"')], common, 5, DATE)
            self.assertEqual(
                decoded(decoder, block),
                [
                    (b":status", b"200"),
                    (b"date", DATE),
                    (b"etag", b'"x"'),
                    *[(name.lower(), value) for name, value in common.headers],
                    (b"content-length", b"5"),
                ],
            )
            sizes.append(len(block))
        self.assertEqual((sizes[1], sizes[3], sizes[7]), (sizes[1],) * 3)
        self.assertLess(sizes[1], sizes[0] - 200)

    def test_content_types(self) -> None:
        """Any number of content types leaves the client's table to the headers of all responses."""
        writer, decoder = HeadWriter(), Decoder()
        every = CommonHeaders((b"X-A", b"1" * 200))

        def size_of(content_type: str) -> int:
            block = writer.write(200, [], with_content(every, content_type), None, DATE)
            self.assertIn((b"content-type", content_type.encode()), decoded(decoder, block))
            return len(block)

        size_of("text/plain")
        sizes = {size_of(f"text/{number:04}") for number in (*range(100), *range(100))}
        self.assertEqual(len(sizes), 2, "the first with Content-Disposition is longer")
        table = decoder.header_table.dynamic_entries
        self.assertNotIn(b"content-type", [bytes(name) for name, _ in table])
        self.assertLess(len(writer.write(200, [], every, None, DATE)), 60)

    def test_statuses(self) -> None:
        """Every status can be encoded."""
        for status in range(200, 600):
            block = HeadWriter().write(status, [], NO_HEADERS, None, DATE)
            self.assertEqual(
                decoded(Decoder(), block), [(b":status", b"%d" % status), (b"date", DATE)]
            )

    def test_small_table(self) -> None:
        """A client without a table gets literals only."""
        writer, decoder = HeadWriter(), Decoder()
        common = CommonHeaders((b"Vary", b"Origin"))
        decoded(decoder, writer.write(200, [], common, None, DATE))
        writer.limit_table(100)
        decoder.max_allowed_table_size = 100
        for _ in range(2):
            fields = decoded(decoder, writer.write(200, [], common, None, DATE))
            self.assertEqual(fields[-1], (b"vary", b"Origin"))

    def test_torn(self) -> None:
        """A header with a line break raises `InvalidHeader`."""
        for value in (b"a\r\nX: y", b"a\nb", b"a\rb", b"a\0b"):
            writer = HeadWriter()
            headers = [(b"X", value)]
            self.assertRaises(InvalidHeader, writer.write, 200, headers, NO_HEADERS, 0, DATE)

    @given(st.lists(st.tuples(st.from_regex(rb"[A-Z][a-z-]{0,200}", fullmatch=True), st.binary())))
    def test_any(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Names and values of any length are decoded as they were."""
        own = [(name, value.translate(None, b"\r\n\0")) for name, value in fields]
        block = HeadWriter().write(200, own, NO_HEADERS, None, DATE)
        self.assertEqual(
            decoded(Decoder(), block)[2:], [(name.lower(), value) for name, value in own]
        )

    def test_integers(self) -> None:
        """The examples of RFC 7541 §C.1."""
        self.assertEqual(integer(10, 5), b"\x0a")
        self.assertEqual(integer(1337, 5), b"\x1f\x9a\x0a")
        self.assertEqual(integer(42, 8), b"\x2a")
