"""``GET /-/subscriptions``: subscriptions with state, pending work, last error and retry time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.http.limits import MAX_LISTING_PAGE
from durable_streams_tw.http.operators.resources import Parameters, QueryResource
from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.commands.subscription_listing import (
    ListSubscriptions,
    PendingWork,
    SubscriptionPage,
)
from durable_streams_tw.storage.limits import LISTING_PAGE


class SubscriptionListing(QueryResource):
    """List of subscriptions, with the query parameters ``after`` and ``limit``.

    ``errors`` are the last errors of webhook calls by the id of the subscription.
    """

    def __init__(self, store: IStreamStore, errors: Mapping[str, str]) -> None:
        QueryResource.__init__(self)
        self._store = store
        self._errors = errors

    def respond(self, given: Parameters) -> Deferred[dict[str, Any] | Refusal]:
        """Return one page."""
        question = ListSubscriptions(
            given.text("after"), given.number("limit", LISTING_PAGE, MAX_LISTING_PAGE)
        )
        page: Deferred[Any] = self._store.query(question)
        return page.addCallback(self._described)

    def _described(self, page: SubscriptionPage | Refusal) -> dict[str, Any] | Refusal:
        if isinstance(page, Refusal):
            return page
        described = [self._subscription(pending) for pending in page.subscriptions]
        return {"subscriptions": described, "after": page.after}

    def _subscription(self, pending: PendingWork) -> dict[str, Any]:
        state = pending.state
        config = state.config
        return {
            "id": state.id,
            "type": config.kind.value,
            "pattern": config.pattern,
            "explicit_streams": state.explicit,
            "target": config.url or config.wake_stream,
            "description": config.description,
            "created_at": headers.format_timestamp(state.created_at),
            "phase": phase(state),
            "worker": state.holder,
            "lease_until": _timestamp(state.lease_until),
            "pending_streams": pending.streams,
            "pending_bytes": pending.size,
            "pending_complete": pending.complete,
            "failures": state.failures,
            "last_error": self._errors.get(state.id) if state.failing else None,
            "next_attempt_at": _timestamp(state.next_attempt_at),
        }


def phase(state: Subscription) -> str:
    """Return the phase of a subscription, as `protocol.subscriptions.state` names it."""
    if state.idle:
        return "idle"
    if state.leased:
        return "leased"
    if state.next_attempt_at is None:
        return "offered"
    return "failing" if state.failing else "waking"


def _timestamp(moment: int | None) -> str | None:
    return None if moment is None else headers.format_timestamp(moment)
