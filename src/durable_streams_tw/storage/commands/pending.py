"""Pending work: which streams of a subscription have more than is acknowledged, and what that
starts (PROTOCOL.md §7).

A stream has a cursor for a subscription only while there is pending work: its first append
behind the last acknowledged byte writes one, at the tail before the append. All others are
acknowledged up to their tail. So linking a stream, also the back-fill of a glob over a million
streams, writes nothing, and an append to a stream that is pending already writes nothing for
its subscriptions either.

Two rules hold after every command: an idle subscription has no cursors, one that is waking or
offered has at least one. So that work is pending is known from the subscription's own record,
and nothing that happens between two commits loses a wake.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Final

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
from durable_streams_tw.protocol.subscriptions.state import Cursor, Kind, Subscription
from durable_streams_tw.storage.api import StoreSnapshot, Transaction
from durable_streams_tw.storage.commands.appends import append, living
from durable_streams_tw.storage.engine.codec import CorruptRecord
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    LINKS,
    SUBSCRIPTIONS,
    owned_range,
    stream_key,
    subscription_key,
)
from durable_streams_tw.storage.limits import MAX_WAKE_NAMES

_log: Final = Logger()

_WAKE_ID_BYTES: Final = 12
_CHANCE_BYTES: Final = 4


# -- what happens to streams --------------------------------------------------------------------


def grown(transaction: Transaction, path: str, before: int, now: int) -> None:
    """Bytes were appended to a stream, at the position ``before``."""
    for member in transaction.index.matching(path):
        number, name = member
        try:
            key = stream_key(number, path)
            if transaction.get(CURSORS, key) is not None:
                continue
            state = transaction.get(SUBSCRIPTIONS, subscription_key(name))
        except CorruptRecord as corrupt:
            # The stream is sound, and its writers have nothing to do with this.
            _log.error("a subscription cannot be woken: {corrupt}", corrupt=corrupt)
            continue
        assert state is not None and state.number == number, "the index knows what there is"
        transaction.put(CURSORS, key, Cursor(path, before))
        if state.idle:
            save(transaction, wake(transaction, state, path, now))


def created(transaction: Transaction, path: str, now: int) -> None:
    """A stream was made. Where it is a wake stream, those who could not write to it do so now,
    and those who wrote to its predecessor do so again."""
    for _, name in transaction.index.waking_through(path):
        try:
            state = transaction.get(SUBSCRIPTIONS, subscription_key(name))
        except CorruptRecord as corrupt:
            _log.error("a subscription cannot be woken: {corrupt}", corrupt=corrupt)
            continue
        assert state is not None, "the index knows what there is"
        if not state.idle and not state.leased:
            save(transaction, offer(transaction, state, now))


def ended(transaction: Transaction, path: str) -> None:
    """A stream is gone: nothing of it is pending any more."""
    for member in transaction.index.matching(path):
        try:
            drop(transaction, member, path)
        except CorruptRecord as corrupt:
            _log.error("a subscription cannot be told: {corrupt}", corrupt=corrupt)


def drop(transaction: Transaction, member: Member, path: str) -> None:
    """Nothing of a stream is pending for a subscription any more; a wake that was for this
    stream only, and that nobody has taken up, is over."""
    number, name = member
    key = stream_key(number, path)
    if transaction.get(CURSORS, key) is None:
        return
    state = transaction.get(SUBSCRIPTIONS, subscription_key(name))
    assert state is not None and state.number == number, "cursors belong to a subscription"
    transaction.remove(CURSORS, key)
    if not state.idle and not state.leased and not transaction.owns(CURSORS, number):
        save(transaction, subscriptions_state.end_wake(state))


# -- wakes --------------------------------------------------------------------------------------


def save(transaction: Transaction, state: Subscription) -> None:
    """Write a subscription's state."""
    transaction.put(SUBSCRIPTIONS, subscription_key(state.id), state)


def wake(transaction: Transaction, state: Subscription, trigger: str, now: int) -> Subscription:
    """The next wake of an idle subscription; a pull-wake one's event is written with it."""
    text = base64.urlsafe_b64encode(transaction.entropy(_WAKE_ID_BYTES)).decode("ascii")
    state = subscriptions_state.begin_wake(state, trigger, f"w_{text}", now)
    return offer(transaction, state, now) if state.config.kind is Kind.PULL else state


def wake_if_pending(
    transaction: Transaction, state: Subscription, after: bytes, now: int
) -> Subscription:
    """An idle subscription, or its next wake where anything is pending.

    The wake begins behind the stream with the key ``after``, so that where there is more than
    one wake shows, all streams have their turn. Cursors of streams that have expired are let
    go on the way.
    """
    first, stop = owned_range(state.number)
    for begin, end in ((after + b"\x00", stop), (first, after + b"\x00")):
        while True:
            found = next(transaction.range(CURSORS, begin, end), None)
            if found is None:
                break
            key, cursor = found
            if living(transaction, cursor.path, now) is not None:
                return wake(transaction, state, cursor.path, now)
            transaction.remove(CURSORS, key)
    return state


def offer(transaction: Transaction, state: Subscription, now: int) -> Subscription:
    """Write the event of a pull-wake subscription's wake, or find out that it has to wait."""
    config = state.config
    assert config.wake_stream is not None, "pull-wake subscriptions have a wake stream"
    try:
        stream = living(transaction, config.wake_stream, now)
        if stream is not None and transaction.roomy:
            outcome = append(transaction, _event(state, stream, now), now)
            if not isinstance(outcome, Refusal):
                return subscriptions_state.mark_offered(state)
    except CorruptRecord as corrupt:
        _log.error("a wake event cannot be written: {corrupt}", corrupt=corrupt)
    chance = int.from_bytes(transaction.entropy(_CHANCE_BYTES), "big") / 2 ** (8 * _CHANCE_BYTES)
    return subscriptions_state.record_failure(state, now, chance)


def _event(state: Subscription, stream: StreamState, now: int) -> Append:
    """The wake event (§7.2), as one message, or as one line where streams have no messages."""
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


# -- what a wake shows --------------------------------------------------------------------------


def work_of(
    records: StoreSnapshot | Transaction,
    look: Callable[[str], StreamState | None],
    state: Subscription,
) -> tuple[WorkItem, ...]:
    """The streams with pending work that one wake shows, beginning with the one that caused it.

    ``look`` finds streams that are living. What does not fit is left for the next wake.
    """
    items: list[WorkItem] = []
    size = 0
    for key, cursor in _around(records, state):
        stream = look(cursor.path)
        if stream is None:
            continue
        size += len(cursor.path)
        if len(items) == MAX_WAKE_STREAMS or (items and size > MAX_WAKE_NAMES):
            break
        explicit = records.get(LINKS, key) is not None
        items.append(WorkItem(cursor.path, explicit, cursor.acked, stream))
    return tuple(items)


def _around(
    records: StoreSnapshot | Transaction, state: Subscription
) -> Iterator[tuple[bytes, Cursor]]:
    first, stop = owned_range(state.number)
    begin = stream_key(state.number, state.trigger)
    yield from records.range(CURSORS, begin, stop)
    yield from records.range(CURSORS, first, begin)
