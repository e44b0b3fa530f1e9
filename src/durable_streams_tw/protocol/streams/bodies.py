"""Conversion of request bodies to their stored form (PROTOCOL.md §9)."""

from __future__ import annotations

from itertools import accumulate

from msgspec import Struct

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_UNDIVIDED_BODY


class Body(Struct, frozen=True, array_like=True, gc=False):
    """Body of a request in its stored form.

    ``cuts`` are the ends of the JSON messages within ``data``, at which a store may divide it.
    They are empty for bodies of other types and for JSON of at most `MAX_UNDIVIDED_BODY`
    bytes. ``problem`` is the refusal of an invalid body. It is a value, not an exception,
    because checks of the stream's state take precedence over it.
    """

    data: bytes
    cuts: tuple[int, ...] = ()
    problem: Refusal | None = None


EMPTY = Body(b"")


def initial(content_type: str, raw: bytes) -> Body:
    """Return the stored form of the body of a PUT.

    An empty body, and ``[]`` in JSON mode, creates an empty stream (§9.1.3).
    """
    if not raw:
        return EMPTY
    return _json(raw) if content_types.is_json(content_type) else Body(raw)


def appended(content_type: str | None, raw: bytes) -> Body:
    """Return the stored form of the body of a POST, which is not empty.

    In JSON mode ``[]`` is refused (§9.1.3).
    """
    if content_type is None or not content_types.is_json(content_type):
        return Body(raw)
    body = _json(raw)
    if body.problem is None and not body.data:
        return Body(
            b"", problem=Refusal(Problem.INVALID_JSON, "an append requires at least one message")
        )
    return body


def _json(raw: bytes) -> Body:
    try:
        messages = json_mode.split(raw)
    except Refused as refused:
        return Body(b"", problem=refused.refusal)
    data = json_mode.join(messages)
    if len(data) <= MAX_UNDIVIDED_BODY:
        return Body(data)
    return Body(data, tuple(accumulate([len(message) + 1 for message in messages])))
