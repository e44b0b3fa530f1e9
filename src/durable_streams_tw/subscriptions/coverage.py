"""What a subscription that exists is about."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.subscriptions.state import GONE
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.engine.tables import (
    NAMED,
    SUBSCRIPTIONS,
    owned_range,
    subscription_key,
)


def coverage(moment: StoreSnapshot, name: str) -> tuple[str | None, tuple[str, ...]] | Refusal:
    """The glob of the subscription of an id, and the streams that it names."""
    state = moment.get(SUBSCRIPTIONS, subscription_key(name))
    if state is None:
        return GONE
    named = moment.range(NAMED, *owned_range(state.number))
    return state.config.pattern, tuple([link.path for _, link in named])
