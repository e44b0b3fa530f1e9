"""Execution of commands on streams: reads and writes around `protocol.streams.transitions`.

Every store carries out its commands with `apply`, which reads the state that the decision needs,
calls the pure transition, and writes its outcome.
"""

from __future__ import annotations

from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import forks, transitions
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.preconditions import check_precondition
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.access_times import check_usable
from durable_streams_tw.storage.api import Change, Command, Outcome
from durable_streams_tw.storage.commands import forks as commands_forks
from durable_streams_tw.storage.commands import pending, subscriptions
from durable_streams_tw.storage.commands.appends import FULL, append, position
from durable_streams_tw.storage.commands.transaction import Transaction


def apply(transaction: Transaction, command: Command, now: int) -> Outcome | None:
    """Carry out a command; return its outcome or a refusal.

    Return None if the caller has to carry it out again after the unfinished fan-outs of the
    transaction. ``now`` is in ms since the Unix epoch. Raises `CorruptRecord`.
    """
    if isinstance(command, Append):
        outcome = append(transaction, command, now)
        if transaction.index and isinstance(outcome, Appended) and outcome.grew:
            assert command.body is not None, "a stream grows by a body"
            before = outcome.state.tail - len(command.body.data)
            pending.grown(transaction, command.path, before, now)
        return outcome
    if isinstance(command, Create):
        return _create(transaction, command, now)
    if isinstance(command, Delete):
        return _delete(transaction, command, now)
    return subscriptions.carry_out(transaction, command, now)


def body_position(
    transaction: Transaction, command: Append | Create, now: int
) -> tuple[int | None, int] | None:
    """Return the stream id and the position at which a command would write its body.

    The id is None for a stream that the command would create. Return None if the command would
    write no body or is a fork. ``now`` is in ms since the Unix epoch.
    """
    if isinstance(command, Append):
        return position(transaction, command, now)
    if command.fork is not None or transaction.stream_at(command.path) is not None:
        return None
    outcome = transitions.create(command, now)
    if isinstance(outcome, Refusal) or check_precondition(command.precondition, None) is not None:
        return None
    return (None, 0) if transaction.has_space and outcome.body is command.body else None


def _create(transaction: Transaction, command: Create, now: int) -> Outcome | None:
    existing = transaction.stream_at(command.path)
    if existing is not None and _has_ended(transaction, existing, now):
        end(transaction, existing, now)
        if command.path in transaction.fan_outs:
            # The cursors of the ended stream that are still there would apply to the new one.
            return None
        existing = transaction.stream_at(command.path)
    if existing is not None:
        return transitions.repeat_create(existing, command)
    source: StreamState | None = None
    outcome: Created | Refusal
    if command.fork is None:
        outcome = transitions.create(command, now)
    else:
        source = transaction.stream_at(command.fork.source)
        expired = source is not None and _has_ended(transaction, source, now)
        refusal = forks.check_source(source, expired)
        if refusal is not None:
            return refusal
        assert source is not None, "what is usable is there"
        outcome = commands_forks.fork(transaction, source, command, now)
    if isinstance(outcome, Created):
        outcome = check_precondition(command.precondition, None) or outcome
    if isinstance(outcome, Refusal):
        return outcome
    if not transaction.has_space:
        return FULL
    if source is None:
        state = replace(outcome.state, id=transaction.new_id())
    else:
        state = forks.assign_id(outcome.state, source, transaction.new_id())
        transaction.save(forks.add_reference(source))
    transaction.save(state)
    data = outcome.body.data
    start = state.tail - len(data)
    if data:
        transaction.append(state, start, outcome.body)
    transaction.changes.append(Change(state, start, data))
    if transaction.index:
        pending.created(transaction, state.path, now)
        if data:
            pending.grown(transaction, state.path, start, now)
    return Created(state, fresh=True, body=outcome.body)


def _has_ended(transaction: Transaction, state: StreamState, now: int) -> bool:
    return not state.deleted and transaction.access.has_ended(state, now)


def _delete(transaction: Transaction, command: Delete, now: int) -> Outcome:
    state = check_usable(transaction.stream_at(command.path), transaction.access, now)
    if isinstance(state, Refusal):
        return state
    return check_precondition(command.precondition, state) or end(transaction, state, now)


def expire(transaction: Transaction, stream_id: int, now: int) -> int | None:
    """End a stream if it has expired; otherwise return its deadline.

    Times are in ms since the Unix epoch. Return None if the stream has ended or has no deadline.
    """
    state = transaction.stream(stream_id)
    if state is None or state.deleted:
        return None
    if transaction.access.has_ended(state, now):
        end(transaction, state, now)
        return None
    return state.deadline(transaction.access.last_access(stream_id, now))


def touch(transaction: Transaction, stream_id: int, accessed_at: int) -> None:
    """Save the last access time of a stream (ms since the Unix epoch).

    Streams without a TTL are not written, nor streams with a later access time.
    """
    state = transaction.stream(stream_id)
    if state is None or state.deleted or state.lifetime.ttl is None:
        return
    if state.touched_at < accessed_at:
        transaction.save(replace(state, touched_at=accessed_at))


def end(transaction: Transaction, state: StreamState, now: int) -> Deleted:
    """Delete an existing stream, by request or because it has expired.

    Its record remains, marked as deleted, while it has forks.
    """
    outcome = transitions.delete(state)
    if outcome.state.deleted:
        transaction.save(outcome.state)
    else:
        transaction.remove_stream(state)
        _release(transaction, state)
    transaction.changes.append(Change(outcome.state, state.tail, b"", gone=True))
    if transaction.index:
        pending.ended(transaction, state.path, now)
    return outcome


def _release(transaction: Transaction, state: StreamState) -> None:
    """Remove a fork's reference to its source (§4.2).

    Also remove deleted sources whose last reference this was, up the chain.
    """
    while state.fork is not None:
        source = transaction.stream(state.fork.source_id)
        assert source is not None, "a source outlives its forks"
        left = forks.remove_reference(source)
        if left is not None:
            transaction.save(left)
            return
        transaction.remove_stream(source)
        state = source
