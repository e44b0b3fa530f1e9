"""Outcomes of control requests that were not refused."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.state import Subscription


class WorkItem(Struct, frozen=True, array_like=True):
    """Stream of a wake: the position up to which it is acknowledged, and its state."""

    path: str
    explicit: bool
    acked: int
    stream: StreamState

    @property
    def tail(self) -> int:
        """Position up to which there is work."""
        return self.stream.tail


class Subscribed(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of a `Subscribe`. ``fresh`` means that the command created the subscription."""

    state: Subscription
    fresh: bool


class Unsubscribed(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of an `Unsubscribe`, also if there was no subscription."""


class Relinked(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of `LinkStreams` and `UnlinkStream`."""

    state: Subscription


class Claimed(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of a `Claim`: the worker holds the lease."""

    state: Subscription
    items: tuple[WorkItem, ...]


class Settled(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of `Settle`, `Release`, `Delivered` and `Due`.

    ``state`` is None if the subscription was deleted. ``next_wake`` means that the next wake
    began at once.
    """

    state: Subscription | None
    next_wake: bool = False


SubscriptionOutcome = Subscribed | Unsubscribed | Relinked | Claimed | Settled
