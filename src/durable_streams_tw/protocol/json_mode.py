"""JSON mode: splitting bodies into messages and joining them again (PROTOCOL.md §9.1).

A stream in JSON mode stores each message, byte for byte as it came, followed by one
comma. Any run of whole messages is then an array but for its brackets, so reading needs
no parser, and each message boundary has a position of its own.

Validation is msgspec's, with four cares of our own:

1. it lets invalid UTF-8 pass, so bytes are decoded strictly first;
2. it refuses lone surrogate escapes, which clients send when they cut a token stream inside
   an emoji: on refusal a copy of the same length without them is validated instead;
3. the depth that it endures depends on the caller's stack, so ours is counted first;
4. an array of millions of small messages is millions of objects, so the number is bounded.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

import msgspec
from msgspec import Raw

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_JSON_DEPTH, MAX_JSON_MESSAGES

_WHITESPACE: Final = b" \t\n\r"
_one: Final = msgspec.json.Decoder(Raw)
_many: Final = msgspec.json.Decoder(list[Raw])

# Tried from left to right, so that an escaped backslash never looks like an escape's start.
_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(b for b in range(256) if b not in b"[]{}")
_DEPTH_OF: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def split(body: bytes) -> tuple[bytes, ...]:
    """The messages of a request body: an array's elements, or the one value.

    Exactly one level is flattened; every message keeps its bytes. An empty array has no
    messages. Raises `Refused`: INVALID_JSON for what RFC 8259 does not allow or nests too
    deep, TOO_MANY_MESSAGES beyond the cap.
    """
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                Problem.INVALID_JSON, f"the body is not UTF-8 at byte {error.start}"
            ) from None
    _check_depth(body)
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        patched = _ESCAPES.sub(_without_lone_surrogate, body)
        if patched == body:
            raise _invalid(error) from None
        try:
            return _spans(body, _decode(patched))
        except (msgspec.DecodeError, RecursionError) as second:
            raise _invalid(second) from None


def join(messages: tuple[bytes, ...]) -> bytes:
    """The stored form of messages: each followed by a comma."""
    return b"".join([message + b"," for message in messages])


def document(stored: bytes) -> bytes:
    """The JSON array of a run of whole stored messages (PROTOCOL.md §9.1.5)."""
    return b"[" + stored[:-1] + b"]"


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
        split(document(stored))
    except Refused:
        return False
    return True


def _decode(body: bytes) -> tuple[bytes, ...]:
    if not _is_array(body):
        return (bytes(_one.decode(body)),)
    if body.count(b",") >= MAX_JSON_MESSAGES:
        _check_count(body)
    return tuple([bytes(raw) for raw in _many.decode(body)])


def _check_count(body: bytes) -> None:
    # Counted before the elements become objects: the commas at the first level of nesting.
    depth = commas = 0
    for token in re.finditer(rb"[\[\]{},]", _STRINGS.sub(b"", body)):
        mark = token[0]
        if mark == b",":
            commas += depth == 1
            if commas >= MAX_JSON_MESSAGES:
                raise Refused(
                    Problem.TOO_MANY_MESSAGES,
                    f"the body has more than {MAX_JSON_MESSAGES} messages",
                )
        else:
            depth += _DEPTH_OF[mark[0]]


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_JSON_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_DEPTH_OF.__getitem__, brackets)), default=0) > MAX_JSON_DEPTH:
        raise Refused(Problem.INVALID_JSON, f"the body nests deeper than {MAX_JSON_DEPTH} levels")


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return match[0] if match[1] is None else b"\\uFFFD"


def _spans(body: bytes, patched: tuple[bytes, ...]) -> tuple[bytes, ...]:
    # The patch left every structural byte in place, so messages stand where their patched
    # copies do; only white space and commas lie between them.
    if not _is_array(body):
        return (body.strip(_WHITESPACE),)
    messages = []
    position = body.index(b"[") + 1
    for message in patched:
        while body[position] in b" \t\n\r,":
            position += 1
        messages.append(body[position : position + len(message)])
        position += len(message)
    return tuple(messages)


def _is_array(body: bytes) -> bool:
    return body.lstrip(_WHITESPACE).startswith(b"[")


def _invalid(error: Exception) -> Refused:
    if isinstance(error, RecursionError):
        return Refused(Problem.INVALID_JSON, "the body nests too deep")
    return Refused(Problem.INVALID_JSON, f"the body is not valid JSON: {error}")
