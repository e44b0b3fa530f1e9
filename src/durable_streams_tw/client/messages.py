"""JSON mode from the reader's side: a document's messages, byte for byte (PROTOCOL.md §9.1)."""

from __future__ import annotations

import json
import re
from typing import Final

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from durable_streams_tw.client.errors import Broken

_ELEMENTS: Final = Decoder(list[Raw])
# Strings, what nests, what parts; all else is inside of something.
_MARKS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)


def messages(document: bytes) -> list[bytes]:
    """The elements of a JSON array, exactly as they stand in it.

    Raises `Broken` where it is no array.
    """
    try:
        return [bytes(element) for element in _ELEMENTS.decode(document)]
    except (DecodeError, RecursionError):
        # A lone surrogate escape, which tokens of a model may well be cut in, or deeper
        # nesting than a recursive parser follows: neither is this client's business.
        return _cut(document.strip(b" \t\r\n"))


def is_message(text: bytes) -> bool:
    """Whether these bytes are one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def on_one_line(message: bytes) -> bytes:
    """The same message without line ends: where JSON has them, they part tokens only
    (RFC 8259 §2)."""
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
        raise Broken("the server's answer is not the JSON array that it should be")
    last = document[start:end].strip()
    if last or found:
        found.append(last)
    return found
