"""Pending work of subscriptions, and the wakes that it starts (PROTOCOL.md §7).

A stream has a cursor for a subscription only while work is pending: the first append after the
last acknowledged byte writes a cursor at the tail before the append. A stream without a cursor is
acknowledged up to its tail. Therefore linking streams writes no cursors, even if a new glob matches
a million streams, and an append to a stream that is already pending writes nothing for its
subscriptions.

Two invariants hold after every command while no fan-out is unfinished: an idle subscription has no
cursors, and a subscription that is waking or offered has at least one. Therefore the record of a
subscription tells whether work is pending, and a crash between two commits loses no wake.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from random import random
from typing import Final

from msgspec.structs import replace
from twisted.logger import Logger

from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import MAX_WAKE_STREAMS
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions import state as subscriptions_state
from durable_streams_tw.protocol.subscriptions.index import Member
from durable_streams_tw.protocol.subscriptions.outcomes import WorkItem
from durable_streams_tw.protocol.subscriptions.state import (
    Cursor,
    FanOut,
    FanOutKind,
    Kind,
    Subscription,
)
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import OF_STREAMS, StoreSnapshot
from durable_streams_tw.storage.commands.appends import append, living
from durable_streams_tw.storage.commands.transaction import Transaction
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.errors import CorruptRecord

_log: Final = Logger()

_WAKE_ID_BYTES: Final = 12

# Number of subscriptions up to which the fan-out of an event is always finished in one step.
_ONE_STEP: Final = limits.FAN_OUT_STEP // limits.FAN_OUT_DROP


# -- events of streams --------------------------------------------------------------------------


def grown(transaction: Transaction, path: str, before: int, now: int) -> None:
    """Update the subscriptions of a stream after an append at the position ``before``.

    Streams that were not pending get a cursor, and idle subscriptions a wake. ``now`` is in ms
    since the Unix epoch. Subscriptions beyond the first step are updated by `resume`.
    """
    _fan_out(transaction, FanOut(path, FanOutKind.GROWN, before), now)


def created(transaction: Transaction, path: str, now: int) -> None:
    """Write the wake events that were waiting for a wake stream to be created.

    Also repeat the events of wakes in progress that were written to a deleted stream of the same
    path. ``now`` is in ms since the Unix epoch.
    """
    _fan_out(transaction, FanOut(path, FanOutKind.CREATED), now)


def ended(transaction: Transaction, path: str, now: int) -> None:
    """Remove the cursors of a stream that was deleted or has become a wake stream."""
    _fan_out(transaction, FanOut(path, FanOutKind.ENDED), now)


def drop(transaction: Transaction, member: Member, path: str) -> int:
    """Remove a subscription's cursor of a stream; return the cost in units of FAN_OUT_STEP.

    Also end the subscription's wake if no other stream is pending, unless a worker holds the lease.
    """
    number, name = member
    key = tables.owned_key(number, path)
    if transaction.get(tables.CURSORS, key) is None:
        return 1
    state = transaction.get(tables.SUBSCRIPTIONS, tables.subscription_key(name))
    assert state is not None and state.number == number, "cursors belong to a subscription"
    transaction.remove(tables.CURSORS, key)
    if not state.idle and not state.leased and not transaction.owns(tables.CURSORS, number):
        save(transaction, subscriptions_state.end_wake(state))
    return limits.FAN_OUT_DROP


# -- fan-outs -----------------------------------------------------------------------------------
#
# An event of a stream may concern any number of subscriptions. One transaction updates as many as
# FAN_OUT_STEP allows and writes a record of the rest in the same commit as the event, so a crash
# loses no update. Until that record is removed, `must_wait` delays the commands of the stream and
# all commands of subscriptions, which would otherwise read a half-updated state.


def resume(transaction: Transaction, now: int) -> None:
    """Update the next subscriptions of the oldest unfinished fan-out, up to one step.

    ``now`` is in ms since the Unix epoch.
    """
    fan_out = _oldest(transaction)
    after = _advance(transaction, fan_out, _concerned(transaction, fan_out), now)
    if after is None:
        _forget(transaction, fan_out)
    else:
        _record(transaction, after)


def abandon(transaction: Transaction) -> None:
    """Remove the oldest unfinished fan-out without updating its remaining subscriptions."""
    _forget(transaction, _oldest(transaction))


def _oldest(transaction: Transaction) -> FanOut:
    fan_outs: OrderedDict[str, FanOut] = transaction.fan_outs
    return next(iter(fan_outs.values()))


def _forget(transaction: Transaction, fan_out: FanOut) -> None:
    del transaction.fan_outs[fan_out.path]
    transaction.remove(tables.FAN_OUTS, tables.name_key(fan_out.path))


def must_wait(transaction: Transaction, command: object, held: bool) -> bool:
    """Return whether a command has to wait until a fan-out is finished.

    ``held`` means that a command of a subscription is waiting. Then commands that could start a
    fan-out of several steps wait too, so that they cannot delay it forever.
    """
    if not isinstance(command, OF_STREAMS):
        return bool(transaction.fan_outs)
    path = command.path
    if path in transaction.fan_outs:
        return True
    if not held:
        return False
    index = transaction.index
    return len(index.linked(path)) + len(index.with_wake_stream(path)) > _ONE_STEP


def _fan_out(transaction: Transaction, fan_out: FanOut, now: int) -> None:
    members = _concerned(transaction, fan_out)
    if members:
        after = _advance(transaction, fan_out, members, now)
        if after is not None:
            _record(transaction, after)


def _record(transaction: Transaction, fan_out: FanOut) -> None:
    transaction.fan_outs[fan_out.path] = fan_out
    transaction.put(tables.FAN_OUTS, tables.name_key(fan_out.path), fan_out)


def _concerned(transaction: Transaction, fan_out: FanOut) -> tuple[Member, ...]:
    index = transaction.index
    if fan_out.kind is FanOutKind.GROWN:
        return index.matching(fan_out.path)
    if fan_out.kind is FanOutKind.CREATED:
        return index.with_wake_stream(fan_out.path)
    return index.linked(fan_out.path)


def _advance(
    transaction: Transaction, fan_out: FanOut, members: tuple[Member, ...], now: int
) -> FanOut | None:
    """Update subscriptions up to a cost of FAN_OUT_STEP.

    Return the fan-out of the remaining subscriptions, or None if none remain.
    """
    left = limits.FAN_OUT_STEP
    for at in range(bisect_left(members, (fan_out.reached + 1, "")), len(members)):
        if left <= 0:
            return replace(fan_out, reached=members[at - 1][0])
        try:
            left -= _tell(transaction, fan_out, members[at], now)
        except CorruptRecord as corrupt:
            # Without this, a corrupt subscription would fail every append to the stream.
            _log.error("A subscription was not updated: {corrupt}", corrupt=corrupt)
            left -= 1
    return None


def _tell(transaction: Transaction, fan_out: FanOut, member: Member, now: int) -> int:
    """Update one subscription; return the cost in units of FAN_OUT_STEP."""
    path, kind = fan_out.path, fan_out.kind
    if kind is FanOutKind.ENDED:
        return drop(transaction, member, path)
    number, name = member
    key = tables.owned_key(number, path)
    if kind is FanOutKind.GROWN and transaction.get(tables.CURSORS, key) is not None:
        return 1
    state = transaction.get(tables.SUBSCRIPTIONS, tables.subscription_key(name))
    assert state is not None and state.number == number, "the index knows what there is"
    if kind is FanOutKind.GROWN:
        transaction.put(tables.CURSORS, key, Cursor(path, fan_out.before))
        if state.idle:
            save(transaction, wake(transaction, state, path, now))
        return limits.FAN_OUT_WRITE
    if state.idle or state.leased:
        return 1
    save(transaction, offer(transaction, state, now))
    return limits.FAN_OUT_DROP


# -- wakes --------------------------------------------------------------------------------------


def save(transaction: Transaction, state: Subscription) -> None:
    """Write a subscription's state."""
    transaction.put(tables.SUBSCRIPTIONS, tables.subscription_key(state.id), state)


def wake(transaction: Transaction, state: Subscription, trigger: str, now: int) -> Subscription:
    """Begin the next wake of an idle subscription and return the new state, which is not saved.

    For a pull-wake subscription, also write the wake event. ``now`` is in ms since the Unix epoch.
    """
    wake_id = f"w_{secrets.token_urlsafe(_WAKE_ID_BYTES)}"
    state = subscriptions_state.begin_wake(state, trigger, wake_id, now)
    return offer(transaction, state, now) if state.config.kind is Kind.PULL else state


def wake_if_pending(
    transaction: Transaction, state: Subscription, after: bytes, now: int
) -> Subscription:
    """Begin the next wake of an idle subscription if a stream is pending; return the new state.

    Search from the stream after the key ``after`` and wrap around, so that successive wakes list
    all pending streams even if a single wake has no space for them. Remove the cursors of deleted
    and expired streams found in between. ``now`` is in ms since the Unix epoch.
    """
    first, stop = tables.owned_range(state.number)
    for begin, end in ((after + b"\x00", stop), (first, after + b"\x00")):
        while True:
            found = next(transaction.range(tables.CURSORS, begin, end), None)
            if found is None:
                break
            key, cursor = found
            if living(transaction, cursor.path, now) is not None:
                return wake(transaction, state, cursor.path, now)
            transaction.remove(tables.CURSORS, key)
    return state


def offer(transaction: Transaction, state: Subscription, now: int) -> Subscription:
    """Write the wake event of a pull-wake subscription; return the new state, which is not saved.

    If the wake stream cannot be written, record a failure, after which the event is retried.
    ``now`` is in ms since the Unix epoch.
    """
    config = state.config
    assert config.wake_stream is not None, "pull-wake subscriptions have a wake stream"
    try:
        stream = living(transaction, config.wake_stream, now)
        if (
            stream is not None
            and transaction.has_space
            and not transaction.is_receiving(stream.path)
        ):
            outcome = append(transaction, _event(state, stream, now), now)
            if not isinstance(outcome, Refusal):
                return subscriptions_state.mark_offered(state)
    except CorruptRecord as corrupt:
        _log.error("A wake event cannot be written: {corrupt}", corrupt=corrupt)
    return subscriptions_state.record_failure(state, now, random())


def _event(state: Subscription, stream: StreamState, now: int) -> Append:
    """Return the append of a wake event (§7.2): a message in JSON mode, otherwise a line."""
    event = {
        "type": "wake",
        "subscription_id": state.id,
        "stream": state.trigger,
        "generation": state.generation,
        "ts": now,
    }
    raw = json.dumps(event).encode("ascii")
    if not content_types.is_json(stream.content_type):
        raw += b"\n"
    return Append(stream.path, stream.content_type, bodies.appended(stream.content_type, raw))


# -- work items of a wake -----------------------------------------------------------------------


def work_of(
    records: StoreSnapshot | Transaction,
    find_stream: Callable[[str], StreamState | None],
    state: Subscription,
) -> tuple[WorkItem, ...]:
    """Return the pending streams that a wake lists, beginning with the stream that caused it.

    ``find_stream`` returns the stream at a path, or None if a client may not use it. Streams beyond
    MAX_WAKE_STREAMS items or MAX_WAKE_NAMES bytes of paths are left for the next wake.
    """
    items: list[WorkItem] = []
    size = 0
    for key, cursor in _around(records, state):
        stream = find_stream(cursor.path)
        if stream is None:
            continue
        size += len(cursor.path)
        if len(items) == MAX_WAKE_STREAMS or (items and size > limits.MAX_WAKE_NAMES):
            break
        explicit = records.get(tables.LINKS, key) is not None
        items.append(WorkItem(cursor.path, explicit, cursor.acked, stream))
    return tuple(items)


def _around(
    records: StoreSnapshot | Transaction, state: Subscription
) -> Iterator[tuple[bytes, Cursor]]:
    first, stop = tables.owned_range(state.number)
    begin = tables.owned_key(state.number, state.trigger)
    yield from records.range(tables.CURSORS, begin, stop)
    yield from records.range(tables.CURSORS, first, begin)
