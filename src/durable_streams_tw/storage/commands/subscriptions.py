"""Execution of subscription commands: reads and writes around `protocol.subscriptions.state`.

Each function reads the state that the decision needs, calls the pure transition, and writes its
outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_EXPLICIT_STREAMS, MAX_LINKED_AT_ONCE
from durable_streams_tw.protocol.streams import offsets
from durable_streams_tw.protocol.streams.preconditions import check_entity_tags
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions import commands, outcomes
from durable_streams_tw.protocol.subscriptions import state as subscriptions_state
from durable_streams_tw.protocol.subscriptions.globs import Glob, parse_glob
from durable_streams_tw.protocol.subscriptions.index import Member, SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import (
    Config,
    Cursor,
    ExplicitLink,
    Kind,
    Subscription,
)
from durable_streams_tw.storage.commands import pending
from durable_streams_tw.storage.commands.appends import living
from durable_streams_tw.storage.commands.forks import Reader
from durable_streams_tw.storage.commands.transaction import Transaction
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord

_BETWEEN = Refusal(
    Problem.INVALID_OFFSET, "the offset lies inside a message: use one that this server returned"
)
_TOO_MANY_LINKS = Refusal(
    Problem.INVALID_REQUEST,
    f"a request names at most {MAX_LINKED_AT_ONCE} streams: add more with further requests, or use "
    "a pattern",
)
_UNKNOWN_STREAM = Refusal(
    Problem.INVALID_OFFSET, "the subscription is not linked to the stream, or there is none"
)


def carry_out(
    transaction: Transaction, command: commands.SubscriptionCommand, now: int
) -> outcomes.SubscriptionOutcome | Refusal:
    """Carry out a command on a subscription; return its outcome or a refusal.

    ``now`` is in ms since the Unix epoch. Raises `CorruptRecord`.
    """
    state = transaction.get(tables.SUBSCRIPTIONS, tables.subscription_key(command.id))
    if isinstance(command, commands.Subscribe):
        return _subscribe(transaction, state, command, now)
    if isinstance(command, commands.Unsubscribe):
        refusal = check_entity_tags(command.precondition, exists=state is not None)
        if refusal is not None:
            return refusal
        if state is not None:
            _end(transaction, state)
        return outcomes.Unsubscribed()
    if isinstance(command, commands.Delivered | commands.Due):
        if state is None or state.number != command.number:
            return outcomes.Settled(None)
        if isinstance(command, commands.Due):
            return _due(transaction, state, now)
        return _delivered(transaction, state, command, now)
    if state is None:
        return subscriptions_state.GONE
    if isinstance(command, commands.LinkStreams):
        return _link(transaction, state, command.streams)
    if isinstance(command, commands.UnlinkStream):
        return _unlink(transaction, state, command.path)
    if isinstance(command, commands.Claim):
        return _claim(transaction, state, command, now)
    if isinstance(command, commands.Settle):
        return _settle(transaction, state, command, now)
    return _release(transaction, state, command, now)


# -- subscriptions and links --------------------------------------------------------------------


def register(index: SubscriptionIndex, state: Subscription) -> None:
    """Add a subscription to an index, without its explicit links."""
    index.add(_member(state), _glob(state.config), state.config.wake_stream)


def _member(state: Subscription) -> Member:
    return state.number, state.id


def _glob(config: Config) -> Glob | None:
    return None if config.pattern is None else parse_glob(config.pattern)


def _subscribe(
    transaction: Transaction, existing: Subscription | None, command: commands.Subscribe, now: int
) -> outcomes.SubscriptionOutcome | Refusal:
    if existing is not None:
        refusal = subscriptions_state.check_configuration(existing, command.digest)
        refusal = refusal or check_entity_tags(command.precondition, exists=True)
        return refusal or outcomes.Subscribed(existing, False)
    refusal = check_entity_tags(command.precondition, exists=False)
    if refusal is not None:
        return refusal
    if len(command.streams) > MAX_LINKED_AT_ONCE:
        return _TOO_MANY_LINKS
    config = command.config
    state = Subscription(
        transaction.new_id(), command.id, config, command.digest, now, len(command.streams)
    )
    if config.wake_stream is not None:
        # With cursors on a wake stream, the events written to it would wake subscriptions.
        pending.ended(transaction, config.wake_stream, now)
    register(transaction.index, state)
    for path in command.streams:
        _link_explicitly(transaction, state, path)
    pending.save(transaction, state)
    return outcomes.Subscribed(state, True)


def _link_explicitly(transaction: Transaction, state: Subscription, path: str) -> None:
    transaction.put(tables.LINKS, tables.owned_key(state.number, path), ExplicitLink(path))
    transaction.index.link(_member(state), path)


def _end(transaction: Transaction, state: Subscription) -> None:
    transaction.index.remove(_member(state), _glob(state.config), state.config.wake_stream)
    transaction.remove(tables.SUBSCRIPTIONS, tables.subscription_key(state.id))
    transaction.remove_owned(state.number)


def _link(
    transaction: Transaction, state: Subscription, paths: tuple[str, ...]
) -> outcomes.SubscriptionOutcome | Refusal:
    if len(paths) > MAX_LINKED_AT_ONCE:
        return _TOO_MANY_LINKS
    fresh = [
        path
        for path in paths
        if transaction.get(tables.LINKS, tables.owned_key(state.number, path)) is None
    ]
    if state.config.wake_stream in fresh:
        return Refusal(
            Problem.INVALID_REQUEST, "a subscription cannot be woken by its own wake stream"
        )
    explicit = state.explicit + len(fresh)
    if explicit > MAX_EXPLICIT_STREAMS:
        return Refusal(
            Problem.INVALID_REQUEST,
            f"a subscription can have at most {MAX_EXPLICIT_STREAMS} streams: use a pattern",
        )
    if fresh:
        for path in fresh:
            _link_explicitly(transaction, state, path)
        state = subscriptions_state.with_explicit_count(state, explicit)
        pending.save(transaction, state)
    return outcomes.Relinked(state)


def _unlink(
    transaction: Transaction, state: Subscription, path: str
) -> outcomes.SubscriptionOutcome:
    key = tables.owned_key(state.number, path)
    if transaction.get(tables.LINKS, key) is None:
        return outcomes.Relinked(state)
    transaction.remove(tables.LINKS, key)
    transaction.index.unlink(_member(state), path)
    state = subscriptions_state.with_explicit_count(state, state.explicit - 1)
    pending.save(transaction, state)
    if _member(state) not in transaction.index.matching(path):
        pending.drop(transaction, _member(state), path)
    return outcomes.Relinked(state)


# -- leases, acks and deliveries ------------------------------------------------------------------


def _claim(
    transaction: Transaction, state: Subscription, command: commands.Claim, now: int
) -> outcomes.SubscriptionOutcome | Refusal:
    if subscriptions_state.lease_expired(state, now):
        # The timer that ends the expired lease is late: without this, the claim would be refused.
        state = _next(transaction, state, now)
    claimed = subscriptions_state.claim(state, command.worker, now)
    if isinstance(claimed, Refusal):
        return claimed

    def find_stream(path: str) -> StreamState | None:
        return living(transaction, path, now)

    items = pending.work_of(transaction, find_stream, claimed)
    if not items:
        return subscriptions_state.NOTHING_PENDING
    pending.save(transaction, claimed)
    return outcomes.Claimed(claimed, items)


def _settle(
    transaction: Transaction, state: Subscription, command: commands.Settle, now: int
) -> outcomes.SubscriptionOutcome | Refusal:
    refusal = subscriptions_state.check_wake(state, command.kind, command.proof, command.wake, now)
    if refusal is not None:
        return refusal
    for ack in command.acks:
        refusal = _refuse_ack(transaction, state, ack, now, command.between)
        if refusal is not None:
            return refusal
    for ack in command.acks:
        _acknowledge(transaction, state, ack, now)
    if command.done:
        after = _next(transaction, state, now, command.acks)
        return outcomes.Settled(after, next_wake=not after.idle)
    state = subscriptions_state.renew_lease(state, now)
    pending.save(transaction, state)
    return outcomes.Settled(state)


def _release(
    transaction: Transaction, state: Subscription, command: commands.Release, now: int
) -> outcomes.SubscriptionOutcome | Refusal:
    refusal = subscriptions_state.check_wake(state, Kind.PULL, command.proof, command.wake, now)
    if refusal is not None:
        return refusal
    after = _next(transaction, state, now)
    return outcomes.Settled(after, next_wake=not after.idle)


def _delivered(
    transaction: Transaction, state: Subscription, command: commands.Delivered, now: int
) -> outcomes.SubscriptionOutcome:
    if (
        state.config.kind is not Kind.WEBHOOK
        or not subscriptions_state.is_current(state, command.wake)
        or subscriptions_state.lease_expired(state, now)
    ):
        return outcomes.Settled(state)
    if command.result is commands.DeliveryResult.DONE:
        for ack in command.seen:
            # ``between`` is None because the server chose the offsets: they are message boundaries.
            if _refuse_ack(transaction, state, ack, now, None) is None:
                _acknowledge(transaction, state, ack, now)
        after = _next(transaction, state, now, command.seen)
        return outcomes.Settled(after, next_wake=not after.idle)
    if state.leased:
        # The worker has called back, so the result of the webhook request must not end its lease.
        return outcomes.Settled(state)
    if command.result is commands.DeliveryResult.ACCEPTED:
        state = subscriptions_state.renew_lease(state, now)
    else:
        state = subscriptions_state.record_failure(state, now, command.chance)
    pending.save(transaction, state)
    return outcomes.Settled(state)


def _due(transaction: Transaction, state: Subscription, now: int) -> outcomes.SubscriptionOutcome:
    owed = subscriptions_state.next_action(state)
    if owed is None or now < owed[1]:
        return outcomes.Settled(state)
    if owed[0] is subscriptions_state.Action.EXPIRE_LEASE:
        after = _next(transaction, state, now)
        return outcomes.Settled(after, next_wake=not after.idle)
    if owed[0] is subscriptions_state.Action.WRITE_EVENT:
        state = pending.offer(transaction, state, now)
        pending.save(transaction, state)
    return outcomes.Settled(state)


def _next(
    transaction: Transaction, state: Subscription, now: int, acks: tuple[commands.Ack, ...] = ()
) -> Subscription:
    """End the wake and begin the next if streams are pending; save and return the new state."""
    keys = [tables.owned_key(state.number, ack.path) for ack in acks]
    last = max(keys, default=tables.owned_key(state.number, state.trigger))
    after = subscriptions_state.end_wake(state)
    after = pending.wake_if_pending(transaction, after, last, now)
    pending.save(transaction, after)
    return after


# -- cursors -----------------------------------------------------------------------------------


def _refuse_ack(
    transaction: Transaction,
    state: Subscription,
    ack: commands.Ack,
    now: int,
    between: frozenset[tuple[int, int]] | None,
) -> Refusal | None:
    """Return a refusal if an ack is invalid, otherwise None.

    ``between`` contains pairs of stream id and position that are known to be message boundaries.
    None skips that check.
    """
    if _member(state) not in transaction.index.matching(ack.path):
        return _UNKNOWN_STREAM
    stream = living(transaction, ack.path, now)
    if stream is None:
        return _UNKNOWN_STREAM
    cursor = transaction.get(tables.CURSORS, tables.owned_key(state.number, ack.path))
    acked = stream.tail if cursor is None else cursor.acked
    position = offsets.resolve(stream, ack.offset)
    if isinstance(position, Refusal):
        return Refusal(Problem.INVALID_OFFSET, position.detail)
    refusal = subscriptions_state.check_ack(acked, position)
    if refusal is not None or between is None or (stream.id, position) in between:
        return refusal
    return None if transaction.is_boundary(stream, position) else _BETWEEN


def check_acks(
    reader: Reader, state: Subscription | None, command: commands.Settle, now: int
) -> commands.Settle:
    """Return the command with those of its acks that are at message boundaries.

    Called on a snapshot before the command is committed: each check reads and parses a record, and
    a request has up to MAX_WAKE_STREAMS acks, which would occupy the committer thread. ``now`` is
    in ms since the Unix epoch.
    """
    if state is None or subscriptions_state.check_wake(
        state, command.kind, command.proof, command.wake, now
    ):
        return command
    between: set[tuple[int, int]] = set()
    for ack in command.acks:
        stream = reader.stream_at(ack.path)
        position = None if stream is None else offsets.resolve(stream, ack.offset)
        if stream is None or not isinstance(position, int):
            break
        if not reader.is_boundary(stream, position):
            break
        between.add((stream.id, position))
    # Acks after the first invalid one are not checked: the transaction refuses the request there.
    return replace(command, between=frozenset(between))


def _acknowledge(
    transaction: Transaction, state: Subscription, ack: commands.Ack, now: int
) -> None:
    """Move a cursor forward to an ack that `_refuse_ack` accepted.

    Remove the cursor if the ack reaches the tail. Ignore an ack that is not ahead of the cursor.
    """
    key = tables.owned_key(state.number, ack.path)
    cursor = transaction.get(tables.CURSORS, key)
    stream = living(transaction, ack.path, now)
    if cursor is None or stream is None:
        return
    position = offsets.resolve(stream, ack.offset)
    if isinstance(position, Refusal) or position <= cursor.acked:
        return
    if stream.tail == position:
        transaction.remove(tables.CURSORS, key)
    else:
        transaction.put(tables.CURSORS, key, Cursor(ack.path, position))


def load_index(view: View, report: Callable[[CorruptRecord], None]) -> SubscriptionIndex:
    """Return the index of all subscriptions by stream; call ``report`` for each corrupt record."""
    return build_index(
        [state for _, state in tables.scan_with_errors(view, tables.SUBSCRIPTIONS, b"", None)],
        lambda: tables.scan_with_errors(view, tables.LINKS, b"", None),
        report,
    )


def build_index(
    subscriptions: Iterable[Subscription | CorruptRecord],
    links: Callable[[], Iterable[tuple[bytes, ExplicitLink | CorruptRecord]]],
    report: Callable[[CorruptRecord], None],
) -> SubscriptionIndex:
    """Return the index of subscriptions; ``links`` returns all explicit links with their keys."""
    index = SubscriptionIndex()
    names: dict[int, str] = {}
    for state in subscriptions:
        if isinstance(state, CorruptRecord):
            report(state)
            continue
        register(index, state)
        if state.explicit:
            names[state.number] = state.id
    if names:
        for key, link in links():
            number = int.from_bytes(key[:8], "big")
            if isinstance(link, CorruptRecord):
                report(link)
            elif number in names:
                index.link((number, names[number]), link.path)
    return index
