"""Subscription service of a store: delivery, scheduler, keyring and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import random
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw import clocks
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.commands import Subscribe
from durable_streams_tw.protocol.subscriptions.state import Kind
from durable_streams_tw.storage.api import IStreamStore, Outcome
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.subscriptions.delivery import WebhookDelivery
from durable_streams_tw.subscriptions.keyring import Keyring, OwnerKeyring
from durable_streams_tw.subscriptions.limits import KEY_REFRESH
from durable_streams_tw.subscriptions.scheduler import Scheduler
from durable_streams_tw.subscriptions.tokens import WakeTokens
from durable_streams_tw.subscriptions.webhook_client import WebhookClient

_log = Logger()

_NOWHERE = Refusal(
    Problem.INVALID_REQUEST,
    "webhooks are not available: the server does not know its own URL for callbacks",
)


class Subscriptions:
    """Subscriptions of a store, started after it and stopped before it.

    ``now`` returns the store's time (ms since the Unix epoch). With an `OwnerKeyring` another
    process calls webhooks and ends leases. ``base`` returns the URL of the streams' root with a
    trailing slash, None if it is unknown; ``allow_local`` whether webhooks on this machine are
    allowed. ``caller`` replaces the webhook client in tests.
    """

    def __init__(
        self,
        store: IStreamStore,
        reactor: Any,
        *,
        now: Callable[[], int],
        keyring: Keyring | OwnerKeyring,
        base: Callable[[], str | None],
        allow_local: Callable[[], bool],
        rotate: bool = False,
        caller: WebhookClient | None = None,
    ) -> None:
        self.store = store
        self._rotate = rotate
        self.base = base
        wall, timers = clocks.wall_clock(reactor), clocks.monotonic_timers(reactor)
        self.keyring = keyring
        self._refreshing = LoopingCall(self._refresh)
        self._refreshing.clock = timers
        # Why the last refresh failed, empty if it did not.
        self._unusable_keys = ""
        self.tokens = WakeTokens(lambda: self.keyring.secret, wall)
        self._caller = caller or WebhookClient(reactor, allow_local)
        #: Number of webhook calls by result.
        self.calls: Mapping[str, int] = {}
        #: Last errors of webhook calls by id of the subscription.
        self.errors: dict[str, str] = {}
        self._scheduler: Scheduler | None = None
        if isinstance(keyring, Keyring):
            deliveries = WebhookDelivery(
                store, self._caller.post, keyring, self.tokens, base, random, timers.seconds
            )
            self.calls = deliveries.calls
            self.errors = deliveries.errors
            self._scheduler = Scheduler(store, deliveries.deliver, timers, now)

    def start(self) -> None:
        """Open the keyring and start the scheduler. Raises `StoreUnusable`."""
        if isinstance(self.keyring, Keyring):
            self.keyring.open(self._rotate)
            if self.keyring.shared is not None:
                self._refreshing.start(KEY_REFRESH, now=False)
        if self._scheduler is not None:
            self._scheduler.start()

    def stop(self) -> Deferred[None]:
        """Stop the scheduler. The Deferred fires when no call is in progress."""
        if self._refreshing.running:
            self._refreshing.stop()
        return succeed(None) if self._scheduler is None else self._scheduler.stop()

    def _refresh(self) -> Deferred[None]:
        """Read the keys of all servers. A failure is logged; the next refresh tries again."""
        keyring = self.keyring
        assert isinstance(keyring, Keyring) and keyring.shared is not None, "keys are shared"
        read: Deferred[Any] = keyring.shared.read()
        read.addCallback(self._adopt, keyring, keyring.shared.place)
        return read.addErrback(self._not_refreshed)

    def _adopt(self, content: bytes | Refusal | None, keyring: Keyring, place: str) -> None:
        if isinstance(content, bytes):
            keyring.adopt(content)
            if self._unusable_keys:
                self._unusable_keys = ""
                _log.info("Webhook keys are read again from {place}", place=place)

    def _not_refreshed(self, failure: Failure) -> None:
        """Log a failure: a reason that lasts only once."""
        if failure.check(StoreUnusable) is None:
            _log.failure("Could not refresh the webhook keys", failure)
            return
        before, self._unusable_keys = self._unusable_keys, failure.getErrorMessage()
        if self._unusable_keys != before:
            _log.error(
                "Could not refresh the webhook keys, so the previous keys stay in use: {reason}",
                reason=self._unusable_keys,
            )

    def set_errors(self, errors: Mapping[str, str]) -> None:
        """Set the last errors of webhook calls, which another process delivers."""
        self.errors.clear()
        self.errors.update(errors)

    def subscribe(self, command: Subscribe) -> Deferred[Outcome]:
        """Create a subscription. Fails with `Refused` if its webhook URL is not allowed."""
        url = command.config.url
        if command.config.kind is not Kind.WEBHOOK or url is None:
            return self.store.submit(command)
        if self.base() is None:
            return succeed(_NOWHERE)
        inspected: Deferred[Any] = self._caller.inspect(url)
        return inspected.addCallback(lambda _: self.store.submit(command))
