"""Forks: where one leaves its source, what it inherits, when both end (PROTOCOL.md §4.2).

A fork shares its source's positions and bytes up to the fork point; nothing is copied. It
starts with no producers and no Stream-Seq, and open, whatever its source is.
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
    """The fork point lies ``messages`` whole messages behind ``position``."""

    position: int
    messages: int


_BEYOND = Refusal(Problem.INVALID_FORK, "Stream-Fork-Offset lies beyond the end of the source")
OVERSHOOT = Refusal(
    Problem.INVALID_FORK, "Stream-Fork-Sub-Offset names a position behind the end of the source"
)
# No request brings more messages, so behind the anchor there is a nearer offset (§4.2: the
# sub-offset stays before the next data boundary); and nobody makes a store count for long.
_TOO_FAR = Refusal(
    Problem.INVALID_FORK,
    f"Stream-Fork-Sub-Offset is at most {MAX_JSON_MESSAGES} messages: fork from a later offset",
)
UNCOUNTED = Refusal(
    Problem.OVERLOADED,
    "the stream at Stream-Forked-From has changed while its messages were counted: try again",
    ((b"Retry-After", b"1"),),
)
TORN = Refusal(
    Problem.INVALID_FORK,
    "Stream-Fork-Offset lies inside a message: use one that this server returned",
)


def check_source(source: StreamState | None, expired: bool) -> Refusal | None:
    """Refuse a source that is not there (404), or is deleted and kept for its forks (409)."""
    if source is None or (expired and not source.deleted):
        return Refusal(Problem.STREAM_NOT_FOUND, "there is no stream at Stream-Forked-From")
    if source.deleted:
        return Refusal(Problem.SOURCE_GONE, "the stream at Stream-Forked-From is deleted")
    return None


def locate_fork_point(source: StreamState, command: Create) -> int | RemainingMessages | Refusal:
    """Where a fork leaves a usable source, before its content is looked at.

    A position where that is known; an `RemainingMessages` where messages have to be counted first.
    The position of either is yet to be checked against message boundaries.
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
            Problem.INVALID_FORK, f"forks of forks go at most {MAX_FORK_DEPTH} levels deep"
        )
    asked = offsets.NOW if request.offset is None else request.offset
    base = offsets.resolve(source, asked)
    if isinstance(base, Refusal):
        # PROTOCOL.md §4.2 wants 400 for every offset beyond the source.
        within = isinstance(asked, Offset) and asked.position <= source.tail
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
    """Count on through ``size`` bytes of whole stored messages that begin at the step's position.

    ``stored`` is None where they are one message, whose bytes do not matter then. The fork point
    once it is reached; otherwise how far it still is.
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
    """PUT with Stream-Forked-From, where nothing is at the path yet.

    ``position`` is the fork point, ``boundary`` whether it lies between messages. The
    expiry follows the table of §4.2: the request's own, or else the source's. The new
    stream's id is 0, for the store to replace.
    """
    request = command.fork
    assert request is not None
    if not boundary:
        return TORN
    body = command.body
    if command.content_type is None and body.data:
        # Only here is it known what the bytes are.
        body = bodies.initial(source.content_type, body.data)
    if body.problem is not None:
        return body.problem
    if position + len(body.data) > MAX_POSITION:
        return Refusal(Problem.STORAGE_FULL, "the stream has reached its largest offset")
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
    """A new fork under its own id, with the lineage that it has of its source."""
    return replace(state, id=number, lineage=lineage.fork_lineage(source, number, state.origin))


def matches_request(existing: StreamState, request: ForkRequest) -> bool:
    """Whether a request names the fork that exists: as it was asked for, or by the point."""
    point = existing.fork
    assert point is not None, "a fork has a fork point"
    if point.source != request.source:
        return False
    asked, position = request.offset, _position(request.offset)
    if isinstance(asked, Offset) and not lineage.owns(existing, asked.incarnation, asked.position):
        return False
    if (point.offset, point.sub_offset) == (position, request.sub_offset):
        return True
    return position == point.position and not request.sub_offset


def _position(asked: RequestedOffset | None) -> int | None:
    return asked.position if isinstance(asked, Offset) else asked


def add_reference(source: StreamState) -> StreamState:
    """A source that one more fork inherits from."""
    return replace(source, forks=source.forks + 1)


def remove_reference(source: StreamState) -> StreamState | None:
    """A source that one fork less inherits from; None where that was all it lived for."""
    assert source.forks > 0, "a fork that ends was counted"
    left = source.forks - 1
    return None if source.deleted and not left else replace(source, forks=left)
