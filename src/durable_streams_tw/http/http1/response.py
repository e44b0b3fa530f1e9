"""Encoding of HTTP/1.1 responses (RFC 9112 §4, §6, §7.1).

All bytes of responses are built here, so that header values are checked in one place: a response
with a line break in a header is not sent.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from durable_streams_tw.http.messages import NO_BODY, InvalidHeader, Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_PHRASES: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

# Bytes as integers, which ``in`` finds in a third of the time.
_LF: Final = ord("\n")
_CR: Final = ord("\r")

_CLOSE: Final = b"Connection: close\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"


class StatusLines(dict[int, bytes]):
    """Status line and Date header of each status, without the last CR LF, renewed once a second."""

    _second = -1
    _date = b""

    def tick(self, now: float) -> None:
        """Set the time, in seconds since the Unix epoch."""
        if int(now) != self._second:
            self._second = int(now)
            self._date = formatdate(self._second, usegmt=True).encode("ascii")
            self.clear()

    def __missing__(self, status: int) -> bytes:
        phrase = _PHRASES.get(status, b"")
        line = self[status] = b"HTTP/1.1 %d %b\r\nDate: %b" % (status, phrase, self._date)
        return line


def encode_response(
    status_line: bytes,
    response: Response,
    body: bytes,
    *,
    bodiless: bool,
    http10: bool,
    last: bool,
) -> tuple[bytes, bytes]:
    """Return the head of a response, and the part of its body that is sent.

    ``bodiless`` is true for a HEAD request, ``last`` if the connection closes after the response.
    Raises `InvalidHeader`.
    """
    if last:
        persistence = _CLOSE
    elif http10:
        persistence = _KEEP_ALIVE
    else:
        persistence = b""
    parts = _head_parts(status_line, response)
    if response.status in NO_BODY:
        parts += (persistence, b"\r\n")
        return b"".join(parts), b""
    # A handler that returns no body for HEAD does not know the length of the GET.
    length = b"" if bodiless and not body else b"Content-Length: %d\r\n" % len(body)
    parts += (persistence, length, b"\r\n")
    return b"".join(parts), b"" if bodiless else body


def encode_streamed_head(
    status_line: bytes, response: Response, size: int | None, *, http10: bool, last: bool
) -> bytes:
    """Return the head of a response whose body is streamed.

    ``size`` is the length of the body in bytes. If it is None, the body is chunked, or, for
    HTTP/1.0, ends when the connection closes. Raises `InvalidHeader`.
    """
    if size is not None:
        coding = b"Content-Length: %d\r\n" % size
        persistence = _CLOSE if last else _KEEP_ALIVE if http10 else b""
    else:
        coding = b"" if http10 else b"Transfer-Encoding: chunked\r\n"
        persistence = _CLOSE if last or http10 else b""
    parts = _head_parts(status_line, response)
    parts += (persistence, coding, b"\r\n")
    return b"".join(parts)


def encode_chunk(data: bytes) -> bytes:
    """Return bytes as one chunk. Empty bytes would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head_parts(status_line: bytes, response: Response) -> list[bytes]:
    """Return the parts of a head before the headers that the connection adds."""
    parts = [status_line]
    for name, value in response.own:
        if _LF in value or _CR in value or _LF in name or _CR in name:
            raise InvalidHeader(f"a header of a {response.status} response has a line break")
        parts += (b"\r\n", name, b": ", value)
    parts += (b"\r\n", response.common.lines)
    return parts
