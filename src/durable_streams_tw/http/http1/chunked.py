"""A body in chunks (RFC 9112 §7.1), read strictly and in any pieces.

    chunked-body = *chunk last-chunk trailer-section CRLF
    chunk        = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
    last-chunk   = 1*("0") [ chunk-ext ] CRLF

Extensions and trailers are read to find where the body ends, and dropped: a trailer that
became a header field could say what nobody has checked. One that would say where a request
ends is refused, for somebody might believe it (RFC 9110 §6.5.1).
"""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.http.http1.fields import FIELD_LINE
from durable_streams_tw.http.http1.header_section import TOO_LARGE, body_too_large, refused
from durable_streams_tw.http.limits import MAX_CHUNK_LINE, MAX_FIELDS, MAX_HEAD
from durable_streams_tw.protocol.errors import Problem, Refusal

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_FRAMING: Final = re.compile(rb"(?:content-length|transfer-encoding):", re.IGNORECASE)
_CRLF: Final = b"\r\n"

_BAD_SIZE: Final = Refusal(Problem.MALFORMED_REQUEST, "the size of a chunk is malformed")
_BAD_END: Final = Refusal(Problem.MALFORMED_REQUEST, "a chunk does not end where it should")
_BAD_TRAILER: Final = Refusal(Problem.MALFORMED_REQUEST, "a trailer is malformed")

# What is expected next.
_SIZE, _DATA, _DATA_END, _TRAILERS, _NOTHING = range(5)


class ChunkedBody:
    """The body of one request as it comes. At most ``limit`` bytes of it are taken.

    ``body`` is what has come of it; its user may empty it in between.
    """

    __slots__ = (
        "_left",
        "_limit",
        "_line",
        "_next",
        "_size",
        "_trailer_bytes",
        "_trailers",
        "body",
    )

    def __init__(self, limit: int) -> None:
        self.body = bytearray()
        self._limit = limit
        self._next = _SIZE
        self._left = 0
        self._size = 0
        self._line = bytearray()
        self._trailers = 0
        self._trailer_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether the body and its trailers have ended."""
        return self._next == _NOTHING

    def take(self, data: bytes, start: int) -> int:
        """Read on in ``data`` from ``start``; returns where it stopped.

        That is before the end of ``data`` only if the body is complete. Raises `Refused`.
        """
        size = len(data)
        while start < size and self._next != _NOTHING:
            if self._next == _DATA:
                stop = min(start + self._left, size)
                self.body += memoryview(data)[start:stop]
                self._size += stop - start
                self._left -= stop - start
                start = stop
                if not self._left:
                    self._next = _DATA_END
            else:
                start = self._take_line(data, start)
        return start

    def _take_line(self, data: bytes, start: int) -> int:
        stop = data.find(b"\n", start) + 1
        whole = stop > 0
        if not whole:
            stop = len(data)
        room = (MAX_HEAD if self._next == _TRAILERS else MAX_CHUNK_LINE) - len(self._line)
        if stop - start > room:
            raise refused(TOO_LARGE if self._next == _TRAILERS else _BAD_SIZE)
        if whole and not self._line:
            self._read_line(data[start:stop])
        else:
            self._line += memoryview(data)[start:stop]
            if whole:
                line = bytes(self._line)
                self._line.clear()
                self._read_line(line)
        return stop

    def _read_line(self, line: bytes) -> None:
        if self._next == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise refused(_BAD_SIZE)
            self._left = int(match[1], 16)
            if self._size + self._left > self._limit:
                raise body_too_large(self._limit)
            self._next = _DATA if self._left else _TRAILERS
        elif self._next == _DATA_END:
            if line != _CRLF:
                raise refused(_BAD_END)
            self._next = _SIZE
        elif line == _CRLF:
            self._next = _NOTHING
        else:
            self._trailers += 1
            self._trailer_bytes += len(line)
            if self._trailers > MAX_FIELDS or self._trailer_bytes > MAX_HEAD:
                raise refused(TOO_LARGE)
            if FIELD_LINE.fullmatch(line) is None or _FRAMING.match(line):
                raise refused(_BAD_TRAILER)
