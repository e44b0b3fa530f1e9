"""Questions about the subscriptions of a store, each answered on one snapshot of it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.globs import literal_prefix, matches, parse_glob
from durable_streams_tw.protocol.subscriptions.outcomes import WorkItem
from durable_streams_tw.protocol.subscriptions.state import (
    GONE,
    Subscription,
    Wake,
    is_current,
    next_action,
)
from durable_streams_tw.storage.api import RecordChange, StoreSnapshot
from durable_streams_tw.storage.commands.pending import work_of
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MAX_LISTED_STREAMS, MAX_SCANNED_NAMES

_log = Logger()


class SubscriptionLink(Struct, frozen=True):
    """Stream of a subscription, acknowledged up to the position ``acked``.

    ``stream`` is None if no stream exists at the path.
    """

    path: str
    explicit: bool
    acked: int
    stream: StreamState | None


class Description(Struct, frozen=True):
    """Subscription with its streams, sorted by path.

    ``complete`` is False if the subscription has more streams than are listed.
    """

    state: Subscription
    links: tuple[SubscriptionLink, ...]
    complete: bool


class DescribeSubscription(Struct, frozen=True, array_like=True, tag=True):
    """Question for a subscription and at most `MAX_LISTED_STREAMS` of its streams."""

    id: str

    def answer(self, snapshot: StoreSnapshot) -> Description | Refusal:
        """Return the description (PROTOCOL.md §6.3)."""
        state = _subscription_by_id(snapshot, self.id)
        if state is None:
            return GONE
        explicit = set(_explicit_paths(snapshot, state))
        paths = sorted(explicit)[:MAX_LISTED_STREAMS]
        complete = len(paths) == len(explicit)
        for scanned, path in enumerate(_glob_candidates(snapshot, state)):
            # Collect one path more than is listed: it shows that the list is incomplete.
            if scanned >= MAX_SCANNED_NAMES or len(paths) > MAX_LISTED_STREAMS:
                complete = False
                break
            if path is not None and path not in explicit:
                paths.append(path)
        complete = complete and len(paths) <= MAX_LISTED_STREAMS
        del paths[MAX_LISTED_STREAMS:]
        links = [_link(snapshot, state, path, path in explicit) for path in sorted(paths)]
        return Description(state, tuple(links), complete)


class SubscriptionPaths(Struct, frozen=True, array_like=True, tag=True):
    """Question for the glob of a subscription and the paths of its explicit streams."""

    id: str

    def answer(self, snapshot: StoreSnapshot) -> tuple[str | None, tuple[str, ...]] | Refusal:
        """Return the glob, if the subscription has one, and the paths."""
        state = _subscription_by_id(snapshot, self.id)
        if state is None:
            return GONE
        return state.config.pattern, tuple(_explicit_paths(snapshot, state))


class ScheduledSubscriptions(Struct, frozen=True, array_like=True, tag=True):
    """Question for the subscriptions for which the server has an action to carry out."""

    def answer(self, snapshot: StoreSnapshot) -> list[Subscription]:
        """Return the subscriptions. Log and skip unreadable records."""
        found: list[Subscription] = []
        first = b""
        while True:
            try:
                for key, subscription in snapshot.range(tables.SUBSCRIPTIONS, first, None):
                    first = key + b"\x00"
                    if next_action(subscription) is not None:
                        found.append(subscription)
            except CorruptRecord as corrupt:
                _log.error("Skipped a subscription that cannot be read: {corrupt}", corrupt=corrupt)
                first = corrupt.key[len(tables.SUBSCRIPTIONS.prefix) :] + b"\x00"
            else:
                return found


class WakeWork(Struct, frozen=True, array_like=True, tag=True):
    """Question for the pending streams of one wake of the subscription ``id``."""

    id: str
    number: int
    wake: Wake

    def answer(self, snapshot: StoreSnapshot) -> tuple[WorkItem, ...] | None:
        """Return the work, None if the wake has ended."""
        known = _subscription_by_id(snapshot, self.id)
        if known is None or known.number != self.number or not is_current(known, self.wake):
            return None
        return work_of(snapshot, snapshot.active_stream, known)


def changed_subscription(change: RecordChange) -> tuple[str, Subscription | None] | None:
    """Return the id and the new state of a changed subscription.

    The state is None if the subscription was deleted. Return None if the record belongs to another
    table.
    """
    if change.table is not tables.SUBSCRIPTIONS:
        return None
    return change.key.decode("utf-8"), change.value


def _subscription_by_id(snapshot: StoreSnapshot, subscription_id: str) -> Subscription | None:
    return snapshot.get(tables.SUBSCRIPTIONS, tables.subscription_key(subscription_id))


def _explicit_paths(snapshot: StoreSnapshot, subscription: Subscription) -> list[str]:
    links = snapshot.range(tables.LINKS, *tables.owned_range(subscription.number))
    return [link.path for _, link in links]


def _glob_candidates(snapshot: StoreSnapshot, state: Subscription) -> Iterable[str | None]:
    """Yield the path of each live stream that the glob matches, and None for each other name.

    The wake stream is not a candidate.
    """
    pattern = state.config.pattern
    if pattern is None:
        return
    glob = parse_glob(pattern)
    for path in snapshot.stream_names(literal_prefix(glob)):
        linked = (
            matches(glob, path)
            and path != state.config.wake_stream
            and snapshot.active_stream(path) is not None
        )
        yield path if linked else None


def _link(
    snapshot: StoreSnapshot, state: Subscription, path: str, explicit: bool
) -> SubscriptionLink:
    cursor = snapshot.get(tables.CURSORS, tables.owned_key(state.number, path))
    stream = snapshot.active_stream(path)
    # A stream without a cursor has nothing pending.
    acked = cursor.acked if cursor is not None else 0 if stream is None else stream.tail
    return SubscriptionLink(path, explicit, acked, stream)
