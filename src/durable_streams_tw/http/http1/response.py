"""Responses become bytes (RFC 9112 §4, §6, §7.1).

The one place where bytes for clients are built. What comes from elsewhere, field values above
all, is checked here: an answer whose head would be torn is not sent.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from durable_streams_tw.http.messages import Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_NO_BODY: Final = frozenset((204, 304))
_PHRASES: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

_CLOSE: Final = b"Connection: close\r\n"
_KEEP: Final = b"Connection: keep-alive\r\n"


class InvalidHeader(ValueError):
    """A field of a response has bytes that would end its line."""


class StatusLines:
    """First lines of answers: the status, and the Date, which is made once a second."""

    __slots__ = ("_date", "_known", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._date = b""
        self._known: dict[int, bytes] = {}

    def tick(self, now: float) -> None:
        """Tell the time, in seconds since 1970."""
        if int(now) != self._second:
            self._second = int(now)
            self._date = formatdate(self._second, usegmt=True).encode("ascii")
            self._known.clear()

    def opening(self, status: int) -> bytes:
        """Status line and Date, without the last line's end."""
        known = self._known.get(status)
        if known is None:
            phrase = _PHRASES.get(status, b"")
            known = b"HTTP/1.1 %d %b\r\nDate: %b" % (status, phrase, self._date)
            self._known[status] = known
        return known


def whole(
    opening: bytes, response: Response, body: bytes, *, bodiless: bool, old: bool, last: bool
) -> tuple[bytes, bytes]:
    """A whole answer: its head, and what goes out of its body.

    ``bodiless`` says that the request was a HEAD, ``old`` that it was of HTTP/1.0, ``last``
    that the connection ends. Raises `InvalidHeader`.
    """
    if last:
        persistence = _CLOSE
    elif old:
        persistence = _KEEP
    else:
        persistence = b""
    lines = _lines(opening, response)
    common = response.common.lines
    if response.status in _NO_BODY:
        return b"".join((lines, common, persistence, b"\r\n")), b""
    if bodiless:
        # Of what is not there, the length is not known either.
        length = b"Content-Length: %d\r\n\r\n" % len(body) if body else b"\r\n"
        return b"".join((lines, common, persistence, length)), b""
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"".join((lines, common, persistence, length)), body


def live(opening: bytes, response: Response, size: int | None, *, old: bool, last: bool) -> bytes:
    """Return the head of an answer whose body comes in pieces.

    ``size`` is its length. Where it is None the body is sent in chunks, but to HTTP/1.0 until the
    connection closes. Raises `InvalidHeader`.
    """
    if size is not None:
        coding = b"Content-Length: %d\r\n" % size
        persistence = _CLOSE if last else _KEEP if old else b""
    else:
        coding = b"" if old else b"Transfer-Encoding: chunked\r\n"
        persistence = _CLOSE if last or old else b""
    lines = _lines(opening, response)
    return b"".join((lines, response.common.lines, persistence, coding, b"\r\n"))


def chunk(data: bytes) -> bytes:
    """Bytes, of which there are some, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _lines(opening: bytes, response: Response) -> bytes:
    """What an answer begins with, up to and with its own fields."""
    fields = response.own
    lines = b"\r\n".join((opening, *map(b": ".join, fields), b""))
    # An opening is two lines, a field one; anything in a field that ends a line makes more. To
    # split them is less work than to count the ends, of which there are two kinds.
    if len(lines.splitlines()) != len(fields) + 2:
        raise InvalidHeader(f"a field of a {response.status} answer has a line's end in it")
    return lines
