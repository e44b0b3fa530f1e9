"""Webhook delivery: notification of a wake, and its result (PROTOCOL.md §7.1)."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw import __version__
from durable_streams_tw.outgoing.fair_limiter import FairLimiter
from durable_streams_tw.protocol.errors import Refusal, Refused
from durable_streams_tw.protocol.headers import format_timestamp
from durable_streams_tw.protocol.streams.offsets import format_offset, offset_at
from durable_streams_tw.protocol.subscriptions.commands import Ack, Delivered, DeliveryResult
from durable_streams_tw.protocol.subscriptions.outcomes import Settled, WorkItem
from durable_streams_tw.protocol.subscriptions.state import Subscription, Wake
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.commands.subscription_queries import WakeWork
from durable_streams_tw.subscriptions import limits
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.ssrf_guard import limiter_key
from durable_streams_tw.subscriptions.tokens import WakeTokens
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse, WebhookUnreachable

Post = Callable[[str, bytes, dict[str, str], float], Deferred[WebhookResponse]]
"""Send a body to a URL with headers and a timeout in seconds; the Deferred fails with any error."""


class _Done(Struct):
    done: bool = False


_answer = msgspec.json.Decoder(_Done)


@dataclass(eq=False)
class WebhookDelivery:
    """Sender of webhook calls, at most `limits.MAX_DELIVERIES` at a time, which stores the results.

    ``base`` returns the URL of the streams' root with a trailing slash; ``random`` a number from 0
    to 1; ``seconds`` monotonic time. A host that hangs delays other deliveries to its domain only
    (`FairLimiter`).
    """

    _log = Logger()

    _store: IStreamStore
    _post: Post
    _keyring: Keyring
    _tokens: WakeTokens
    _base: Callable[[], str | None]
    _random: Callable[[], float]
    _seconds: Callable[[], float]
    #: Number of calls by result: done, accepted, refused (status not 2xx), failed.
    calls: Counter[str] = field(default_factory=Counter)
    #: Last errors by id of the subscription, the newest last. A successful call removes it.
    errors: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._limiter = FairLimiter(
            limits.MAX_DELIVERIES,
            limits.DELIVERIES_SHARE,
            limits.DELIVERIES_RESERVED,
            limits.DELIVERIES_REMEMBERED,
        )

    def deliver(self, state: Subscription) -> Deferred[bool]:
        """Call the webhook of a wake; fire with True if the result has been stored.

        Cancelling ends the call without storing a result, so that it is repeated.
        """
        return ensureDeferred(self._deliver_in_turn(state))

    async def _deliver_in_turn(self, state: Subscription) -> bool:
        slot = await self._limiter.enter(limiter_key(state.config.url or ""))
        began = self._seconds()

        def leave(result: bool | Failure) -> bool | Failure:
            prompt = result is True and self._seconds() - began <= limits.DELIVERY_PROMPT
            self._limiter.leave(slot, prompt=prompt)
            return result

        # A callback, not a finally clause: that would also run when the collector closes the
        # coroutine, and would resume others that it has closed.
        known: bool = await ensureDeferred(self._deliver(state)).addBoth(leave)
        return known

    async def _deliver(self, state: Subscription) -> bool:
        assert state.wake_id is not None, "a wake is delivered"
        wake = Wake(state.generation, state.wake_id)
        items = await self._store.query(WakeWork(state.id, state.number, wake))
        if isinstance(items, Refusal):
            return False
        if items is None:
            # The wake has ended.
            return True
        base = self._base()
        if base is None:
            # The URL is unknown until the ports are open.
            return False
        result, error = DeliveryResult.DONE, ""
        if items:
            result, error = await self._call(state, items, base)
        seen = tuple([Ack(item.path, offset_at(item.stream, item.tail)) for item in items])
        outcome = await self._store.submit(
            Delivered(state.id, state.number, wake, result, seen, self._random())
        )
        if error:
            after = outcome.state if isinstance(outcome, Settled) else None
            self._log_failure(state, error, None if after is None else after.next_attempt_at)
        return not isinstance(outcome, Refusal)

    def _log_failure(self, state: Subscription, error: str, next_attempt_at: int | None) -> None:
        """Log a failed call; ``next_attempt_at`` are milliseconds since the Unix epoch."""
        retry = "no retry"
        if next_attempt_at is not None:
            retry = f"retry at {format_timestamp(next_attempt_at, 'seconds')}"
        self._log.warn(
            "Webhook of subscription {id!r} at {server} failed: {error}; {retry}",
            id=state.id,
            server=server_of(state.config.url or ""),
            error=error,
            retry=retry,
        )

    async def _call(
        self, state: Subscription, items: tuple[WorkItem, ...], base: str
    ) -> tuple[DeliveryResult, str]:
        """Call the webhook; return the result, and the error if it failed."""
        url = state.config.url
        assert url is not None, "webhook subscriptions have a URL"
        body = self._body(state, items, base)
        header = {
            "Content-Type": "application/json",
            "User-Agent": f"durable-streams-tw/{__version__}",
            "Webhook-Signature": self._keyring.sign(body),
        }
        try:
            response = await self._post(url, body, header, state.config.lease_ttl / 1000)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - any error leads to a retry
            detail = _detail(error)
            self.calls["failed"] += 1
            return self._failed(state, detail)
        if not 200 <= response.status < 300:
            self.calls["refused"] += 1
            return self._failed(state, f"status {response.status}")
        self.errors.pop(state.id, None)
        done = _says_done(response.body)
        self.calls["done" if done else "accepted"] += 1
        return DeliveryResult.DONE if done else DeliveryResult.ACCEPTED, ""

    def _failed(self, state: Subscription, error: str) -> tuple[DeliveryResult, str]:
        self.errors.pop(state.id, None)
        self.errors[state.id] = error
        if len(self.errors) > limits.ERRORS_REMEMBERED:
            self.errors.popitem(last=False)
        return DeliveryResult.FAILED, error

    def _body(self, state: Subscription, items: tuple[WorkItem, ...], base: str) -> bytes:
        payload = {
            "subscription_id": state.id,
            "wake_id": state.wake_id,
            "generation": state.generation,
            "streams": [work_item(item) for item in items],
            "callback_url": callback_url(base, state.id),
            "callback_token": self._tokens.issue(state),
        }
        return json.dumps(payload).encode("ascii")


def _says_done(body: bytes) -> bool:
    if len(body) > limits.MAX_WEBHOOK_RESPONSE:
        return False
    try:
        return _answer.decode(body).done
    except (msgspec.MsgspecError, RecursionError):
        # Any other body is allowed: the webhook then uses the callback URL.
        return False


def callback_url(base: str, name: str) -> str:
    """Return the callback URL; ``base`` is the URL of the streams' root."""
    return f"{base}__ds/subscriptions/{quote(name, safe='')}/callback"


def _detail(error: Exception) -> str:
    if isinstance(error, Refused):
        return error.refusal.detail
    if isinstance(error, WebhookUnreachable):
        return str(error)
    # Imported here: a server without webhooks starts without Twisted's HTTP client.
    from durable_streams_tw.outgoing.error_text import sentence

    return sentence(error)


def server_of(url: str) -> str:
    """Return scheme, host and port of a URL; the rest may be secret and is not logged."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def work_item(item: WorkItem) -> dict[str, Any]:
    """Return a stream of a wake in its JSON form."""
    return {
        "path": item.path,
        "link_type": "explicit" if item.explicit else "glob",
        "acked_offset": format_offset(item.stream, item.acked),
        "tail_offset": format_offset(item.stream, item.tail),
        "has_pending": item.tail > item.acked,
    }
