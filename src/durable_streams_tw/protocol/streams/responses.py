"""Responses for the outcomes of commands and reads (PROTOCOL.md §5.1-§5.7).

`http.response_headers` adds the headers that every response has (CORS, security).
"""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol import caching, headers
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import offset_bytes
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.preconditions import entity_tags, require_match
from durable_streams_tw.protocol.streams.state import StreamState

Header = tuple[bytes, bytes]

PROBLEM_JSON: Final = b"application/problem+json"
_NO_STORE: Final[Header] = (headers.H_CACHE_CONTROL, caching.NO_STORE)
_CLOSED: Final[Header] = (headers.H_CLOSED, headers.TRUE)
_UP_TO_DATE: Final[Header] = (headers.H_UP_TO_DATE, headers.TRUE)


class BufferedResponse(Struct, frozen=True, gc=False):
    """Response whose body is in memory: status, headers in order, body."""

    status: int
    headers: list[Header]
    body: bytes = b""


def next_offset_header(state: StreamState, position: int) -> Header:
    """Return the Stream-Next-Offset header of a position."""
    return (headers.H_NEXT_OFFSET, offset_bytes(state, position))


def content_type_header(state: StreamState) -> Header:
    """Return the Content-Type header of a stream."""
    return (headers.H_CONTENT_TYPE, state.content_type.encode("utf-8"))


def refused(refusal: Refusal) -> BufferedResponse:
    """Return the problem details of a refusal (RFC 9457)."""
    problem = refusal.problem
    body = json.dumps(
        {
            "type": problem.type,
            "title": problem.title,
            "status": problem.status,
            "detail": refusal.detail,
        }
    ).encode("utf-8")
    return BufferedResponse(
        problem.status,
        [(headers.H_CONTENT_TYPE, PROBLEM_JSON), _NO_STORE, *refusal.headers],
        body,
    )


def created(outcome: Created, location: bytes) -> BufferedResponse:
    """Return the response to a PUT (§5.1): 201 with the URL, or 200 if the stream existed."""
    state = outcome.state
    response_headers = [content_type_header(state), next_offset_header(state, state.tail)]
    if outcome.fresh:
        response_headers.append((headers.H_LOCATION, location))
    if state.closed:
        response_headers.append(_CLOSED)
    return BufferedResponse(201 if outcome.fresh else 200, response_headers)


def appended(outcome: Appended) -> BufferedResponse:
    """Return the response to a POST (§5.2): 200 for new bytes of a producer, 204 otherwise."""
    state = outcome.state
    response_headers = [next_offset_header(state, state.tail)]
    producer = outcome.producer
    if producer is not None:
        response_headers.append((headers.H_PRODUCER_EPOCH, b"%d" % producer.epoch))
        response_headers.append((headers.H_PRODUCER_SEQ, b"%d" % producer.last_seq))
    if state.closed:
        response_headers.append(_CLOSED)
    return BufferedResponse(200 if producer is not None and outcome.grew else 204, response_headers)


def deleted() -> BufferedResponse:
    """Return the response to a DELETE (§5.4)."""
    return BufferedResponse(204, [])


def described(
    state: StreamState, if_match: bytes | None = None, if_none_match: bytes | None = None
) -> BufferedResponse:
    """Return the response to a HEAD (§5.5), which caches must not store.

    Raises `Refused` if If-Match fails.
    """
    tags = tag, _ = entity_tags(state)
    require_match(if_match, *tags)
    unchanged = caching.matches_etag(if_none_match, tag)
    response_headers = [] if unchanged else [content_type_header(state)]
    response_headers += [next_offset_header(state, state.tail), _NO_STORE]
    lifetime = state.lifetime
    if lifetime.ttl is not None:
        response_headers.append((headers.H_TTL, b"%d" % lifetime.ttl))
    if lifetime.expires_at_text is not None:
        response_headers.append((headers.H_EXPIRES_AT, lifetime.expires_at_text.encode("latin-1")))
    if state.closed:
        response_headers.append(_CLOSED)
    response_headers.append((headers.H_ETAG, tag))
    return BufferedResponse(304 if unchanged else 200, response_headers)


def read_headers(state: StreamState, end: int, cursor: int | None) -> list[Header]:
    """Return the headers of a read that ended at the position ``end`` (§5.6).

    ``cursor`` is given for live reads (§5.7).
    """
    response_headers = [next_offset_header(state, end)]
    if cursor is not None:
        response_headers.append((headers.H_CURSOR, b"%d" % cursor))
    if end == state.tail:
        response_headers.append(_UP_TO_DATE)
        if state.closed:
            response_headers.append(_CLOSED)
    return response_headers


def long_poll_timeout(state: StreamState, cursor: int) -> BufferedResponse:
    """Return the response to a long-poll that timed out at the tail (§5.7)."""
    return BufferedResponse(204, [*read_headers(state, state.tail, cursor), _NO_STORE])


def event_source_end(state: StreamState) -> BufferedResponse:
    """Return the response to an EventSource that has read a closed stream to its end.

    Only 204 stops an EventSource from reconnecting (WHATWG HTML §9.2.3).
    """
    return BufferedResponse(204, [*read_headers(state, state.tail, None), _NO_STORE])
