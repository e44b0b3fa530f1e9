"""Commands that a store carries out for requests to streams (PROTOCOL.md §5)."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.preconditions import Precondition
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import Lifetime


class LiveMode(Enum):
    """Modes of live reads (§5.7, §5.8)."""

    LONG_POLL = "long-poll"
    SSE = "sse"


class CountedForkPoint(Struct, frozen=True, array_like=True):
    """Fork point that the store counted before the transaction.

    ``position`` is the requested number of messages after ``start`` in the stream ``source_id``.
    """

    source_id: int
    start: int
    position: int

    def of(self, source_id: int, start: int) -> bool:
        """Return whether the count began at ``start`` in the stream ``source_id``."""
        return (self.source_id, self.start) == (source_id, start)


class ForkRequest(Struct, frozen=True, array_like=True):
    """Source and fork point that a PUT asks for (§4.2).

    ``source`` is a stream path. ``offset`` is None for the tail of the source. ``sub_offset``
    counts messages (JSON mode) or bytes from there. The store sets ``counted``.
    """

    source: str
    offset: RequestedOffset | None = None
    sub_offset: int = 0
    counted: CountedForkPoint | None = None


class Create(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Command to create a stream or a fork (PUT).

    If ``content_type`` is None, a fork inherits the type of its source and ``body`` holds the
    raw bytes of the request, which `forks.fork` converts once the type is known.
    """

    path: str
    content_type: str | None
    lifetime: Lifetime
    closed: bool
    body: Body
    fork: ForkRequest | None = None
    precondition: Precondition | None = None


class Append(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Command to append, close, or both (POST). ``body`` is None for an empty request body."""

    path: str
    content_type: str | None
    body: Body | None
    closed: bool = False
    stream_seq: bytes | None = None
    producer: ProducerClaim | None = None
    precondition: Precondition | None = None

    def with_body(self, body: Body | None) -> Append:
        """Return this command with a body."""
        return Append(
            self.path,
            self.content_type,
            body,
            self.closed,
            self.stream_seq,
            self.producer,
            self.precondition,
        )


class Delete(Struct, frozen=True, array_like=True, tag=True):
    """Command to delete a stream (DELETE)."""

    path: str
    precondition: Precondition | None = None


class ReadQuery(Struct, frozen=True):
    """Parsed query of a GET."""

    offset: RequestedOffset
    live: LiveMode | None = None
    cursor: int | None = None
