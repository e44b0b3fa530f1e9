"""The subscriptions of a store, wired together: started and stopped with it."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed

from durable_streams_tw import clocks
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.commands import Subscribe, SubscriptionCommand
from durable_streams_tw.protocol.subscriptions.state import Kind
from durable_streams_tw.storage.api import IStreamStore, Outcome, StoreSnapshot
from durable_streams_tw.subscriptions.delivery import WebhookDelivery
from durable_streams_tw.subscriptions.describe import Description, describe
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.scheduler import Scheduler
from durable_streams_tw.subscriptions.tokens import WakeTokens
from durable_streams_tw.subscriptions.webhook_client import WebhookClient

T = TypeVar("T")

_NOWHERE = Refusal(
    Problem.INVALID_REQUEST,
    "webhooks are not served here: the server does not know the URL under which it is called back",
)


class Subscriptions:
    """What is done for the subscriptions of a store, and how they are asked for.

    ``now`` returns the store's time (ms since the Unix epoch). ``directory`` keeps the keys, None
    for memory. ``base`` gives the URL of the streams' root, a slash at its end, None where nobody
    knows it; ``allow_local`` says whether webhooks may lead to this machine. ``caller`` stands in
    for the one that calls them.
    """

    def __init__(
        self,
        store: IStreamStore,
        reactor: Any,
        *,
        now: Callable[[], int],
        directory: str | None,
        base: Callable[[], str | None],
        allow_local: Callable[[], bool],
        rotate: bool = False,
        caller: WebhookClient | None = None,
    ) -> None:
        self._store = store
        self._rotate = rotate
        self.base = base
        wall, timers = clocks.wall_clock(reactor), clocks.monotonic_timers(reactor)
        self.keyring = Keyring(directory, wall)
        self.tokens = WakeTokens(lambda: self.keyring.secret, wall)
        self._caller = caller or WebhookClient(reactor, allow_local)
        deliveries = WebhookDelivery(
            store, self._caller.post, self.keyring, self.tokens, base, random, timers.seconds
        )
        #: Webhook calls by what came of them.
        self.calls = deliveries.calls
        self._wakes = Scheduler(store, deliveries.deliver, timers, now)

    def start(self) -> None:
        """Take up what is owed. The store is open. Raises `StoreUnusable`."""
        self.keyring.open(self._rotate)
        self._wakes.start()

    def stop(self) -> Deferred[None]:
        """Let go of everything but the store; fires when no call is under way."""
        return self._wakes.stop()

    def subscribe(self, command: Subscribe) -> Deferred[Outcome]:
        """Make a subscription. Fails with `Refused` where its webhook may not be called."""
        url = command.config.url
        if command.config.kind is not Kind.WEBHOOK or url is None:
            return self._store.submit(command)
        if self.base() is None:
            return succeed(_NOWHERE)
        inspected: Deferred[Any] = self._caller.inspect(url)
        return inspected.addCallback(lambda _: self._store.submit(command))

    def describe(self, name: str) -> Deferred[Description | Refusal]:
        """The subscription of an id, and its streams."""
        return self._store.query(lambda moment: describe(moment, name))

    def ask(self, question: Callable[[StoreSnapshot], T]) -> Deferred[T | Refusal]:
        """What the store has to say of its subscriptions."""
        return self._store.query(question)

    def submit(self, command: SubscriptionCommand) -> Deferred[Outcome]:
        """Any other command."""
        return self._store.submit(command)
