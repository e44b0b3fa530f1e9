"""Transitions of streams: state and command in, outcome or refusal out.

The functions are pure. Every store calls them inside its transaction, so that all stores
decide alike (PROTOCOL.md §5.1-§5.4, §12.4, §12.6).
"""

from __future__ import annotations

from msgspec.structs import replace

from durable_streams_tw.protocol import content_types, headers
from durable_streams_tw.protocol.errors import HeaderList, Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams import forks, producers
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.offsets import offset_bytes
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.preconditions import check_precondition
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, StreamState


def check_usable(state: StreamState | None, expired: bool) -> Refusal | None:
    """Return a refusal if a path has no usable stream: missing, deleted or ``expired``."""
    if state is None:
        return Refusal(Problem.STREAM_NOT_FOUND, "there is no stream at this path")
    if state.deleted:
        return Refusal(Problem.STREAM_GONE, "the stream was deleted; only its forks remain")
    if expired:
        return Refusal(Problem.STREAM_NOT_FOUND, "the stream has expired")
    return None


def create(command: Create, now: int) -> Created | Refusal:
    """Create a stream at a path without one (PUT without fork headers, §5.1).

    ``now`` is in ms since the Unix epoch. The new stream has id 0, which the store replaces.
    """
    body = command.body
    if body.problem is not None:
        return body.problem
    state = StreamState(
        id=0,
        path=command.path,
        content_type=command.content_type or content_types.DEFAULT,
        tail=len(body.data),
        created_at=now,
        touched_at=now,
        lifetime=command.lifetime,
        closed=command.closed,
    )
    return Created(state, fresh=True, body=body)


def repeat_create(existing: StreamState, command: Create) -> Created | Refusal:
    """Compare a PUT with the existing stream: same configuration or a conflict (§4.2, §5.1)."""
    if existing.deleted:
        return Refusal(Problem.PATH_HELD, "a deleted stream that still has forks occupies the path")
    difference = _difference(existing, command)
    if difference is not None:
        return Refusal(Problem.STREAM_EXISTS, f"the stream exists with {difference}")
    return check_precondition(command.precondition, existing) or Created(existing, fresh=False)


def _difference(existing: StreamState, command: Create) -> str | None:
    point, request = existing.fork, command.fork
    if (point is None) != (request is None):
        return "another origin: it is a fork" if request is None else "another origin"
    if point is not None and request is not None and not forks.matches_request(existing, request):
        return f"another origin: it is a fork of {point.source}"
    # A PUT of a fork that omits these inherits them, the first time and when it is repeated.
    inherits = point is not None and point.inherits_lifetime and command.lifetime == NO_EXPIRY
    if command.content_type is not None or point is None:
        requested_type = command.content_type or content_types.DEFAULT
        if not content_types.same(existing.content_type, requested_type):
            return f"content type {existing.content_type}"
    if not inherits and not existing.lifetime.matches(command.lifetime):
        return "another TTL or expiry"
    if existing.closed != command.closed:
        return "another closed status"
    return None


def append(
    state: StreamState, producer: producers.ProducerState | None, command: Append, now: int
) -> Appended | Refusal:
    """Append to a stream, close it, or both (POST, §5.2, §5.3).

    ``state`` is a stream that `check_usable` accepted, and ``producer`` the stored state of the
    command's producer. The checks run in this order: stale epoch, closed, empty body, content
    type, producer sequence, Stream-Seq, body, precondition.
    """
    claim = command.producer
    if claim is not None:
        fenced = producers.check_epoch(producer, claim)
        if fenced is not None:
            return fenced
    if state.closed:
        return _append_to_closed(state, producer, command)
    body = command.body
    if body is None and not command.closed:
        return Refusal(Problem.EMPTY_BODY, "an append requires a body or Stream-Closed: true")
    if body is not None:
        mismatch = _mismatch(state, command.content_type)
        if mismatch is not None:
            return mismatch
    advanced: producers.ProducerState | None = None
    if claim is not None:
        verdict = producers.check_sequence(producer, claim)
        if isinstance(verdict, Refusal):
            return verdict
        if isinstance(verdict, producers.Duplicate):
            return Appended(state, verdict.state, duplicate=True)
        advanced = verdict
    seq = command.stream_seq
    if seq is not None and state.last_seq is not None and seq <= state.last_seq:
        return Refusal(
            Problem.SEQUENCE_REGRESSION,
            # The official PHP client recognises this 409 by the first two words.
            "sequence conflict: Stream-Seq must be greater than the last one accepted",
        )
    tail = state.tail
    if body is not None:
        if body.problem is not None:
            return body.problem
        tail += len(body.data)
        if tail > MAX_POSITION:
            return Refusal(Problem.STORAGE_FULL, "the stream has reached its largest offset")
    if command.precondition is not None:
        refusal = check_precondition(command.precondition, state)
        if refusal is not None:
            return refusal
    changed = replace(
        state,
        tail=tail,
        touched_at=now,
        closed=command.closed,
        closed_by=claim if command.closed else None,
        last_seq=state.last_seq if seq is None else seq,
    )
    return Appended(changed, advanced, grew=body is not None)


def _append_to_closed(
    state: StreamState, producer: producers.ProducerState | None, command: Append
) -> Appended | Refusal:
    claim = command.producer
    if claim is not None:
        if claim == state.closed_by:
            return Appended(state, producer, duplicate=True)
    elif command.closed and command.body is None:
        return check_precondition(command.precondition, state) or Appended(state, duplicate=True)
    return closed_refusal(state)


def closed_refusal(state: StreamState) -> Refusal:
    """Return the refusal of an append to a closed stream, with its tail (§5.2)."""
    closed_at: HeaderList = (
        (headers.H_CLOSED, headers.TRUE),
        (headers.H_NEXT_OFFSET, offset_bytes(state, state.tail)),
    )
    return Refusal(Problem.STREAM_CLOSED, "the stream is closed", closed_at)


def _mismatch(state: StreamState, content_type: str | None) -> Refusal | None:
    if content_type is None:
        return Refusal(Problem.MALFORMED_FIELD, "an append with a body requires a Content-Type")
    if not content_types.same(state.content_type, content_type):
        return Refusal(
            Problem.CONTENT_TYPE_MISMATCH,
            f"the stream's content type is {state.content_type}, not {content_type}",
        )
    return None


def delete(state: StreamState) -> Deleted:
    """Delete a stream (§5.4). A stream with forks is marked deleted and kept for them."""
    return Deleted(replace(state, deleted=True) if state.forks else state)
