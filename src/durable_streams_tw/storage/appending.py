"""An append in a transaction, without what it means for subscriptions."""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol import transitions
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.outcomes import Appended
from durable_streams_tw.protocol.requests import Append
from durable_streams_tw.protocol.state import StreamState
from durable_streams_tw.storage.interfaces import Change, Transaction

FULL: Final = Refusal(Problem.STORAGE_FULL, "there is no room for more bytes")


def append(transaction: Transaction, command: Append, now: int) -> Appended | Refusal:
    """Carry out an append at a time (milliseconds since 1970)."""
    state = usable(transaction, command.path, now)
    if isinstance(state, Refusal):
        return state
    claim = command.producer
    known = None if claim is None else transaction.producer(state.id, claim.id)
    outcome = transitions.append(state, known, command, now)
    if isinstance(outcome, Refusal) or outcome.duplicate:
        return outcome
    if outcome.grew and not transaction.roomy:
        return FULL
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


def usable(transaction: Transaction, path: str, now: int) -> StreamState | Refusal:
    """The stream at a path, or why a client cannot use it."""
    state = transaction.stream_at(path)
    accessed_at = 0 if state is None else transaction.accessed_at(state.id, now)
    missing = transitions.absent(state, now, accessed_at)
    if missing is not None:
        return missing
    assert state is not None, "what is not missing is there"
    return state


def living(transaction: Transaction, path: str, now: int) -> StreamState | None:
    """The stream at a path, where a client may use it."""
    state = transaction.stream_at(path)
    if state is None or state.deleted:
        return None
    return None if state.has_expired(now, transaction.accessed_at(state.id, now)) else state
