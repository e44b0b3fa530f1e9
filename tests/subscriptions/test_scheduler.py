"""Tests of `durable_streams_tw.subscriptions.scheduler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, capturedLogs, formatEvent

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.subscriptions.commands import Delivered, Unsubscribe
from durable_streams_tw.protocol.subscriptions.outcomes import Claimed
from durable_streams_tw.storage.api import Command, IStreamStore, Outcome, Query
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.limits import (
    DELIVERIES_RESERVED,
    DELIVERIES_SHARE,
    DELIVERY_GRACE,
    DUTY_EARLY,
    DUTY_RETRY,
    MAX_DELIVERIES,
    WEBHOOK_TIMEOUT,
)
from durable_streams_tw.subscriptions.webhook_response import WebhookUnreachable
from tests.storage.command_builders import JSON, create
from tests.storage.suites.subscription_suite import subscribe
from tests.subscriptions.test_keyring import verify
from tests.subscriptions.webhook_case import BASE, LEASE, WebhookCase
from tests.tokens import at, bare

DONE = b'{"done": true}'


class WebhookTests(WebhookCase):
    """Webhook deliveries (§7.1)."""

    def test_what_is_told(self) -> None:
        self.hook("sub/1")
        self.write("events/b", b"xy")
        call = self.call()
        state = self.state("sub/1")
        self.assertEqual(call.url, "https://hook.example/")
        token = call.body.pop("callback_token")
        self.assertEqual(token.count("."), 2)
        stream = {
            "path": "events/b",
            "link_type": "glob",
            "acked_offset": at(0),
            "tail_offset": at(2),
            "has_pending": True,
        }
        expected = {
            "subscription_id": "sub/1",
            "wake_id": state.wake_id,
            "generation": 1,
            "streams": [stream],
            "callback_url": BASE + "__ds/subscriptions/sub%2F1/callback",
        }
        for name in ("acked_offset", "tail_offset"):
            call.body["streams"][0][name] = bare(call.body["streams"][0][name])
        self.assertEqual(call.body, expected)
        self.assertEqual(call.header["Content-Type"], "application/json")
        signature = call.header["Webhook-Signature"]
        self.assertTrue(verify(call.raw, signature, self.keyring.jwks()))
        self.assertEqual(call.timeout, LEASE / 1000)

    def test_done(self) -> None:
        """The delivered offsets are acknowledged, and later appends cause the next delivery."""
        self.hook()
        self.write()
        call = self.call()
        self.write()
        self.assertQuiet()
        call.answer(body=DONE)
        again = self.call()
        self.assertEqual(again.body["generation"], 2)
        self.assertNotEqual(again.body["wake_id"], call.body["wake_id"])
        self.assertEqual(bare(again.body["streams"][0]["acked_offset"]), at(3))
        again.answer(201, b' {"x": [1], "done": true} ')
        self.assertQuiet()
        self.assertTrue(self.state().idle)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_done(self) -> None:
        """Without ``"done": true`` the lease runs, and its end causes the next delivery (§7.3)."""
        for answer in (b"", b"ok", b"{}", b'{"done": false}', b'{"done": "true"}', b"[true]"):
            self.hook(f"s{len(answer)}", f"e{len(answer)}")
            self.write(f"e{len(answer)}")
            call = self.call()
            call.answer(202, answer)
            self.turn(LEASE / 1000 - 1)
            self.assertQuiet()
            self.turn(1)
            again = self.call()
            self.assertEqual(again.body["generation"], 2)
            self.submit(Unsubscribe(f"s{len(answer)}"))

    def test_callback(self) -> None:
        self.hook()
        self.write()
        call = self.call()
        call.answer(202)
        self.turn(20)
        self.call_back(call, done=False)
        self.turn(20)
        self.assertQuiet()
        self.call_back(call, ("events/a", 3))
        self.turn(1000)
        self.assertQuiet()
        self.assertTrue(self.state().idle)

    def test_callback_before_the_response(self) -> None:
        """After a callback the next delivery waits for the previous response, up to
        `DELIVERY_GRACE`.
        """
        self.hook()
        self.write()
        for number in range(2):
            call = self.call()
            self.write()
            self.call_back(call)
            self.assertQuiet()
            if number:
                self.turn(DELIVERY_GRACE)
                self.assertTrue(call.cancelled)
            else:
                self.turn(DELIVERY_GRACE - 1)
                self.assertQuiet()
                call.answer(500)
        self.assertEqual(self.call().body["generation"], 3)

    def test_failure_log(self) -> None:
        """A failed call is one warning: subscription, server, error, and next retry."""
        url = "https://user:secret@hooks.example/secret?token=secret"
        self.hook(url=url)
        self.write()
        for answer, error in (
            (lambda call: call.answer(503), "status 503"),
            (lambda call: call.done.errback(WebhookUnreachable("refused")), "refused"),
        ):
            call = self.call()
            with capturedLogs() as events:
                answer(call)
            (event,) = [event for event in events if event["log_level"] is LogLevel.warn]
            message = formatEvent(event)
            self.assertIn("Webhook of subscription 's' at https://hooks.example failed: ", message)
            self.assertIn(error, message)
            self.assertIn("; retry at 2027-01-15T08:00:", message)
            self.assertNotIn("secret", message)
            self.turn(10)
        with capturedLogs() as events:
            self.call().answer(200, DONE)
        self.assertEqual([event for event in events if event["log_level"] is LogLevel.warn], [])

    def test_heartbeat_before_the_response(self) -> None:
        """A lease that expires ends the wake, even with a pending request."""
        self.hook()
        self.write()
        call = self.call()
        self.call_back(call, done=False)
        self.turn(LEASE / 1000)
        self.assertEqual(self.state().generation, 2)
        self.turn(DELIVERY_GRACE)
        self.assertTrue(call.cancelled)
        self.assertEqual(self.call().body["generation"], 2)

    def test_retries(self) -> None:
        """A failed delivery is retried with the same wake id at growing delays, until a success
        (§7.1).
        """
        self.hook()
        self.write()
        call = self.call()
        wake_id = call.body["wake_id"]
        outcomes: list[Callable[[Any], None]] = [
            lambda call: call.answer(500),
            lambda call: call.answer(302),
            lambda call: call.answer(404, DONE),
            lambda call: call.done.errback(WebhookUnreachable("gone")),
            lambda call: call.answer(199),
        ]
        for count, outcome in enumerate(outcomes):
            outcome(call)
            self.assertEqual(self.state().failures, count + 1)
            self.turn(2**count - 0.01)
            self.assertQuiet()
            self.turn(0.01)
            call = self.call()
            self.assertEqual(call.body["wake_id"], wake_id)
        call.answer(204)
        self.assertFalse(self.state().failing)

    def test_jitter(self) -> None:
        self.hook()
        for self.chance, pause in ((0.0, 0.8), (1.0, 1.2)):
            self.write()
            self.call().answer(500)
            self.turn(pause - 0.01)
            self.assertQuiet()
            self.turn(0.01)
            self.call().answer(200, DONE)

    def test_restart(self) -> None:
        """A restart repeats pending requests, and keeps scheduled retries and leases (§7.1)."""
        self.hook("a", "a")
        self.hook("b", "b")
        self.hook("c", "c")
        self.write("a")
        first = self.call()
        self.write("b")
        self.call().answer(500)
        self.write("c")
        self.call().answer(202)
        self.stop()
        self.assertTrue(first.cancelled)
        self.assertEqual(self.state("a").failures, 0)
        self.clock.advance(0.5)
        self.begin()
        again = self.call()
        self.assertEqual(again.body["wake_id"], first.body["wake_id"])
        again.answer(200, DONE)
        self.turn(0.4)
        self.assertQuiet()
        self.turn(0.1)
        self.assertEqual(self.call().body["subscription_id"], "b")
        self.turn(LEASE / 1000 - 1.5)
        self.assertQuiet()
        self.turn(0.5)
        self.assertEqual(self.call().body["subscription_id"], "c")

    def test_deleted(self) -> None:
        """Deleting a subscription cancels its request; a new subscription with its id is another
        one.
        """
        asked = self.hook()
        self.write()
        call = self.call()
        self.submit(Unsubscribe("s"))
        self.assertTrue(call.cancelled)
        self.submit(asked)
        self.write()
        again = self.call()
        self.assertEqual(again.body["generation"], 1)
        again.answer(500)
        self.submit(Unsubscribe("s"))
        self.turn(100)
        self.assertQuiet()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_recreated_in_one_commit(self) -> None:
        """A notification may combine a deletion and a creation."""
        self.hook()
        self.write()
        call = self.call()
        state = self.state()
        self.wakes._take(type(state)(9, "s", state.config, b"", 0))
        self.assertTrue(call.cancelled)
        self.assertEqual(self.wakes._entries, {})

    def test_stream_deleted_before_the_retry(self) -> None:
        """Deleting the stream of a failed wake ends its retries."""
        self.hook()
        self.write()
        self.call().answer(500)
        self.submit(Delete("events/a"))
        self.turn(10)
        self.assertQuiet()
        self.assertTrue(self.state().idle)

    def test_bounded(self) -> None:
        """At most `DELIVERIES_SHARE` requests to one host are pending."""
        for number in range(DELIVERIES_SHARE + 5):
            self.hook(f"s{number}", "a")
        self.write("a")
        self.turn()
        self.assertEqual(len(self.calls), DELIVERIES_SHARE)
        calls, self.calls = self.calls, []
        for call in calls[:3]:
            call.answer(200, DONE)
        self.turn()
        self.assertEqual(len(self.calls), 3)
        self.stop()
        self.assertTrue(all(call.cancelled for call in calls[3:] + self.calls))

    def test_hanging_receivers(self) -> None:
        """Two hundred subscriptions of a hanging receiver do not delay other receivers."""
        for number in range(200):
            self.hook(f"s{number}", "a", url=f"https://h{number}.hanging.example/{number}")
        self.hook("healthy", "a", url="https://healthy.example/")
        self.write("a")
        self.turn()
        urls = [call.url for call in self.calls]
        self.assertEqual(len(urls), DELIVERIES_SHARE + 1)
        self.assertIn("https://healthy.example/", urls)

    def test_hanging_receivers_on_localhost(self) -> None:
        """Receivers on localhost are distinguished by port."""
        for number in range(200):
            self.hook(f"s{number}", "a", url=f"http://localhost:3000/{number}")
        self.hook("healthy", "a", url="http://localhost:3001/")
        self.write("a")
        self.turn()
        self.assertIn("http://localhost:3001/", [call.url for call in self.calls])

    def test_receivers_that_hang_on_many_domains(self) -> None:
        """Hanging receivers on many domains leave the reserved slots to receivers that
        were prompt.
        """
        self.hook("healthy", "h", url="https://healthy.example/")
        self.write("h")
        self.call().answer(200, DONE)
        for number in range(MAX_DELIVERIES):
            self.hook(f"s{number}", "a", url=f"https://hanging-{number}.example/")
        self.write("a")
        self.turn()
        self.assertEqual(len(self.calls), MAX_DELIVERIES - DELIVERIES_RESERVED)
        self.write("h")
        self.turn()
        self.assertIn("https://healthy.example/", [call.url for call in self.calls])

    def test_timeout_is_bounded_by_the_lease(self) -> None:
        self.submit(subscribe("s", "a", wake_stream=None, lease_ttl=1500))
        self.write("a")
        self.assertEqual(self.call().timeout, 1.5)
        self.assertGreaterEqual(WEBHOOK_TIMEOUT, 1.5)

    def test_before_the_ports_are_open(self) -> None:
        """Deliveries wait until the callback URL is known."""
        self.base = None
        self.hook()
        self.write()
        self.assertQuiet()
        self.base = BASE
        self.turn(DUTY_RETRY)
        self.call()

    def test_stopped(self) -> None:
        """After a stop nothing is delivered."""
        self.hook()
        self.stop()
        self.write()
        self.assertQuiet()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PullTests(WebhookCase):
    """Leases and wake events of pull-wake subscriptions (§7.2)."""

    def pull(self) -> None:
        self.submit(subscribe("p", "events/*", wake_stream="wake", lease_ttl=LEASE))

    def test_lease(self) -> None:
        self.submit(create("wake", content_type=JSON))
        self.pull()
        self.write()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        claimed = self.claim()
        assert isinstance(claimed, Claimed), claimed
        self.turn(LEASE / 1000 - 1)
        self.assertEqual(self.state("p").generation, 1)
        self.turn(1)
        self.assertEqual((self.state("p").generation, self.state("p").holder), (2, None))

    def test_missing_wake_stream(self) -> None:
        """A wake event is retried until its stream exists."""
        self.pull()
        self.write()
        for _ in range(10):
            self.turn(1)
        self.assertIn(self.state("p").failures, (3, 4))
        self.submit(create("wake", content_type=JSON))
        self.turn(100)
        self.assertFalse(self.state("p").failing)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FlakyStore(MemoryStore):
    """Store whose commands and queries fail on demand."""

    refusal: Refusal | None = None
    error: Exception | None = None

    def submit(self, command: Command) -> Deferred[Outcome]:
        if isinstance(command, Delivered):
            if self.error is not None:
                return fail(self.error)
            if self.refusal is not None:
                return succeed(self.refusal)
        return super().submit(command)

    def query(self, question: Query[Any]) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        if self.refusal is not None:
            return succeed(self.refusal)
        return super().query(question)


class FlakyTests(WebhookCase):
    """Failures of the store lose nothing and cause no busy loop."""

    store: FlakyStore

    def make_store(self) -> IStreamStore:
        return FlakyStore(lambda: int(self.clock.seconds() * 1000))

    def test_refused(self) -> None:
        self.hook()
        self.store.refusal = Refusal(Problem.STORAGE_UNAVAILABLE, "")
        self.write()
        self.turn(3 * DUTY_RETRY)
        self.assertQuiet()
        self.store.refusal = None
        self.turn(DUTY_RETRY)
        call = self.call()
        self.store.refusal = Refusal(Problem.OUTCOME_UNKNOWN, "")
        call.answer(200, DONE)
        self.assertQuiet()
        self.store.refusal = None
        self.turn(DUTY_RETRY)
        again = self.call()
        self.assertEqual(again.body["wake_id"], call.body["wake_id"])
        again.answer(200, DONE)
        self.assertTrue(self.state().idle)

    def test_failed(self) -> None:
        """An unexpected exception is logged, and the work is retried later."""
        self.hook()
        self.store.error = ZeroDivisionError()
        self.write()
        self.turn(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.store.error = None
        self.turn(DUTY_RETRY)
        self.call()

    def test_unreadable_at_the_start(self) -> None:
        """Subscriptions that could not be read at the start are read later; notifications count at
        once.
        """
        self.hook("a", "a")
        self.hook("b", "b")
        self.write("a")
        self.call().answer(500)
        self.stop()
        self.turn(10)
        self.store.refusal = Refusal(Problem.STORAGE_UNAVAILABLE, "")
        self.begin()
        self.assertQuiet()
        self.store.refusal = None
        self.write("b")
        self.assertEqual(self.call().body["subscription_id"], "b")
        self.turn(DUTY_RETRY)
        self.assertEqual(self.call().body["subscription_id"], "a")

    def test_notification_during_the_read(self) -> None:
        """A notification is newer than the result of a pending read."""
        self.hook()
        self.write()
        self.call().answer(202)
        self.stop()
        late: Deferred[Any] = Deferred()
        answers: list[Any] = []
        ask = self.store.query

        def slow(question: Any) -> Deferred[Any]:
            ask(question).addCallback(answers.append)
            return late

        self.patch(self.store, "query", slow)
        self.begin()
        self.submit(Unsubscribe("s"))
        late.callback(answers[0])
        self.assertEqual(self.wakes._entries, {})


class ClockTests(WebhookCase):
    """A store whose clock is behind the reactor's."""

    behind = 0.0

    def make_store(self) -> IStreamStore:
        return MemoryStore(lambda: int((self.clock.seconds() - self.behind) * 1000))

    def test_asked_again_soon(self) -> None:
        self.submit(create("wake", content_type=JSON))
        self.submit(subscribe("p", "events/*", wake_stream="wake", lease_ttl=LEASE))
        self.write()
        self.claim()
        self.behind = 0.01
        self.turn(LEASE / 1000)
        self.assertEqual(self.state("p").generation, 1)
        self.turn(DUTY_EARLY)
        self.assertEqual(self.state("p").generation, 2)
