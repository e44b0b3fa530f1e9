"""Splitting of responses into pieces, and of JSON arrays into messages (PROTOCOL.md §9.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from durable_streams_tw.client.errors import BadResponse, InvalidArgument

_ELEMENTS: Final = Decoder(list[Raw])
# Strings, brackets and commas: the only tokens that matter for splitting an array.
_MARKS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)


#: Minimum number of bytes that are collected before a piece is returned.
PIECE: Final = 256 * 1024

# Match up to the next structural character outside of strings: brackets within elements,
# brackets and commas between elements.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_INSIDE: Final = re.compile(
    rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL
)
_BETWEEN: Final = re.compile(
    rb'[^"\[\]{},]*+(?:' + _STRING + rb'[^"\[\]{},]*+)*+([\[\]{},])', re.DOTALL
)


_WHITE: Final = b" \t\r\n"
_GUESSES: Final = 3


class BytesCutter:
    """Collector of received bytes into pieces of at least about `PIECE` bytes.

    ``skip`` is the number of leading bytes to drop because they were returned before. ``whole``
    returns how many leading bytes of its argument can be separated from the bytes that follow.
    """

    def __init__(self, skip: int, whole: Callable[[bytes], int] = len) -> None:
        self._skip = skip
        self._whole = whole
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Add received bytes; return a piece, which may be empty, and its length in bytes."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        held = self._held
        if len(held) < PIECE or not data:
            self._held = held + data
            return b"", 0
        stop = self._whole(held)
        self._held = held[stop:] + data
        return held[:stop], stop

    def finish(self) -> bytes:
        """Return the remaining bytes. Raises `BadResponse` if fewer than ``skip`` were received."""
        if self._skip:
            raise BadResponse("the repeated response is shorter than the first one")
        return self._held


class ArrayCutter:
    """Splitter of a JSON array, received in pieces, into arrays of complete elements.

    ``skip`` is the number of leading elements to drop because they were returned before. A short
    array is returned unchanged and unchecked.
    """

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._buffer = bytearray()
        # Position from which the search continues, and its nesting depth, which is 0 before the
        # start and after the end of the array.
        self._position = self._depth = 0
        self._begun = False
        # Start of the elements not yet returned, end of the complete ones among them, and their
        # number.
        self._start = self._stop = self._count = 0
        self._due = PIECE

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Add received bytes; return an array of complete elements and their number.

        Return empty bytes and 0 if no element is due. Raises `BadResponse` if it is not an array.
        """
        self._buffer += data
        if len(self._buffer) < self._due:
            return b"", 0
        if not self._guess():
            self._search()
        run, count = b"", self._count
        if count:
            run = self._array(self._stop)
            self._start = self._stop + 1
        del self._buffer[: self._start]
        self._position -= self._start
        self._start = self._stop = self._count = 0
        # Parsing a long element again at each piece would take quadratic time: wait until the
        # buffer has doubled.
        self._due = max(PIECE, 2 * len(self._buffer))
        return run, count

    def finish(self) -> bytes:
        """Return the remaining elements as an array.

        Raises `BadResponse` if the array is incomplete or has fewer than ``skip`` elements.
        """
        buffer = self._buffer
        if not self._begun and not self._skip:
            return bytes(buffer)
        self._search()
        if self._depth or buffer[self._position :].strip(_WHITE):
            raise _no_array()
        end = self._position - 1
        if self._skip and buffer[self._start : end].strip(_WHITE):
            self._skip -= 1
            self._start = end
        if self._skip:
            raise BadResponse("the repeated response is shorter than the first one")
        return self._array(end)

    def _array(self, stop: int) -> bytes:
        return b"".join((b"[", self._buffer[self._start : stop], b"]"))

    def _guess(self) -> bool:
        """Find the end of the complete elements by parsing; return whether that succeeded.

        Tries the last commas that precede an element with the same first byte as the first
        element. The parser is much faster than `_search`. The bytes before a comma parse as an
        array only if the comma separates elements: within a string or a nested value, the closing
        character would be missing.
        """
        buffer = self._buffer
        if self._depth != 1 or self._position or self._skip:
            return False
        comma, stop = b"," + buffer[:1], len(buffer)
        for _ in range(_GUESSES):
            stop = buffer.rfind(comma, 0, stop)
            if stop < 0:
                break
            try:
                self._count = len(_ELEMENTS.decode(self._array(stop)))
            except (DecodeError, RecursionError):
                continue
            self._stop = self._position = stop
            self._position += 1
            return True
        return False

    def _search(self) -> None:
        """Find the complete elements, continuing at the end of the last search.

        Raises `BadResponse` if the bytes do not begin an array.
        """
        buffer = self._buffer
        if not self._begun:
            opening = _BETWEEN.match(buffer)
            if opening is None or opening[0].strip(_WHITE) != b"[":
                raise _no_array()
            self._begun, self._depth = True, 1
            self._start = self._position = opening.end()
        while self._depth:
            match = (_BETWEEN if self._depth == 1 else _INSIDE).match(buffer, self._position)
            if match is None:
                return
            self._position = match.end()
            mark = match[1]
            if mark == b",":
                if self._skip:
                    self._skip -= 1
                    self._start = self._position
                else:
                    self._stop = self._position - 1
                    self._count += 1
            elif mark in b"[{":
                self._depth += 1
            else:
                self._depth -= 1


def _no_array() -> BadResponse:
    return BadResponse("the response is not a JSON array")


def messages(document: bytes) -> list[bytes]:
    """Return the elements of a JSON array, byte for byte.

    Raises `BadResponse` if the document is not an array.
    """
    try:
        return [bytes(element) for element in _ELEMENTS.decode(document)]
    except (DecodeError, RecursionError):
        # The parser rejects lone surrogate escapes, which occur when the tokens of a language
        # model are split, and deep nesting. Both are valid messages: split without parsing.
        return _cut(document.strip(_WHITE))


def as_bytes(data: bytes | str) -> bytes:
    """Return data of a caller as bytes. Raises `InvalidArgument` for other types."""
    if isinstance(data, str):
        return data.encode()
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise InvalidArgument("data", f"must be bytes or str, not {type(data).__name__}") from None


def is_message(text: bytes) -> bool:
    """Return whether the bytes are exactly one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def on_one_line(message: bytes) -> bytes:
    """Return a message with line ends replaced by spaces.

    In JSON, line ends occur only between tokens (RFC 8259 §2).
    """
    if b"\n" in message or b"\r" in message:
        return message.replace(b"\n", b" ").replace(b"\r", b" ")
    return message


def _cut(document: bytes) -> list[bytes]:
    depth, start, found = 0, 1, []
    end = -1
    for mark in _MARKS.finditer(document):
        byte = mark[0][:1]
        if byte in b"[{":
            depth += 1
        elif byte in b"]}":
            depth -= 1
            if depth == 0:
                end = mark.start()
                break
        elif byte == b"," and depth == 1:
            found.append(document[start : mark.start()].strip())
            start = mark.end()
    if not document.startswith(b"[") or end != len(document) - 1:
        raise _no_array()
    last = document[start:end].strip()
    if last or found:
        found.append(last)
    return found
