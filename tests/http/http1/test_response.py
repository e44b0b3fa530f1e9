"""Tests of `durable_streams_tw.http.http1.response`: responses as bytes."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.http1.response import (
    StatusLines,
    encode_chunk,
    encode_response,
    encode_streamed_head,
)
from durable_streams_tw.http.messages import InvalidHeader, Response

FIELDS = [(b"Stream-Next-Offset", b"0_1"), (b"Vary", b"Origin"), (b"Vary", b"Accept-Encoding")]
BLOCK = b"Stream-Next-Offset: 0_1\r\nVary: Origin\r\nVary: Accept-Encoding\r\n"


def written(response: Response, **kind: bool) -> bytes:
    """Return a response after a short status line."""
    assert isinstance(response.body, bytes)
    kinds: dict[str, Any] = {"bodiless": False, "http10": False, "last": False, **kind}
    return b"".join(encode_response(b"HTTP/1.1 1\r\nDate: d", response, response.body, **kinds))


OPENING = b"HTTP/1.1 1\r\nDate: d\r\n"


class WholeTests(SynchronousTestCase):
    """Responses whose body is bytes."""

    def test_body(self) -> None:
        """Headers in order, the length, the body."""
        self.assertEqual(
            written(Response(200, FIELDS, b"hello")),
            OPENING + BLOCK + b"Content-Length: 5\r\n\r\nhello",
        )
        self.assertEqual(written(Response(200, [])), OPENING + b"Content-Length: 0\r\n\r\n")

    def test_persistence(self) -> None:
        """Connection: close is sent to all clients, keep-alive to HTTP/1.0 alone."""
        for kind, line in (
            ({}, b""),
            ({"last": True}, b"Connection: close\r\n"),
            ({"http10": True}, b"Connection: keep-alive\r\n"),
            ({"http10": True, "last": True}, b"Connection: close\r\n"),
        ):
            self.assertEqual(
                written(Response(404, FIELDS, b"x"), **kind),
                OPENING + BLOCK + line + b"Content-Length: 1\r\n\r\nx",
            )
            self.assertEqual(
                written(Response(204, FIELDS), **kind), OPENING + BLOCK + line + b"\r\n"
            )

    def test_no_body(self) -> None:
        """204 and 304 have neither body nor length (RFC 9110 §8.6)."""
        for status in (204, 304):
            self.assertEqual(written(Response(status, FIELDS, b"x")), OPENING + BLOCK + b"\r\n")

    def test_head(self) -> None:
        """A response to HEAD has the length of the body if it is known."""
        body = Response(200, FIELDS, b"hello")
        self.assertEqual(
            written(body, bodiless=True), OPENING + BLOCK + b"Content-Length: 5\r\n\r\n"
        )
        self.assertEqual(
            written(Response(200, FIELDS), bodiless=True, last=True),
            OPENING + BLOCK + b"Connection: close\r\n\r\n",
        )

    def test_torn(self) -> None:
        """A header with a line break raises `InvalidHeader`."""
        for value in (b"a\r\nX: y", b"a\nb", b"a\rb", b"\r\n", b"a\r\n\r\n<html>"):
            for field in ((b"X", value), (value, b"y")):
                self.assertRaises(InvalidHeader, written, Response(200, [field]))
                self.assertRaises(InvalidHeader, written, Response(204, [*FIELDS, field]))
                response = Response(200, [field, *FIELDS])
                self.assertRaises(
                    InvalidHeader,
                    encode_streamed_head,
                    b"a\r\nb",
                    response,
                    None,
                    http10=False,
                    last=False,
                )


class LiveTests(SynchronousTestCase):
    """Responses whose body is streamed."""

    def test_head(self) -> None:
        """HTTP/1.1 gets chunks; for HTTP/1.0 the body ends with the connection."""
        response = Response(200, FIELDS)
        opening = b"HTTP/1.1 1\r\nDate: d"
        chunks, close = b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"
        size, keep = b"Content-Length: 700000\r\n", b"Connection: keep-alive\r\n"
        for length, old, last, lines in (
            (None, False, False, chunks),
            (None, False, True, close + chunks),
            (None, True, False, close),
            (None, True, True, close),
            (700_000, False, False, size),
            (700_000, False, True, close + size),
            (700_000, True, False, keep + size),
            (700_000, True, True, close + size),
        ):
            head = encode_streamed_head(opening, response, length, http10=old, last=last)
            self.assertEqual(head, OPENING + BLOCK + lines + b"\r\n")

    def test_chunk(self) -> None:
        """A chunk has its size in hexadecimal."""
        self.assertEqual(encode_chunk(b"x" * 26), b"1a\r\n" + b"x" * 26 + b"\r\n")


class OpeningTests(SynchronousTestCase):
    """Cache of status lines."""

    def test_date(self) -> None:
        """The Date is the time of the last tick (RFC 9110 §5.6.7)."""
        lines = StatusLines()
        lines.tick(784_111_777.9)
        first = lines[204]
        self.assertEqual(first, b"HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT")
        self.assertIs(lines[204], first)
        lines.tick(784_111_777.99)
        self.assertIs(lines[204], first)
        lines.tick(784_111_778)
        self.assertEqual(
            lines[404], b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT"
        )

    def test_unknown_status(self) -> None:
        """A status without a phrase keeps its space (RFC 9112 §4)."""
        lines = StatusLines()
        lines.tick(0)
        self.assertTrue(lines[299].startswith(b"HTTP/1.1 299 \r\nDate: Thu, 01 Jan"))
