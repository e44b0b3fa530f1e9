"""Appends in a transaction, without the fan-out to subscriptions."""

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

FULL: Final = Refusal(Problem.STORAGE_FULL, "the storage is full: delete streams or add space")


def append(transaction: Transaction, command: Append, now: int) -> Appended | Refusal:
    """Carry out an append; return its outcome, or a refusal without having written.

    ``now`` is in ms since the Unix epoch. The caller starts the fan-out to subscriptions. Raises
    `CorruptRecord`.
    """
    state = check_usable(transaction.stream_at(command.path), transaction.access, now)
    if isinstance(state, Refusal):
        return state
    claim = command.producer
    known = None if claim is None else transaction.producer(state.id, claim.id)
    outcome = transitions.append(state, known, command, now)
    if isinstance(outcome, Refusal) or outcome.duplicate:
        return outcome
    after = outcome.state
    body = command.body
    if body is not None:
        if not transaction.has_space:
            return FULL
        if lineage.newest_incarnation(after) < transaction.process_first_id:
            # Without a new incarnation, an offset that a copy of this store returned for other
            # bytes at the same position would be accepted here.
            after = lineage.start_incarnation(after, transaction.new_id(), state.tail)
            outcome = replace(outcome, state=after)
    transaction.save(after)
    if claim is not None and outcome.producer is not None:
        transaction.save_producer(state.id, claim.id, outcome.producer)
    if body is not None:
        transaction.append(after, state.tail, body)
    transaction.changes.append(Change(after, state.tail, b"" if body is None else body.data))
    return outcome


def position(transaction: Transaction, command: Append, now: int) -> tuple[int, int] | None:
    """Return the stream id and the position at which an append would write its body.

    Return None if the append would write nothing: a refusal, a duplicate or an empty body.
    ``now`` is in ms since the Unix epoch.
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
    """Return the stream at a path, or None if it does not exist, is deleted or has expired.

    ``now`` is in ms since the Unix epoch.
    """
    state = check_usable(transaction.stream_at(path), transaction.access, now)
    return None if isinstance(state, Refusal) else state
