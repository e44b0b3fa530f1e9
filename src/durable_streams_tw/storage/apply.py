"""One command in one transaction: the imperative side of `protocol.transitions`.

Every store runs its commands through `apply`. It reads what the decision needs, asks the
pure function, and writes what came of it.
"""

from __future__ import annotations

from msgspec.structs import replace

from durable_streams_tw.protocol import transitions
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.requests import Append, Create, Delete
from durable_streams_tw.protocol.state import StreamState
from durable_streams_tw.storage.interfaces import Change, Command, Outcome, Transaction


def apply(transaction: Transaction, command: Command, now: int) -> Outcome:
    """Carry out a command at a time (milliseconds since 1970)."""
    if isinstance(command, Append):
        return _append(transaction, command, now)
    if isinstance(command, Create):
        return _create(transaction, command, now)
    return _delete(transaction, command, now)


def _append(transaction: Transaction, command: Append, now: int) -> Outcome:
    state = transaction.stream_at(command.path)
    accessed_at = 0 if state is None else transaction.accessed_at(state.id, now)
    missing = transitions.absent(state, now, accessed_at)
    if missing is not None:
        return missing
    assert state is not None
    claim = command.producer
    known = None if claim is None else transaction.producer(state.id, claim.id)
    outcome = transitions.append(state, known, command, now)
    if isinstance(outcome, Refusal) or outcome.duplicate:
        return outcome
    after = outcome.state
    transaction.save(after)
    if claim is not None and outcome.producer is not None:
        transaction.save_producer(state.id, claim.id, outcome.producer)
    data = b""
    if command.body is not None:
        data = command.body.data
        transaction.append(after, state.tail, command.body)
    transaction.changes.append(Change(after, state.tail, data))
    return outcome


def _create(transaction: Transaction, command: Create, now: int) -> Outcome:
    existing = transaction.stream_at(command.path)
    if existing is not None and _has_ended(transaction, existing, now):
        end(transaction, existing)
        existing = transaction.stream_at(command.path)
    new_id = 0 if existing is not None else transaction.new_id()
    outcome = transitions.create(existing, command, new_id, now)
    if isinstance(outcome, Refusal) or not outcome.fresh:
        return outcome
    transaction.save(outcome.state)
    if command.body.data:
        transaction.append(outcome.state, outcome.state.origin, command.body)
    transaction.changes.append(Change(outcome.state, outcome.state.origin, command.body.data))
    return outcome


def _has_ended(transaction: Transaction, state: StreamState, now: int) -> bool:
    accessed_at = transaction.accessed_at(state.id, now)
    return not state.deleted and state.has_expired(now, accessed_at)


def _delete(transaction: Transaction, command: Delete, now: int) -> Outcome:
    state = transaction.stream_at(command.path)
    accessed_at = 0 if state is None else transaction.accessed_at(state.id, now)
    missing = transitions.absent(state, now, accessed_at)
    if missing is not None:
        return missing
    assert state is not None
    return end(transaction, state)


def expire(transaction: Transaction, stream_id: int, now: int) -> int | None:
    """End a stream if its time has come; otherwise say when that will be (ms since 1970)."""
    state = transaction.stream(stream_id)
    if state is None or state.deleted:
        return None
    accessed_at = transaction.accessed_at(stream_id, now)
    if state.has_expired(now, accessed_at):
        end(transaction, state)
        return None
    return state.deadline(accessed_at)


def touch(transaction: Transaction, stream_id: int, accessed_at: int) -> None:
    """Write down when a stream was last accessed (milliseconds since 1970)."""
    state = transaction.stream(stream_id)
    if state is not None and not state.deleted and state.touched_at < accessed_at:
        transaction.save(replace(state, touched_at=accessed_at))


def end(transaction: Transaction, state: StreamState) -> transitions.Deleted:
    """Delete a stream that exists, whoever asked for it."""
    outcome = transitions.delete(state)
    if outcome.state.deleted:
        transaction.save(outcome.state)
    else:
        transaction.forget(state)
    transaction.changes.append(Change(outcome.state, state.tail, b"", gone=True))
    return outcome
