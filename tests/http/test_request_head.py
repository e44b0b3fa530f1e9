"""Tests of `durable_streams_tw.http.request_head` and `header_fields`."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.header_fields import CLOSING, SINGLE
from durable_streams_tw.http.limits import MAX_HEAD
from durable_streams_tw.http.request_head import (
    CHUNKED,
    HeadContext,
    RequestHead,
    check_start,
    read_head,
)
from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.streams.commands import Append
from tests.http.malformed.builders import GET, HOST, LINE, get, post
from tests.http.malformed.table import ROWS

AROUND = HeadContext(b"/v1/stream/", 1_000, local_address=b"127.0.0.1:4437")


def head_of(target: bytes, *fields: bytes, around: HeadContext = AROUND) -> RequestHead:
    """Return the head of a GET."""
    lines = [b"GET " + target + b" HTTP/1.1", *fields, b"", b""]
    return read_head(b"\r\n".join(lines), around)


class UrlTests(SynchronousTestCase):
    """URLs of requests."""

    def test_parts(self) -> None:
        """Root, path and query stay as sent."""
        head = head_of(b"/v1/stream/a%2Fb//c?offset=-1?&x=%20", b"Host: a.example:80")
        self.assertEqual((head.root, head.path), (b"/v1/stream/", b"a%2Fb//c"))
        self.assertEqual(head.query, b"offset=-1?&x=%20")
        self.assertEqual(head.url, b"http://a.example:80/v1/stream/a%2Fb//c")

    def test_secure(self) -> None:
        """Over TLS the scheme is https."""
        around = HeadContext(b"/v1/stream/", 1_000, secure=True)
        self.assertEqual(head_of(b"/v1/stream/s", b"Host: a", around=around).url[:9], b"https://a")

    def test_absolute(self) -> None:
        """The authority of the target overrides Host (RFC 9112 §3.2.2)."""
        head = head_of(b"http://b.example/v1/stream/s?x", b"Host: a")
        self.assertEqual((head.path, head.query), (b"s", b"x"))
        self.assertEqual(head.url, b"http://b.example/v1/stream/s")

    def test_no_host(self) -> None:
        """HTTP/1.0 without Host gets the local address."""
        head = read_head(b"GET /v1/stream/s HTTP/1.0\r\n\r\n", AROUND)
        self.assertEqual(head.url, b"http://127.0.0.1:4437/v1/stream/s")

    def test_proxy(self) -> None:
        """Forwarded headers count only with ``trust_proxy``."""
        fields = (b"Host: a", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: b")
        self.assertEqual(head_of(b"/v1/stream/s", *fields).url, b"http://a/v1/stream/s")
        around = HeadContext(b"/v1/stream/", 1_000, trust_proxy=True)
        url = head_of(b"/v1/stream/s", *fields, around=around).url
        self.assertEqual(url, b"https://b/v1/stream/s")


class FramingTests(SynchronousTestCase):
    """Length of the body, and persistence."""

    def test_lengths(self) -> None:
        """No body, Content-Length, chunked."""
        for fields, length in (
            ((), 0),
            ((b"Content-Length: 5",), 5),
            ((b"Content-Length: 0",), 0),
            ((b"Content-Length: 005",), 5),
            ((b"Transfer-Encoding: chunked",), CHUNKED),
        ):
            self.assertEqual(read_head(post(*fields), AROUND).length, length)

    def test_keeping(self) -> None:
        """HTTP/1.1 is persistent by default, HTTP/1.0 is not."""
        for version, connection, keep in (
            (b"1", b"", True),
            (b"1", b"Connection: close\r\n", False),
            (b"1", b"Connection: a,\tCLOSE\r\n", False),
            (b"0", b"", False),
            (b"0", b"Connection: Keep-Alive\r\n", True),
            (b"0", b"Connection: keep-alive, close\r\n", False),
        ):
            raw = b"GET /v1/stream/s HTTP/1." + version + b"\r\n" + HOST + connection + b"\r\n"
            self.assertEqual(read_head(raw, AROUND).keep_alive, keep, raw)

    def test_single_fields(self) -> None:
        """Exactly the single-valued headers are refused when sent twice."""
        for name in SINGLE - CLOSING:
            self.assertIsNone(head_of(b"/v1/stream/s", b"Host: a", name + b": 1").refusal)
            head = head_of(b"/v1/stream/s", b"Host: a", name + b": 1", name.upper() + b": 1")
            assert head.refusal is not None
            self.assertIs(head.refusal.problem, Problem.MALFORMED_FIELD)
        head = head_of(
            b"/v1/stream/s", b"Host: a", b"X: 1", b"X: 2", b"If-None-Match: a", b"Via: b"
        )
        self.assertIsNone(head.refusal)


LENGTH, SEQ = b"Content-Length: 10", b"Producer-Seq: 7"
PRODUCER = (b"Producer-Id: p", b"Producer-Epoch: 0")

# Heads that may come before others on their connection.
EARLIER = (
    post(LENGTH),
    post(LENGTH, *PRODUCER, SEQ),
    post(*PRODUCER, SEQ, b"content-length:\t3 ", b"Origin: https://a.example"),
    post(LENGTH, SEQ, b"Expect: 100-continue"),
    post(LENGTH, b"Connection: close"),
    post(LENGTH, b"X-Content-Length: 1", b"Producer-Seq-X: 2", b"X: Producer-Seq: 1"),
    post(LENGTH, b"Upgrade: h2c"),
    post(SEQ, SEQ, LENGTH),
    post(SEQ, b"Content-Length: 0"),
    post(SEQ, b"Transfer-Encoding: chunked"),
    LINE.replace(b"1.1", b"1.0") + HOST + LENGTH + b"\r\n\r\n",
    b"POST http://b.example/v1/stream/s HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n\r\n",
    get(),
)

NUMBERS = st.sampled_from(
    [b"", b"0", b"5", b"05", b"123456", b"9" * 18, b"9" * 19, b"+1", b"1,1", b"1 1", b"-1", b"a"]
)
NUMBER_NAMES = [b"Content-Length: ", b"content-length:", b"Producer-Seq: ", b"PRODUCER-SEQ:\t"]
NUMBER_LINES = st.builds(
    lambda name, number, end: name + number + end,
    st.sampled_from(NUMBER_NAMES),
    NUMBERS,
    st.sampled_from([b"", b" ", b"\t"]),
)
OTHER_LINES = st.sampled_from(
    [b"Host: b", b"Expect: 100-continue", b"Upgrade: h2c", b"Origin: o", b"X: 1", *PRODUCER]
)
HEADS = st.lists(NUMBER_LINES | OTHER_LINES, max_size=4).map(lambda fields: post(*fields))


def outcome(raw: bytes, last: RequestHead | None = None) -> tuple[Any, ...]:
    """Return everything that a head says, or its refusal."""
    try:
        head = read_head(raw, AROUND, last)
    except Refused as fault:
        return fault.refusal.problem, fault.refusal.detail, getattr(fault, "origin", None)
    assert raw == head.line + head.section.block
    names = [name for name in head.__struct_fields__ if name != "section"]
    return tuple(getattr(head, name) for name in names)


def head_or_none(raw: bytes) -> RequestHead | None:
    """Return a head if it can be read, with a memo that no other head may have."""
    try:
        head = read_head(raw, AROUND)
    except Refused:
        return None
    head.memo.append = Append("earlier", None, None)
    return head


class RepeatedTests(SynchronousTestCase):
    """Reuse of an earlier head does not change the result."""

    def test_table(self) -> None:
        """Every hostile head after every earlier one."""
        earlier = [head_or_none(raw) for raw in EARLIER]
        self.assertNotIn(None, earlier)
        heads = [row.data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for row in ROWS]
        for raw in {*heads, *EARLIER}:
            expected = outcome(raw)
            for last in earlier:
                self.assertEqual(outcome(raw, last), expected, (raw, last))

    @given(HEADS, HEADS)
    @example(post(LENGTH, SEQ), post(b"Content-Length: 9", b"Producer-Seq: 8"))
    @example(post(SEQ, LENGTH), post(SEQ, LENGTH, LENGTH))
    @example(post(LENGTH), post(b"Content-Length: 1", b"Content-Length: 2"))
    @example(post(LENGTH), post(b"Content-Length: 5000"))
    def test_numbers(self, first: bytes, second: bytes) -> None:
        """Headers that differ in numbers, or nearly."""
        last = head_or_none(first)
        self.assertEqual(outcome(second, last), outcome(second))

    def test_numbers_alone(self) -> None:
        """If only numbers differ, nothing else is parsed again."""
        head = read_head(post(LENGTH, *PRODUCER, SEQ), AROUND)
        for number in range(8, 12):
            seq = b"Producer-Seq: %d" % number
            raw = post(b"Content-Length: %d" % number, *PRODUCER, seq)
            before, head = head, read_head(raw, AROUND, head)
            self.assertEqual(head.length, number)
            self.assertEqual(head.headers[b"producer-seq"], b"%d" % number)
            self.assertIs(head.section.base, before.section.base)
            self.assertIs(head.line, before.line)


class StartTests(SynchronousTestCase):
    """Incomplete heads."""

    def test_early_refusal(self) -> None:
        """A head that cannot become valid is refused before it ends."""
        for start in (
            b"\x16\x03\x01",
            b"GET /\n",
            b"GET / HTTP/1.1\n",
            b"GET /\r\n",
            b"GET / HTTP/2.0\r\n",
            GET + b"Host: a\n",
            GET + b"Host: a\rX",
            GET + b"X" * MAX_HEAD,
            b"G" * MAX_HEAD,
        ):
            self.assertRaises(Refused, check_start, bytearray(start), 0, False)

    def test_not_too_early(self) -> None:
        """No prefix of a valid head is refused."""
        for data in (get(b"X: y", b"Accept: \t*/*"), get(b"X: " + b"y" * 3_000)):
            seen, line = 0, False
            for end in range(1, len(data)):
                line = check_start(bytearray(data[:end]), seen, line)
                seen = end

    def test_byte_by_byte(self) -> None:
        """Checking a head byte by byte takes time linear in its length."""
        data = bytearray()
        line, began = False, time.process_time()
        for number in range(MAX_HEAD - 1):
            data.append(0x61)
            line = check_start(data, number, line)
        self.assertFalse(line)
        self.assertLess(time.process_time() - began, 2)
