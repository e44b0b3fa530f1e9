"""Decoder of chunked bodies (RFC 9112 §7.1), strict and incremental.

    chunked-body = *chunk last-chunk trailer-section CRLF
    chunk        = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
    last-chunk   = 1*("0") [ chunk-ext ] CRLF

Extensions and trailers are parsed to find the end of the body, and discarded: nothing checks
trailers as headers are checked. A trailer that frames a message is refused, since a proxy might
believe it (RFC 9110 §6.5.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from durable_streams_tw.http import refusals
from durable_streams_tw.http.header_fields import FIELD_LINE
from durable_streams_tw.http.limits import MAX_CHUNK_LINE, MAX_FIELDS, MAX_HEAD
from durable_streams_tw.http.problems import body_too_large
from durable_streams_tw.http.refusals import refused

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_FRAMING: Final = re.compile(rb"(?:content-length|transfer-encoding):", re.IGNORECASE)
_CRLF: Final = b"\r\n"

# The part of the body that the next bytes belong to.
_SIZE, _DATA, _DATA_END, _TRAILERS, _NOTHING = range(5)


@dataclass(slots=True, eq=False)
class ChunkedBody:
    """Decoder of one chunked body of at most ``limit`` bytes.

    ``body`` holds the decoded bytes. Its user may empty it at any time.
    """

    _limit: int
    body: bytearray = field(default_factory=bytearray)
    _next: int = _SIZE
    _left: int = 0
    _size: int = 0
    _line: bytearray = field(default_factory=bytearray)
    _trailers: int = 0
    _trailer_bytes: int = 0

    @property
    def complete(self) -> bool:
        """True once the body and its trailers have ended."""
        return self._next == _NOTHING

    def feed(self, data: bytes, start: int) -> int:
        """Decode ``data`` from ``start`` on, and return where decoding stopped.

        It stops before the end of ``data`` only if the body is complete. Raises `Refused`.
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
                start = self._feed_line(data, start)
        return start

    def _feed_line(self, data: bytes, start: int) -> int:
        stop = data.find(b"\n", start) + 1
        complete = stop > 0
        if not complete:
            stop = len(data)
        left = (MAX_HEAD if self._next == _TRAILERS else MAX_CHUNK_LINE) - len(self._line)
        if stop - start > left:
            in_trailers = self._next == _TRAILERS
            raise refused(refusals.HEAD_TOO_LARGE if in_trailers else refusals.BAD_CHUNK_SIZE)
        if complete and not self._line:
            self._read_line(data[start:stop])
        else:
            self._line += memoryview(data)[start:stop]
            if complete:
                line = bytes(self._line)
                self._line.clear()
                self._read_line(line)
        return stop

    def _read_line(self, line: bytes) -> None:
        if self._next == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise refused(refusals.BAD_CHUNK_SIZE)
            self._left = int(match[1], 16)
            if self._size + self._left > self._limit:
                raise refused(body_too_large(self._limit))
            self._next = _DATA if self._left else _TRAILERS
        elif self._next == _DATA_END:
            if line != _CRLF:
                raise refused(refusals.BAD_CHUNK_END)
            self._next = _SIZE
        elif line == _CRLF:
            self._next = _NOTHING
        else:
            self._trailers += 1
            self._trailer_bytes += len(line)
            if self._trailers > MAX_FIELDS or self._trailer_bytes > MAX_HEAD:
                raise refused(refusals.HEAD_TOO_LARGE)
            if FIELD_LINE.fullmatch(line) is None or _FRAMING.match(line):
                raise refused(refusals.BAD_TRAILER)
