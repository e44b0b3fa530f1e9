"""Queries on the subscriptions of a store, each on one snapshot of it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.api import RecordChange, StoreSnapshot
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    LINKS,
    SUBSCRIPTIONS,
    owned_range,
    stream_key,
    subscription_key,
)
from durable_streams_tw.storage.errors import CorruptRecord

_log = Logger()


def subscription_by_id(snapshot: StoreSnapshot, subscription_id: str) -> Subscription | None:
    """Return the subscription with an id, or None."""
    return snapshot.get(SUBSCRIPTIONS, subscription_key(subscription_id))


def explicit_paths(snapshot: StoreSnapshot, subscription: Subscription) -> list[str]:
    """Return the paths of a subscription's explicit streams."""
    links = snapshot.range(LINKS, *owned_range(subscription.number))
    return [link.path for _, link in links]


def acked_position(snapshot: StoreSnapshot, subscription: Subscription, path: str) -> int | None:
    """Return the position up to which a stream is acknowledged, or None if nothing is pending."""
    cursor = snapshot.get(CURSORS, stream_key(subscription.number, path))
    return None if cursor is None else cursor.acked


def select_subscriptions(
    snapshot: StoreSnapshot, predicate: Callable[[Subscription], bool]
) -> list[Subscription]:
    """Return the subscriptions that satisfy a predicate. Log and skip unreadable records."""
    found: list[Subscription] = []
    first = b""
    while True:
        try:
            for key, subscription in snapshot.range(SUBSCRIPTIONS, first, None):
                first = key + b"\x00"
                if predicate(subscription):
                    found.append(subscription)
        except CorruptRecord as corrupt:
            _log.error("Skipped a subscription that cannot be read: {corrupt}", corrupt=corrupt)
            first = corrupt.key[len(SUBSCRIPTIONS.prefix) :] + b"\x00"
        else:
            return found


def changed_subscription(change: RecordChange) -> tuple[str, Subscription | None] | None:
    """Return the id and the new state of a changed subscription.

    The state is None if the subscription was deleted. Return None if the record belongs to another
    table.
    """
    if change.table is not SUBSCRIPTIONS:
        return None
    return change.key.decode("utf-8"), change.value
