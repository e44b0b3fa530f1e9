"""An append in a transaction, without what it means for subscriptions."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import lineage, transitions
from durable_streams_tw.protocol.streams.commands import Append
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.access_times import check_usable
from durable_streams_tw.storage.api import Change
from durable_streams_tw.storage.commands.transaction import Transaction

FULL: Final = Refusal(Problem.STORAGE_FULL, "there is no room for more bytes")


def append(transaction: Transaction, command: Append, now: int) -> Appended | Refusal:
    """Carry out an append at a time (milliseconds since 1970)."""
    state = check_usable(transaction.stream_at(command.path), transaction.access, now)
    if isinstance(state, Refusal):
        return state
    claim = command.producer
    known = None if claim is None else transaction.producer(state.id, claim.id)
    outcome = transitions.append(state, known, command, now)
    if isinstance(outcome, Refusal) or outcome.duplicate:
        return outcome
    if outcome.grew and not transaction.has_space:
        return FULL
    after = outcome.state
    if outcome.grew and lineage.newest_incarnation(after) < transaction.process_first_id:
        # Bytes that a copy of this store has appended since may have the same positions.
        after = lineage.start_incarnation(after, transaction.new_id(), state.tail)
        outcome = replace(outcome, state=after)
    transaction.save(after)
    if claim is not None and outcome.producer is not None:
        transaction.save_producer(state.id, claim.id, outcome.producer)
    data = b""
    if command.body is not None:
        data = command.body.data
        transaction.append(after, state.tail, command.body)
    transaction.changes.append(Change(after, state.tail, data))
    return outcome


def position(transaction: Transaction, command: Append, now: int) -> tuple[int, int] | None:
    """Return the stream id and the position at which an append would write its body.

    Return None if it would not write.
    """
    state = check_usable(transaction.stream_at(command.path), transaction.access, now)
    if isinstance(state, Refusal) or not transaction.has_space:
        return None
    claim = command.producer
    known = None if claim is None else transaction.producer(state.id, claim.id)
    outcome = transitions.append(state, known, command, now)
    if isinstance(outcome, Refusal) or outcome.duplicate or not outcome.grew:
        return None
    return state.id, state.tail


def living(transaction: Transaction, path: str, now: int) -> StreamState | None:
    """Return the stream at a path if a client may use it."""
    state = check_usable(transaction.stream_at(path), transaction.access, now)
    return None if isinstance(state, Refusal) else state
