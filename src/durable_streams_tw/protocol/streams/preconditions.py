"""Preconditions of requests (RFC 9110 §13).

A store evaluates the preconditions of a PUT, POST or DELETE in the transaction that carries out
the command, so no other change can intervene. Handlers of reads compare If-Match (`require_match`)
and then If-None-Match (`caching.matches_etag`) with the entity tag of the response. Other refusals
take precedence (RFC 9110 §13.2.1): a request to a missing stream gets 404, not 412.
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

#: Headers that make a write conditional. If-Modified-Since and If-Range apply to reads only
#: (RFC 9110 §13.1.3, §13.1.5).
CONDITIONAL: Final = (headers.IF_MATCH, headers.IF_NONE_MATCH, headers.IF_UNMODIFIED_SINCE)

_ANY: Final = b"*"
_TAG: Final = rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# Possessive: a list with many empty elements before a mistake would take exponential time.
_TAGS: Final = re.compile(rb"[ \t,]*+(?:%b[ \t]*+(?:,[ \t,]*+|\Z))++" % _TAG)
_EACH: Final = re.compile(_TAG)

_NOT_MET: Final = "the precondition failed: "


class Precondition(Struct, frozen=True, array_like=True):
    """Entity tags of If-Match and If-None-Match as sent; ``*`` stands for any tag.

    None means that the header is missing.
    """

    match: tuple[bytes, ...] | None = None
    none_match: tuple[bytes, ...] | None = None


def parse_precondition(header: Mapping[bytes, bytes]) -> Precondition | None:
    """Return the precondition of a write, or None if it has none.

    Raises `Refused` if a header is malformed or cannot be evaluated.
    """
    if headers.IF_UNMODIFIED_SINCE in header:
        raise Refused(
            Problem.PRECONDITION_FAILED,
            "If-Unmodified-Since is not supported because resources have no modification date: "
            "use If-Match with the ETag that HEAD returns",
        )
    match = _tags("If-Match", header.get(headers.IF_MATCH))
    none_match = _tags("If-None-Match", header.get(headers.IF_NONE_MATCH))
    if match is None and none_match is None:
        return None
    return Precondition(match, none_match)


def check_precondition(
    precondition: Precondition | None, state: StreamState | None
) -> Refusal | None:
    """Return a refusal if a stream fails a precondition; ``state`` is None for a missing stream."""
    if precondition is None:
        return None
    if state is None:
        return check_entity_tags(precondition, exists=False)
    return check_entity_tags(precondition, exists=True, tags=entity_tags(state))


def entity_tags(state: StreamState) -> tuple[bytes, bytes]:
    """Return the entity tags of a whole stream, without content coding and compressed."""
    number, tail, closed = incarnation(state, state.tail), state.tail, state.closed
    return caching.etag(number, 0, tail, closed), caching.etag(number, 0, tail, closed, "gzip")


def require_match(if_match: bytes | None, *tags: bytes) -> None:
    """Raise `Refused` if a read fails its If-Match, or if that is malformed.

    ``tags`` are the entity tag of the response, unless it has none, and that of its other coding:
    a client may have it from a request with another Accept-Encoding, or from HEAD.
    """
    if if_match is None:
        return
    precondition = Precondition(_tags("If-Match", if_match))
    refusal = check_entity_tags(precondition, exists=True, tags=tags)
    if refusal is not None:
        raise Refused(refusal.problem, refusal.detail, refusal.headers)


def check_entity_tags(
    precondition: Precondition | None, *, exists: bool, tags: tuple[bytes, ...] = ()
) -> Refusal | None:
    """Return a refusal, with the first of ``tags``, if a resource fails a precondition.

    ``tags`` are the current entity tags of the resource, one for each content coding.
    """
    if precondition is None:
        return None
    current = tuple((headers.H_ETAG, tag) for tag in tags[:1])
    match, none_match = precondition.match, precondition.none_match
    if match is not None:
        # Strong comparison: a weak tag never matches (RFC 9110 §13.1.1).
        met = exists if match == (_ANY,) else any(tag in tags for tag in match)
        if not met:
            why = "If-Match has no current entity tag" if exists else "the resource does not exist"
            return Refusal(Problem.PRECONDITION_FAILED, _NOT_MET + why, current)
    if none_match is not None and exists:
        same = none_match == (_ANY,) or any(tag.removeprefix(b"W/") in tags for tag in none_match)
        if same:
            why = "If-None-Match has the current entity tag"
            return Refusal(Problem.PRECONDITION_FAILED, _NOT_MET + why, current)
    return None


def _tags(name: str, value: bytes | None) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    if value.strip() == _ANY:
        return (_ANY,)
    if _TAGS.fullmatch(value) is None:
        raise headers.malformed(f'{name} must be * or a list of entity tags such as "x"')
    return tuple(_EACH.findall(value))
