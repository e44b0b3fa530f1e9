"""What control requests come to, when they are not refused."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.state import Subscription


class WorkItem(Struct, frozen=True):
    """A stream of a wake: the position up to which it is acknowledged, and its state."""

    path: str
    explicit: bool
    acked: int
    stream: StreamState

    @property
    def tail(self) -> int:
        """The position up to which there is work."""
        return self.stream.tail


class Subscribed(Struct, frozen=True):
    """The subscription is there; ``fresh`` where this command made it."""

    state: Subscription
    fresh: bool


class Unsubscribed(Struct, frozen=True):
    """The subscription is gone, or never was."""


class Relinked(Struct, frozen=True):
    """The streams that the subscription names are as they were asked to be."""

    state: Subscription


class Claimed(Struct, frozen=True):
    """A worker holds the wake."""

    state: Subscription
    items: tuple[WorkItem, ...]


class Settled(Struct, frozen=True):
    """What a worker, a webhook or the time had to say has been taken in.

    ``state`` is None where the subscription is gone; ``next_wake`` says that another wake
    followed at once.
    """

    state: Subscription | None
    next_wake: bool = False


SubscriptionOutcome = Subscribed | Unsubscribed | Relinked | Claimed | Settled
