"""Results of operations, and their parsing from responses."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.client.errors import BadResponse
from durable_streams_tw.client.transport import Answer


class StreamInfo(Struct, frozen=True):
    """Metadata of a stream at one moment.

    ``offset`` is its tail. ``ttl`` (seconds) and ``expires_at`` (RFC 3339) are those that the
    server reports. ``created`` is true if the request created the stream.
    """

    content_type: str
    offset: str
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None
    created: bool = False


class Written(Struct, frozen=True):
    """Result of an append: the offset after it, and whether the stream is closed.

    ``duplicate`` is true if an earlier attempt had appended the data already.
    """

    offset: str
    closed: bool
    duplicate: bool = False


def info(answer: Answer, created: bool = False) -> StreamInfo:
    """Return the metadata in a response. Raises `BadResponse` if it has no offset."""
    ttl = answer.header.get("stream-ttl", "")
    return StreamInfo(
        answer.header.get("content-type", ""),
        next_offset(answer),
        is_true(answer, "stream-closed"),
        int(ttl) if ttl.isascii() and ttl.isdigit() else None,
        answer.header.get("stream-expires-at"),
        created,
    )


def written(answer: Answer) -> Written:
    """Return the result of an append from its response."""
    return Written(
        answer.header.get("stream-next-offset", ""),
        is_true(answer, "stream-closed"),
        answer.status == 204 and is_deduplicated(answer),
    )


def is_deduplicated(answer: Answer) -> bool:
    """Return whether the server recognizes repeated batches of the producer (§5.2.1)."""
    return "producer-epoch" in answer.header or "producer-seq" in answer.header


def is_true(answer: Answer, name: str) -> bool:
    """Return whether a header has the value ``true`` in any case (PROTOCOL.md §4.1)."""
    return answer.header.get(name, "").lower() == "true"


def next_offset(answer: Answer) -> str:
    """Return the Stream-Next-Offset of a response. Raises `BadResponse` if it is missing."""
    offset = answer.header.get("stream-next-offset")
    if not offset:
        raise BadResponse("the answer has no Stream-Next-Offset: is this URL a durable stream?")
    return offset
