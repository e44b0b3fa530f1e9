"""Parsing of requests to streams: query and headers become commands (PROTOCOL.md §5).

Each function reads one method's query or headers and raises `Refused` at the first malformed
value. Header names are lower-case. A repeated header arrives as one value joined with commas
(RFC 9110 §5.3), which no single-valued grammar accepts; only in opaque values (Stream-Seq,
Producer-Id) a repetition cannot be detected.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol import content_types, headers
from durable_streams_tw.protocol.cursors import parse_cursor
from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.paths import is_reserved, parse_stream_path
from durable_streams_tw.protocol.streams import preconditions
from durable_streams_tw.protocol.streams.commands import Append, ForkRequest, LiveMode, ReadQuery
from durable_streams_tw.protocol.streams.offsets import NOW, START, RequestedOffset, parse_offset
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime

HeaderMap = Mapping[bytes, bytes]
"""Headers of a request by lower-case name."""


class CreateHeaders(Struct, frozen=True):
    """Parsed headers of a PUT."""

    content_type: str | None
    lifetime: Lifetime
    closed: bool
    fork: ForkRequest | None
    precondition: preconditions.Precondition | None = None


_CATCH_UP_ALL: Final = ReadQuery(START)
_LIVE: Final = {mode.value: mode for mode in LiveMode}
_KNOWN: Final = frozenset(("offset", "live", "cursor"))

# Longest query that is cached, in bytes.
_SHORT_QUERY: Final = 256

# Headers of a POST other than Content-Type. Most requests have none of them.
_RARE: Final = frozenset(
    (
        headers.CONTENT_ENCODING,
        headers.STREAM_CLOSED,
        headers.STREAM_SEQ,
        headers.PRODUCER_ID,
        headers.PRODUCER_EPOCH,
        headers.PRODUCER_SEQ,
        *preconditions.CONDITIONAL,
    )
)


def parse_read(query: bytes) -> ReadQuery:
    """Return the parsed query of a GET (§5.6-§5.8). Unknown parameters are ignored (§11.1).

    Raises `Refused` (MALFORMED_REQUEST, MALFORMED_OFFSET).
    """
    if not query:
        return _CATCH_UP_ALL
    return _parse_short_query(query) if len(query) <= _SHORT_QUERY else _parse_query(query)


def _parse_query(query: bytes) -> ReadQuery:
    given: dict[str, str] = {}
    for part in query.decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        if "%" in part or "+" in part:
            name, value = unquote_plus(name), unquote_plus(value)
        if name in _KNOWN:
            if name in given:
                raise Refused(Problem.MALFORMED_REQUEST, f"duplicate query parameter {name!r}")
            given[name] = value
    live: LiveMode | None = None
    if "live" in given:
        live = _LIVE.get(given["live"])
        if live is None:
            raise Refused(Problem.MALFORMED_REQUEST, "live must be 'long-poll' or 'sse'")
        if "offset" not in given:
            raise Refused(Problem.MALFORMED_OFFSET, "a live read requires an offset: -1 or now")
    offset = parse_offset(given["offset"]) if "offset" in given else START
    cursor = given.get("cursor")
    return ReadQuery(offset, live, parse_cursor(cursor) if cursor else None)


# Readers that follow a stream send equal queries: they ask for its newest offset.
_parse_short_query: Final = lru_cache(maxsize=1024)(_parse_query)


def resume_read(query: ReadQuery, last_event_id: bytes | None) -> ReadQuery:
    """Return the query of an SSE read with the offset of its Last-Event-ID header, if any.

    An EventSource reconnects to its original URL and sends the id of the last event, which
    takes precedence over the offset of the URL. Raises `Refused` (MALFORMED_OFFSET).
    """
    if not last_event_id:
        return query
    return replace(query, offset=parse_offset(last_event_id.decode("latin-1")))


def parse_create(header: HeaderMap, now: int, root: bytes) -> CreateHeaders:
    """Return the parsed headers of a PUT (§5.1).

    ``now`` is in ms since the Unix epoch. ``root`` is the raw path before every stream path,
    with a slash at the end. Raises `Refused`.
    """
    _refuse_encoding(header)
    return CreateHeaders(
        parse_content_type(header),
        parse_lifetime(header, now),
        headers.is_true(header.get(headers.STREAM_CLOSED)),
        parse_fork(header, root),
        preconditions.parse_precondition(header),
    )


def parse_fork(header: HeaderMap, root: bytes) -> ForkRequest | None:
    """Return the parsed fork headers (§4.2), or None without them. Raises `Refused`."""
    source = header.get(headers.STREAM_FORKED_FROM)
    offset = header.get(headers.STREAM_FORK_OFFSET)
    sub_offset = header.get(headers.STREAM_FORK_SUB_OFFSET)
    if source is None:
        if offset is None and sub_offset is None:
            return None
        raise Refused(
            Problem.INVALID_FORK,
            "Stream-Fork-Offset and Stream-Fork-Sub-Offset require Stream-Forked-From",
        )
    position = None if offset is None else _fork_offset(offset)
    past = 0 if sub_offset is None else headers.parse_integer("Stream-Fork-Sub-Offset", sub_offset)
    if not source.startswith(root):
        raise Refused(
            Problem.STREAM_NOT_FOUND,
            f"Stream-Forked-From must be the path of a stream below {root.decode()}",
        )
    name = parse_stream_path(source[len(root) :])
    if is_reserved(name):
        raise Refused(
            Problem.STREAM_NOT_FOUND, "Stream-Forked-From is a control resource, not a stream"
        )
    return ForkRequest(name, position, past)


def _fork_offset(value: bytes) -> RequestedOffset:
    offset = parse_offset(value.decode("latin-1"))
    if offset == NOW or value == b"-1":
        raise Refused(
            Problem.MALFORMED_OFFSET,
            "Stream-Fork-Offset must be a value of Stream-Next-Offset from this server",
        )
    return offset


def parse_append(path: str, header: HeaderMap) -> Append:
    """Return the command of a POST (§5.2, §5.2.1) without its body. Raises `Refused`."""
    if _RARE.isdisjoint(header):
        return Append(path, parse_content_type(header), None)
    _refuse_encoding(header)
    seq = header.get(headers.STREAM_SEQ)
    if seq is not None:
        headers.parse_token("Stream-Seq", seq)
    return Append(
        path,
        parse_content_type(header),
        None,
        headers.is_true(header.get(headers.STREAM_CLOSED)),
        seq,
        parse_producer(header),
        preconditions.parse_precondition(header),
    )


def parse_content_type(header: HeaderMap) -> str | None:
    """Return the Content-Type, or None if it is missing or empty. Raises `Refused`."""
    return _media_type(header.get(headers.CONTENT_TYPE))


@lru_cache(maxsize=128)
def _media_type(value: bytes | None) -> str | None:
    if not value:
        return None
    text = headers.parse_token("Content-Type", value)
    if not content_types.is_media_type(text):
        raise headers.malformed("Content-Type must be a media type such as text/plain")
    return text


def parse_lifetime(header: HeaderMap, now: int) -> Lifetime:
    """Return the lifetime by Stream-TTL or Stream-Expires-At (§5.1).

    ``now`` is in ms since the Unix epoch. Raises `Refused` (MALFORMED_FIELD) for both headers
    together and for a time in the past.
    """
    ttl = header.get(headers.STREAM_TTL)
    expires_at = header.get(headers.STREAM_EXPIRES_AT)
    if ttl is None and expires_at is None:
        return NO_EXPIRY
    if expires_at is None:
        assert ttl is not None
        return Lifetime(ttl=headers.parse_ttl(ttl))
    if ttl is not None:
        raise headers.malformed("Stream-TTL and Stream-Expires-At are mutually exclusive")
    moment = headers.parse_timestamp("Stream-Expires-At", expires_at)
    if moment <= now:
        raise headers.malformed("Stream-Expires-At is in the past")
    return Lifetime(expires_at=moment, expires_at_text=expires_at.decode("latin-1"))


def parse_producer(header: HeaderMap) -> ProducerClaim | None:
    """Return the parsed producer headers (§5.2.1), or None without them. Raises `Refused`."""
    producer_id = header.get(headers.PRODUCER_ID)
    epoch = header.get(headers.PRODUCER_EPOCH)
    seq = header.get(headers.PRODUCER_SEQ)
    if producer_id is None or epoch is None or seq is None:
        if producer_id is epoch is seq is None:
            return None
        raise headers.malformed(
            "Producer-Id, Producer-Epoch and Producer-Seq must be given together"
        )
    return ProducerClaim(
        headers.parse_token("Producer-Id", producer_id),
        headers.parse_count("Producer-Epoch", epoch),
        headers.parse_count("Producer-Seq", seq),
    )


def _refuse_encoding(header: HeaderMap) -> None:
    encoding = header.get(headers.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise Refused(
            Problem.UNSUPPORTED_ENCODING,
            "Content-Encoding is not supported: send the body without it",
            ((b"Accept-Encoding", b"identity"),),
        )
