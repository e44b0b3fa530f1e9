"""What a stream is at one moment, and when it ends by itself (PROTOCOL.md §4, §5.1)."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.producers import ProducerClaim


class Lifetime(Struct, frozen=True, array_like=True, gc=False):
    """How long a stream lives: a sliding window, a deadline, or (both None) for ever.

    ``ttl`` is in seconds; ``expires_at`` in milliseconds since 1970, ``expires_at_text``
    the timestamp as the client wrote it.
    """

    ttl: int | None = None
    expires_at: int | None = None
    expires_at_text: str | None = None

    def matches(self, other: Lifetime) -> bool:
        """Whether both mean the same, however the timestamp is written."""
        return self.ttl == other.ttl and self.expires_at == other.expires_at


NO_EXPIRY = Lifetime()


class ForkPoint(Struct, frozen=True, array_like=True, gc=False):
    """Where a fork leaves its source (PROTOCOL.md §4.2).

    ``source_id`` and ``position`` say which bytes are inherited: those of the source before
    ``position``. ``source`` (a stream name), ``offset`` and ``sub_offset`` are what the
    client asked for, ``depth`` how many sources lie above. ``inherits_lifetime`` says that
    the client named no expiry.
    """

    source_id: int
    position: int
    source: str
    offset: int | None
    sub_offset: int
    depth: int
    inherits_lifetime: bool


class Lineage(Struct, frozen=True, array_like=True, gc=False):
    """Incarnations that own a stream's positions, oldest first (see `lineage`).

    ``ids[i]`` owns the positions after ``starts[i]``, up to and including ``starts[i + 1]``;
    ``ids[0]`` owns position 0 too. Ids increase, so offsets sort as their positions do.
    ``least`` is the smallest id that the first range stands for: less than ``ids[0]`` where
    older incarnations were merged into it.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    least: int


class StreamState(Struct, frozen=True, array_like=True, gc=False):
    """A stream at one moment: everything but its bytes and its producers.

    ``id`` is never reused. ``tail`` is the position behind the last byte. Times are in
    milliseconds since 1970; ``touched_at`` is the last read or write that is written down.
    ``closed_by`` is the producer batch that closed the stream, where one did. ``forks``
    counts the streams that inherit from this one; ``deleted`` marks one that lives on only
    for them. ``lineage`` is None where every position was written under ``id``.
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
        """The position of the first byte that is the stream's own."""
        return 0 if self.fork is None else self.fork.position

    def deadline(self, accessed_at: int = 0) -> int | None:
        """When the stream expires (milliseconds since 1970), None for never.

        ``accessed_at`` is the last access that is known but not written down yet.
        """
        lifetime = self.lifetime
        if lifetime.ttl is not None:
            return max(self.touched_at, accessed_at) + lifetime.ttl * 1000
        return lifetime.expires_at

    def has_expired(self, now: int, accessed_at: int = 0) -> bool:
        """Whether the stream has ended by itself at a time (milliseconds since 1970)."""
        deadline = self.deadline(accessed_at)
        return deadline is not None and now >= deadline
