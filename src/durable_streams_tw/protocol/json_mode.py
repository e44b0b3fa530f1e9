"""JSON mode: splitting bodies into messages and joining them again (PROTOCOL.md §9.1).

A stream in JSON mode stores each message, byte for byte as it came, followed by one
comma. Any run of whole messages is then an array but for its brackets, so reading needs
no parser, and each message boundary has a position of its own.

Validation is msgspec's, with four cares of our own:

1. it lets invalid UTF-8 pass, so bytes are checked first;
2. it refuses lone surrogate escapes, which clients send when they cut a token stream inside
   an emoji: on refusal a copy of the same length without them is validated instead;
3. the depth that it endures depends on the caller's stack, so messages have a limit of ours;
4. an array of millions of small messages is millions of objects, so the number is bounded.

Large bodies are looked at in a thread, beside a busy reactor. So no step here keeps the
interpreter to itself for long, takes memory many times the body's, or goes over the same
bytes again and again, whatever the bytes are.
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

# Tried from left to right, so that an escaped backslash never looks like an escape's start.
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
    """The messages of a request body: an array's elements, or the one value.

    Exactly one level is flattened; every message keeps its bytes. An empty array has no
    messages. Raises `Refused`: INVALID_JSON for what RFC 8259 does not allow or nests too
    deep, TOO_MANY_MESSAGES beyond the cap.
    """
    if not body.isascii():
        _check_utf8(body)
    messages = _messages(body)
    _check_depth(messages)
    return messages


def join(messages: tuple[bytes, ...]) -> bytes:
    """The stored form of messages: each followed by a comma."""
    return b"".join([message + b"," for message in messages])


def document(stored: bytes) -> bytes:
    """The JSON array of a run of whole stored messages (PROTOCOL.md §9.1.5)."""
    return b"[" + stored[:-1] + b"]"


def document_piece(stored: bytes, first: bool, last: bool) -> bytes:
    """Return the part of a `document` that comes of a part of its stored bytes.

    ``stored`` is not empty, and may begin and end inside a message. The document of a whole run
    has `document_size` bytes.
    """
    if last:
        return b"".join((b"[" if first else b"", stored[:-1], b"]"))
    return b"[" + stored if first else stored


def document_size(stored: int) -> int:
    """Return the size of the `document` of a run of so many stored bytes, not 0."""
    return stored + 1


def messages(stored: bytes) -> tuple[bytes, ...]:
    """Return the messages of a run of whole stored messages, at most a record."""
    return _messages(document(stored))


def is_boundary(stored: bytes) -> bool:
    """Whether stored bytes that begin at a message also end with one.

    A prefix that ends in a comma forms a valid array exactly when that comma stands
    between messages: within a string or a nested value the rest would be missing.
    Meant for at most a record: a run of over `MAX_JSON_MESSAGES` is not judged.
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
    # In steps: decoded whole, a body takes up to four times its size.
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
    # Counted before the elements become objects: the commas at the first level of nesting.
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
                    Problem.INVALID_JSON, f"a message nests deeper than {MAX_JSON_DEPTH} levels"
                )


def _marks(text: bytes, others: bytes) -> Iterator[bytes]:
    """What is left of JSON text, step by step, without its strings and without ``others``."""
    start = 0
    in_string = False
    while start < len(text):
        step = text[start : start + _STEP]
        if (len(step) - len(step.rstrip(b"\\"))) % 2:
            # The last backslash escapes the byte behind it.
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
    # The patch left every structural byte in place, so messages stand where their patched
    # copies do; only white space and commas lie between them.
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
        return Refused(Problem.INVALID_JSON, "the body nests too deep")
    return Refused(Problem.INVALID_JSON, f"the body is not valid JSON: {error}")
