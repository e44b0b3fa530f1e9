"""Preconditions of requests that change something (RFC 9110 §13).

A store evaluates them in the transaction that would carry the command out, so nothing can come
between. As RFC 9110 §13.2.1 has it, other refusals come first: a stream that is not there is
404, whatever is asked of its entity tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol import caching, headers
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams.lineage import incarnation
from durable_streams_tw.protocol.streams.state import StreamState

#: The fields that make a request conditional, and that no request to change something ignores.
#: If-Modified-Since and If-Range are for reading only (RFC 9110 §13.1.3, §13.1.5).
CONDITIONAL: Final = (headers.IF_MATCH, headers.IF_NONE_MATCH, headers.IF_UNMODIFIED_SINCE)

_ANY: Final = b"*"
_TAG: Final = rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS: Final = re.compile(rb"[ \t]*(?:%b)(?:[ \t]*,[ \t]*(?:%b)?)*[ \t]*" % (_TAG, _TAG))
_EACH: Final = re.compile(_TAG)

_NOT_MET: Final = "the precondition of the request is not met: "


class Precondition(Struct, frozen=True):
    """What a request wants to be so. Entity tags as they are sent; ``*`` stands for any.

    None where the field is missing.
    """

    match: tuple[bytes, ...] | None = None
    none_match: tuple[bytes, ...] | None = None


def parse_precondition(header: Mapping[bytes, bytes]) -> Precondition | None:
    """Return the precondition of a request that changes something, None without one.

    Raises `Refused` where it is malformed, or cannot be evaluated.
    """
    if headers.IF_UNMODIFIED_SINCE in header:
        raise Refused(
            Problem.PRECONDITION_FAILED,
            "If-Unmodified-Since cannot be evaluated, since nothing here has a modification date: "
            "use If-Match with the ETag that HEAD returns",
        )
    match = _tags("If-Match", header.get(headers.IF_MATCH))
    none_match = _tags("If-None-Match", header.get(headers.IF_NONE_MATCH))
    if match is None and none_match is None:
        return None
    return Precondition(match, none_match)


def check_precondition(asked: Precondition | None, state: StreamState | None) -> Refusal | None:
    """Refuse a request whose precondition a stream does not meet; None stands for no stream."""
    if asked is None:
        return None
    if state is None:
        return check_entity_tags(asked, exists=False)
    closed = state.closed
    number = incarnation(state, state.tail)
    tag, zipped = (caching.etag(number, 0, state.tail, closed, how) for how in ("", "gzip"))
    refusal = check_entity_tags(asked, exists=True, tags=(tag, zipped))
    if refusal is None:
        return None
    return Refusal(refusal.problem, refusal.detail, ((headers.H_ETAG, tag),))


def check_entity_tags(
    asked: Precondition | None, *, exists: bool, tags: tuple[bytes, ...] = ()
) -> Refusal | None:
    """Refuse a request whose precondition a resource does not meet.

    ``tags`` are the entity tags of the resource as it is, one for each content coding.
    """
    if asked is None:
        return None
    match, none_match = asked.match, asked.none_match
    if match is not None:
        # Strong comparison: a weak tag never matches (RFC 9110 §13.1.1).
        met = exists if match == (_ANY,) else any(tag in tags for tag in match)
        if not met:
            why = "If-Match names no current entity tag" if exists else "there is nothing yet"
            return Refusal(Problem.PRECONDITION_FAILED, _NOT_MET + why)
    if none_match is not None and exists:
        same = none_match == (_ANY,) or any(tag.removeprefix(b"W/") in tags for tag in none_match)
        if same:
            why = "If-None-Match names what is there"
            return Refusal(Problem.PRECONDITION_FAILED, _NOT_MET + why)
    return None


def _tags(name: str, value: bytes | None) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    if value.strip() == _ANY:
        return (_ANY,)
    if _TAGS.fullmatch(value) is None:
        raise Refused(Problem.MALFORMED_FIELD, f'{name} is * or a list of entity tags such as "x"')
    return tuple(_EACH.findall(value))
