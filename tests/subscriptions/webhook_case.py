"""Test case with a memory store, a clock, and webhooks whose responses the test gives."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.subscriptions.commands import Ack, Claim, Settle, Subscribe
from durable_streams_tw.protocol.subscriptions.state import Kind, Subscription, TokenClaims, Wake
from durable_streams_tw.storage.api import Command, IStreamStore, Outcome
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, subscription_key
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.delivery import WebhookDelivery
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.scheduler import Scheduler
from durable_streams_tw.subscriptions.tokens import WakeTokens
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse
from tests.storage.command_builders import append, create
from tests.storage.store_case import Ask
from tests.storage.suites.subscription_suite import subscribe

BASE = "https://streams.example/v1/stream/"
MORNING = 1_800_000_000.0
LEASE = 30_000


class FakeCall(Struct):
    """Pending request to a webhook."""

    url: str
    body: dict[str, Any]
    raw: bytes
    header: dict[str, str]
    timeout: float
    done: Deferred[WebhookResponse]
    cancelled: bool = False

    def answer(self, status: int = 200, body: bytes = b"") -> None:
        self.done.callback(WebhookResponse(status, body))


class WebhookCase(SynchronousTestCase):
    """Test case with a scheduler; `calls` are the pending requests to webhooks."""

    chance = 0.5

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.store: IStreamStore = self.make_store()
        self.calls: list[FakeCall] = []
        self.base: str | None = BASE
        self.begin()

    def make_store(self) -> IStreamStore:
        return MemoryStore(self.now)

    def now(self) -> int:
        return int(self.clock.seconds() * 1000)

    def begin(self) -> None:
        """Start the scheduler, or restart it on the same store."""
        self.keyring = Keyring(None, self.clock.seconds)
        self.keyring.open()
        self.tokens = WakeTokens(lambda: self.keyring.secret, self.clock.seconds)
        self.deliveries = WebhookDelivery(
            self.store,
            self.post,
            self.keyring,
            self.tokens,
            lambda: self.base,
            lambda: self.chance,
            self.clock.seconds,
        )
        self.wakes = Scheduler(self.store, self.deliveries.deliver, self.clock, self.now)
        self.wakes.start()

    def stop(self) -> None:
        self.successResultOf(self.wakes.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def post(
        self, url: str, body: bytes, header: dict[str, str], timeout: float
    ) -> Deferred[WebhookResponse]:
        def cancel(_: Deferred[WebhookResponse]) -> None:
            call.cancelled = True

        done: Deferred[WebhookResponse] = Deferred(cancel)
        call = FakeCall(url, json.loads(body), body, header, timeout, done)
        self.calls.append(call)
        return done

    def turn(self, seconds: float = 0.0) -> None:
        """Advance the clock and run due calls."""
        self.clock.advance(seconds)
        for _ in range(3):
            self.clock.advance(0)

    def submit(self, command: Command) -> Outcome:
        outcome = self.successResultOf(self.store.submit(command))
        assert not isinstance(outcome, Refusal), outcome
        return outcome

    def hook(self, name: str = "s", pattern: str = "events/*", **changes: Any) -> Subscribe:
        """Create a webhook subscription."""
        asked = subscribe(name, pattern, wake_stream=None, lease_ttl=LEASE, **changes)
        self.submit(asked)
        return asked

    def write(self, path: str = "events/a", data: bytes = b"abc") -> None:
        """Append to a stream; create it if it is missing."""
        outcome = self.successResultOf(self.store.submit(append(path, data)))
        if isinstance(outcome, Refusal):
            self.submit(create(path, data))

    def state(self, name: str = "s") -> Subscription:
        asked: Deferred[Any] = self.store.query(
            Ask(lambda moment: moment.get(SUBSCRIPTIONS, subscription_key(name)))
        )
        state = self.successResultOf(asked)
        assert isinstance(state, Subscription), state
        return state

    def call(self) -> FakeCall:
        """Return the only new request."""
        self.turn()
        self.assertEqual(len(self.calls), 1, self.calls)
        return self.calls.pop()

    def assertQuiet(self) -> None:
        self.turn()
        self.assertEqual(self.calls, [])

    def call_back(self, call: FakeCall, *acks: tuple[str, int], done: bool = True) -> Outcome:
        """Send a callback with the token of a request."""
        wake = Wake(call.body["generation"], call.body["wake_id"])
        name = call.body["subscription_id"]
        proof = self.tokens.check(call.body["callback_token"], name, Kind.WEBHOOK)
        assert isinstance(proof, TokenClaims), proof
        taken = tuple([Ack(path, position) for path, position in acks])
        settle = Settle(name, Kind.WEBHOOK, proof, wake, taken, done)
        return self.successResultOf(self.store.submit(settle))

    def claim(self, name: str = "p") -> Outcome:
        return self.successResultOf(self.store.submit(Claim(name, "w")))
