"""State of a stream, and its expiry (PROTOCOL.md §4, §5.1)."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.producers import ProducerClaim


class Lifetime(Struct, frozen=True, array_like=True, gc=False):
    """Lifetime of a stream: a TTL, a deadline, or no expiry (both None).

    ``ttl`` is in seconds after the last access. ``expires_at`` is in ms since the Unix epoch, and
    ``expires_at_text`` the timestamp as the client wrote it.
    """

    ttl: int | None = None
    expires_at: int | None = None
    expires_at_text: str | None = None

    def matches(self, other: Lifetime) -> bool:
        """Return whether two lifetimes are equal, ignoring the notation of the timestamp."""
        return self.ttl == other.ttl and self.expires_at == other.expires_at


NO_EXPIRY = Lifetime()


class ForkPoint(Struct, frozen=True, array_like=True, gc=False):
    """Fork point of a fork (PROTOCOL.md §4.2).

    The fork inherits the bytes of the stream ``source_id`` before ``position``. ``source`` (a
    stream path), ``offset`` and ``sub_offset`` are the values of the request. ``depth`` is the
    number of ancestors. ``inherits_lifetime`` means that the request had no expiry.
    """

    source_id: int
    position: int
    source: str
    offset: int | None
    sub_offset: int
    depth: int
    inherits_lifetime: bool


class Lineage(Struct, frozen=True, array_like=True, gc=False):
    """Incarnations that own the positions of a stream, oldest first (see `lineage`).

    ``ids[i]`` owns the positions after ``starts[i]``, up to and including ``starts[i + 1]``;
    ``ids[0]`` owns position 0 too. Ids increase, so offsets sort like their positions.
    ``least`` is the lowest id of the first range: lower than ``ids[0]`` if older incarnations
    were merged into it.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    least: int


class StreamState(Struct, frozen=True, array_like=True, gc=False):
    """State of a stream at one commit, without its bytes and producers.

    ``id`` is never reused. ``tail`` is the position after the last byte. Times are in ms since
    the Unix epoch; ``touched_at`` is the last stored access. ``closed_by`` is the producer batch
    that closed the stream, if any. ``forks`` counts the streams that inherit from this one;
    ``deleted`` marks a stream that is kept only for them. ``lineage`` is None if every position
    was written under ``id``.
    """

    id: int
    path: str
    content_type: str
    tail: int
    created_at: int
    touched_at: int
    lifetime: Lifetime = NO_EXPIRY
    closed: bool = False
    closed_by: ProducerClaim | None = None
    last_seq: bytes | None = None
    fork: ForkPoint | None = None
    forks: int = 0
    deleted: bool = False
    lineage: Lineage | None = None

    @property
    def origin(self) -> int:
        """Position of the first byte that is not inherited."""
        return 0 if self.fork is None else self.fork.position

    def deadline(self, accessed_at: int = 0) -> int | None:
        """Return when the stream expires, in ms since the Unix epoch, or None if never.

        ``accessed_at`` is the last access that is not stored yet.
        """
        lifetime = self.lifetime
        if lifetime.ttl is not None:
            return max(self.touched_at, accessed_at) + lifetime.ttl * 1000
        return lifetime.expires_at

    def has_expired(self, now: int, accessed_at: int = 0) -> bool:
        """Return whether the stream has expired at ``now``, in ms since the Unix epoch."""
        deadline = self.deadline(accessed_at)
        return deadline is not None and now >= deadline
