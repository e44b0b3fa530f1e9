"""Creation of forks, and references to their sources (PROTOCOL.md §4.2).

A fork shares the positions and bytes of its source up to the fork point; nothing is copied. It
starts open, without producers and Stream-Seq, whatever the state of its source.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_FORK_DEPTH, MAX_JSON_MESSAGES, MAX_POSITION
from durable_streams_tw.protocol.streams import bodies, lineage, offsets
from durable_streams_tw.protocol.streams.commands import Create, ForkRequest
from durable_streams_tw.protocol.streams.offsets import Offset, RequestedOffset
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, ForkPoint, StreamState


class RemainingMessages(Struct, frozen=True):
    """Rest of a count: the fork point is ``messages`` whole messages after ``position``."""

    position: int
    messages: int


_BEYOND = Refusal(Problem.INVALID_FORK, "Stream-Fork-Offset is beyond the end of the source")
OVERSHOOT = Refusal(Problem.INVALID_FORK, "Stream-Fork-Sub-Offset is beyond the end of the source")
# A request appends at most that many messages, so a nearer offset exists (§4.2: the sub-offset
# stays before the next data boundary), and the store never counts for long.
_TOO_FAR = Refusal(
    Problem.INVALID_FORK,
    f"Stream-Fork-Sub-Offset must be at most {MAX_JSON_MESSAGES} messages: use a later offset",
)
UNCOUNTED = Refusal(
    Problem.OVERLOADED,
    "the stream at Stream-Forked-From changed while its messages were counted: retry",
    ((b"Retry-After", b"1"),),
)
TORN = Refusal(
    Problem.INVALID_FORK,
    "Stream-Fork-Offset is inside a message: use an offset that this server returned",
)


def check_source(source: StreamState | None, expired: bool) -> Refusal | None:
    """Return a refusal if a source is missing (404) or deleted (409)."""
    if source is None or (expired and not source.deleted):
        return Refusal(Problem.STREAM_NOT_FOUND, "the stream at Stream-Forked-From does not exist")
    if source.deleted:
        return Refusal(Problem.SOURCE_GONE, "the stream at Stream-Forked-From was deleted")
    return None


def locate_fork_point(source: StreamState, command: Create) -> int | RemainingMessages | Refusal:
    """Return the fork point in a source that `check_source` accepted.

    Return a position, or `RemainingMessages` if messages have to be counted first. The caller
    checks that the position of either is a message boundary.
    """
    request = command.fork
    assert request is not None
    requested_type = command.content_type
    if requested_type is not None and not content_types.same(source.content_type, requested_type):
        return Refusal(
            Problem.CONTENT_TYPE_MISMATCH, f"the source's content type is {source.content_type}"
        )
    assert source.fork is None or source.fork.depth <= MAX_FORK_DEPTH
    if source.fork is not None and source.fork.depth == MAX_FORK_DEPTH:
        return Refusal(
            Problem.INVALID_FORK, f"forks can be nested at most {MAX_FORK_DEPTH} levels deep"
        )
    requested = offsets.NOW if request.offset is None else request.offset
    base = offsets.resolve(source, requested)
    if isinstance(base, Refusal):
        # PROTOCOL.md §4.2 requires 400 for every offset beyond the source.
        within = isinstance(requested, Offset) and requested.position <= source.tail
        return base if within else _BEYOND
    if request.sub_offset and content_types.is_json(source.content_type):
        if request.sub_offset > MAX_JSON_MESSAGES:
            return _TOO_FAR
        return RemainingMessages(base, request.sub_offset)
    position = base + request.sub_offset
    return OVERSHOOT if position > source.tail else position


def count_messages(
    step: RemainingMessages, size: int, stored: bytes | None
) -> int | RemainingMessages:
    """Count through ``size`` bytes of whole stored messages from the position of ``step``.

    ``stored`` is None if the bytes are a single message. Return the fork point if the count
    reaches it, and the remaining messages otherwise.
    """
    if stored is None:
        position, missing = step.position + size, step.messages - 1
    else:
        taken = json_mode.messages(stored)[: step.messages]
        position = step.position + sum([len(message) + 1 for message in taken])
        missing = step.messages - len(taken)
    return RemainingMessages(position, missing) if missing else position


def fork(
    source: StreamState, command: Create, position: int, boundary: bool, now: int
) -> Created | Refusal:
    """Create a fork at a path without a stream (PUT with Stream-Forked-From).

    ``position`` is the fork point; ``boundary`` is False if it is inside a message. The expiry
    is that of the request, or else of the source (table of §4.2). The new stream has id 0, which
    `assign_id` replaces. ``now`` is in ms since the Unix epoch.
    """
    request = command.fork
    assert request is not None
    if not boundary:
        return TORN
    body = command.body
    if command.content_type is None and body.data:
        # The body was not parsed before, because its type is that of the source.
        body = bodies.initial(source.content_type, body.data)
    if body.problem is not None:
        return body.problem
    if position + len(body.data) > MAX_POSITION:
        return Refusal(Problem.STORAGE_FULL, "the stream has reached the largest offset")
    inherits = command.lifetime.matches(NO_EXPIRY)
    state = StreamState(
        id=0,
        path=command.path,
        content_type=command.content_type or source.content_type,
        tail=position + len(body.data),
        created_at=now,
        touched_at=now,
        lifetime=source.lifetime if inherits else command.lifetime,
        closed=command.closed,
        fork=ForkPoint(
            source_id=source.id,
            position=position,
            source=request.source,
            offset=_position(request.offset),
            sub_offset=request.sub_offset,
            depth=1 if source.fork is None else source.fork.depth + 1,
            inherits_lifetime=inherits,
        ),
    )
    return Created(state, fresh=True, body=body)


def assign_id(state: StreamState, source: StreamState, number: int) -> StreamState:
    """Return a new fork with the id ``number`` and the lineage inherited from its source."""
    return replace(state, id=number, lineage=lineage.fork_lineage(source, number, state.origin))


def matches_request(existing: StreamState, request: ForkRequest) -> bool:
    """Return whether a request describes an existing fork, by its request or its fork point."""
    point = existing.fork
    assert point is not None, "existing is a fork"
    if point.source != request.source:
        return False
    requested, position = request.offset, _position(request.offset)
    if isinstance(requested, Offset) and not lineage.owns(
        existing, requested.incarnation, requested.position
    ):
        return False
    if (point.offset, point.sub_offset) == (position, request.sub_offset):
        return True
    return position == point.position and not request.sub_offset


def _position(requested: RequestedOffset | None) -> int | None:
    return requested.position if isinstance(requested, Offset) else requested


def add_reference(source: StreamState) -> StreamState:
    """Return a source with one more fork."""
    return replace(source, forks=source.forks + 1)


def remove_reference(source: StreamState) -> StreamState | None:
    """Return a source with one fork less, or None if the source was kept only for it."""
    assert source.forks > 0, "every fork is counted by its source"
    left = source.forks - 1
    return None if source.deleted and not left else replace(source, forks=left)
