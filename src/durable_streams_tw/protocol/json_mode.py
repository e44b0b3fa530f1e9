"""JSON mode: division of bodies into messages, and their stored form (PROTOCOL.md §9.1).

A stream in JSON mode stores each message unchanged, followed by a comma. A run of whole
messages is an array without its brackets, so reads need no parser, and each message boundary
has a position of its own.

msgspec validates, with four additions:

1. It accepts invalid UTF-8, so the encoding is checked first.
2. It rejects lone surrogate escapes, which clients send when they split text inside an emoji.
   If it rejects a body, a copy of the same length without them is validated instead.
3. The nesting that it accepts depends on the stack of the caller, so depth has a limit.
4. An array of millions of small messages becomes millions of objects, so their number has one.

Large bodies are validated on a worker thread while the reactor serves other requests. So no
step holds the GIL for long, takes a large multiple of the body's memory, or rescans the same
bytes, for any input.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import accumulate
from operator import countOf
from typing import Final

import msgspec
from msgspec import Raw

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import KIB, MAX_JSON_DEPTH, MAX_JSON_MESSAGES

_WHITESPACE: Final = b" \t\n\r"
_GAP: Final = re.compile(rb"[ \t\n\r,]*+")
_one: Final = msgspec.json.Decoder(Raw)
_many: Final = msgspec.json.Decoder(list[Raw])

# Alternatives are tried in order, so an escaped backslash is never taken for the start of an
# escape.
_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_REPLACEMENT: Final = rb"\uFFFD"

_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_NOT_MARKS: Final = bytes(b for b in range(256) if b not in b"[]{},")
_NOT_BRACKETS: Final = _NOT_MARKS + b","
_DEEPER: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}
_STEP: Final = 64 * KIB


def split(body: bytes) -> tuple[bytes, ...]:
    """Return the messages of a request body: the elements of an array, or the single value.

    Exactly one level is flattened, and every message keeps its bytes. An empty array has no
    messages. Raises `Refused`: INVALID_JSON for invalid JSON (RFC 8259) and for nesting deeper
    than `MAX_JSON_DEPTH`, TOO_MANY_MESSAGES for more than `MAX_JSON_MESSAGES`.
    """
    if not body.isascii():
        _check_utf8(body)
    messages = _messages(body)
    _check_depth(messages)
    return messages


def join(messages: tuple[bytes, ...]) -> bytes:
    """Return the stored form of messages: each followed by a comma."""
    return b"".join([message + b"," for message in messages])


def document(stored: bytes) -> bytes:
    """Return the JSON array of a run of whole stored messages (PROTOCOL.md §9.1.5)."""
    return b"[" + stored[:-1] + b"]"


def document_piece(stored: bytes, first: bool, last: bool) -> bytes:
    """Return the part of a `document` that corresponds to a part of its stored bytes.

    ``stored`` is not empty and may begin and end inside a message. The parts have
    `document_size` bytes in total.
    """
    if last:
        return b"".join((b"[" if first else b"", stored[:-1], b"]"))
    return b"[" + stored if first else stored


def document_size(stored: int) -> int:
    """Return the size in bytes of the `document` of a run of ``stored`` bytes, not 0."""
    return stored + 1


def messages(stored: bytes) -> tuple[bytes, ...]:
    """Return the messages of a run of whole stored messages, which fits a record."""
    return _messages(document(stored))


def is_boundary(stored: bytes) -> bool:
    """Return whether stored bytes that begin with a message end at a message boundary.

    A prefix that ends in a comma forms a valid array exactly if that comma separates messages:
    inside a string or a nested value the rest is missing. Returns False for runs of more than
    `MAX_JSON_MESSAGES` messages; a record has fewer.
    """
    if not stored:
        return True
    if not stored.endswith(b","):
        return False
    try:
        _messages(document(stored))
    except Refused:
        return False
    return True


def _messages(body: bytes) -> tuple[bytes, ...]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        patched = _without_lone_surrogates(body)
        if patched == body:
            raise _invalid(error) from None
        try:
            return _spans(body, _decode(patched))
        except (msgspec.DecodeError, RecursionError) as second:
            raise _invalid(second) from None


def _decode(body: bytes) -> tuple[bytes, ...]:
    if not _is_array(body):
        return (bytes(_one.decode(body)),)
    if body.count(b",") >= MAX_JSON_MESSAGES:
        _check_count(body)
    return tuple([bytes(raw) for raw in _many.decode(body)])


def _check_utf8(body: bytes) -> None:
    # In steps, because the decoded text takes up to four times the size of the body.
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _STEP):
        held_back = len(decoder.getstate()[0])
        try:
            decoder.decode(body[start : start + _STEP], start + _STEP >= len(body))
        except UnicodeDecodeError as error:
            position = start - held_back + error.start
            raise Refused(
                Problem.INVALID_JSON, f"the body is not UTF-8 at byte {position}"
            ) from None


def _check_count(body: bytes) -> None:
    # Count the commas at the first level of nesting before the elements become objects.
    depth = commas = 0
    for marks in _marks(body, _NOT_MARKS):
        depths = list(accumulate(map(_DEEPER.__getitem__, marks), initial=depth))
        depth = depths.pop()
        commas += countOf(zip(marks, depths, strict=True), (ord(","), 1))
        if commas >= MAX_JSON_MESSAGES:
            raise Refused(
                Problem.TOO_MANY_MESSAGES, f"the body has more than {MAX_JSON_MESSAGES} messages"
            )


def _check_depth(messages: tuple[bytes, ...]) -> None:
    for message in messages:
        if message.count(b"[") + message.count(b"{") <= MAX_JSON_DEPTH:
            continue
        depth = 0
        for brackets in _marks(message, _NOT_BRACKETS):
            depths = list(accumulate(map(_DEEPER.__getitem__, brackets), initial=depth))
            depth = depths[-1]
            if max(depths) > MAX_JSON_DEPTH:
                raise Refused(
                    Problem.INVALID_JSON, f"a message is nested deeper than {MAX_JSON_DEPTH} levels"
                )


def _marks(text: bytes, others: bytes) -> Iterator[bytes]:
    """Yield JSON text in steps, without its strings and without the bytes in ``others``."""
    start = 0
    in_string = False
    while start < len(text):
        step = text[start : start + _STEP]
        if (len(step) - len(step.rstrip(b"\\"))) % 2:
            # The last backslash escapes the next byte.
            step = text[start : start + _STEP + 1]
        start += len(step)
        parts = (_ESCAPE.sub(b"", step) if b"\\" in step else step).split(b'"')
        yield b"".join(parts[in_string::2]).translate(None, others)
        if len(parts) % 2 == 0:
            in_string = not in_string


def _without_lone_surrogates(body: bytes) -> bytes:
    patched = bytearray(body)
    for match in _ESCAPES.finditer(body):
        if match[1] is not None:
            patched[match.start() : match.end()] = _REPLACEMENT
    return bytes(patched)


def _spans(body: bytes, patched: tuple[bytes, ...]) -> tuple[bytes, ...]:
    # The patch kept every structural byte in place, so messages have the positions of their
    # patched copies, with only white space and commas between them.
    if not _is_array(body):
        return (body.strip(_WHITESPACE),)
    messages = []
    position = body.index(b"[") + 1
    for message in patched:
        gap = _GAP.match(body, position)
        assert gap is not None, "the pattern matches the empty string"
        position = gap.end() + len(message)
        messages.append(body[gap.end() : position])
    return tuple(messages)


def _is_array(body: bytes) -> bool:
    return body.lstrip(_WHITESPACE).startswith(b"[")


def _invalid(error: Exception) -> Refused:
    if isinstance(error, RecursionError):
        return Refused(Problem.INVALID_JSON, "the body is nested too deeply")
    return Refused(Problem.INVALID_JSON, f"the body is not valid JSON: {error}")
