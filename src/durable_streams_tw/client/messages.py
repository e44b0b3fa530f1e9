"""JSON mode from the reader's side: a document's messages, byte for byte (PROTOCOL.md §9.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from durable_streams_tw.client.errors import Broken

_ELEMENTS: Final = Decoder(list[Raw])
# Strings, what nests, what parts; all else is inside of something.
_MARKS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)


#: How many bytes of an answer are gathered before they are handed out.
PIECE: Final = 256 * 1024

# Up to the next mark of an array's structure that is not in a string: within its elements only
# brackets count, between them commas too.
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
    """Hands out bytes that come in pieces, in pieces of about `PIECE`.

    ``skip`` is how many bytes at the beginning were handed out before. ``whole`` says how many of
    some bytes may be parted from what follows.
    """

    def __init__(self, skip: int, whole: Callable[[bytes], int] = len) -> None:
        self._skip = skip
        self._whole = whole
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take bytes in; return what is handed out, perhaps nothing, and its length."""
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
        """Return the rest. Raises `Broken` where there is less than was to be skipped."""
        if self._skip:
            raise Broken("the server's answer is shorter than it was before")
        return self._held


class ArrayCutter:
    """Hands out a JSON array that comes in pieces as arrays of whole elements.

    ``skip`` is how many elements at the beginning were handed out before. A short array is handed
    out as it came.
    """

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._buffer = bytearray()
        # Where the search for structure goes on, and how deep that is: 0 before the array has
        # begun, and when it has ended.
        self._position = self._depth = 0
        self._begun = False
        # Where the elements begin that are to be handed out, where those that are complete end,
        # and how many they are.
        self._start = self._stop = self._count = 0
        self._due = PIECE

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take bytes in; return an array of complete elements and their number, or nothing."""
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
        # A long element is searched again only when there is twice as much of it.
        self._due = max(PIECE, 2 * len(self._buffer))
        return run, count

    def finish(self) -> bytes:
        """Return the rest. Raises `Broken` where it does not end the array."""
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
            raise Broken("the server's answer is shorter than it was before")
        return self._array(end)

    def _array(self, stop: int) -> bytes:
        return b"".join((b"[", self._buffer[self._start : stop], b"]"))

    def _guess(self) -> bool:
        """Parse up to the commas at which elements that begin like the first one may end.

        A parser is much faster than a search for the end. The bytes before a comma are an array
        exactly if the comma separates elements: within a string or a nested value, its end would
        be missing.
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
        """Find the elements that are complete, from where the last search ended."""
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


def _no_array() -> Broken:
    return Broken("the server's answer is not the JSON array that it should be")


def messages(document: bytes) -> list[bytes]:
    """Return the elements of a JSON array, byte for byte.

    Raise `Broken` if it is not an array.
    """
    try:
        return [bytes(element) for element in _ELEMENTS.decode(document)]
    except (DecodeError, RecursionError):
        # A lone surrogate escape, which tokens of a model may well be cut in, or deeper
        # nesting than a recursive parser follows: neither is this client's business.
        return _cut(document.strip(_WHITE))


def is_message(text: bytes) -> bool:
    """Whether these bytes are one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def on_one_line(message: bytes) -> bytes:
    """Return a message without line ends, which only separate tokens in JSON (RFC 8259 §2)."""
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
