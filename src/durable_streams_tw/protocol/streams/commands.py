"""Commands that a store carries out for requests to streams (PROTOCOL.md §5)."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.preconditions import (
    Precondition,
)
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import Lifetime


class LiveMode(Enum):
    """How a reader follows a stream (§5.7, §5.8)."""

    LONG_POLL = "long-poll"
    SSE = "sse"


class CountedForkPoint(Struct, frozen=True):
    """The position that a Stream-Fork-Sub-Offset comes to, found before the request is carried out:
    so many messages behind ``start`` in the stream ``source_id``."""

    source_id: int
    start: int
    position: int

    def of(self, source_id: int, start: int) -> bool:
        """Return whether this was counted in a stream and from a position."""
        return (self.source_id, self.start) == (source_id, start)


class ForkRequest(Struct, frozen=True):
    """What a PUT says of the stream it forks from (§4.2).

    ``source`` is a stream name; ``offset`` is None for the source's tail; ``sub_offset`` counts
    messages (JSON mode) or bytes from there. ``counted`` is set by the store.
    """

    source: str
    offset: RequestedOffset | None = None
    sub_offset: int = 0
    counted: CountedForkPoint | None = None


class Create(Struct, frozen=True, gc=False):
    """PUT: create a stream, or a fork of one.

    ``content_type`` is None where the request has none; a fork's ``body`` is then the
    request's own bytes, to be framed as what the source holds.
    """

    path: str
    content_type: str | None
    lifetime: Lifetime
    closed: bool
    body: Body
    fork: ForkRequest | None = None
    precondition: Precondition | None = None


class Append(Struct, frozen=True, gc=False):
    """POST: append, close, or both. ``body`` is None where the request's is empty."""

    path: str
    content_type: str | None
    body: Body | None
    closed: bool = False
    stream_seq: bytes | None = None
    producer: ProducerClaim | None = None
    precondition: Precondition | None = None


class Delete(Struct, frozen=True):
    """DELETE: end a stream."""

    path: str
    precondition: Precondition | None = None


class ReadQuery(Struct, frozen=True):
    """What a GET's query says."""

    offset: RequestedOffset
    live: LiveMode | None = None
    cursor: int | None = None
