"""Tests of `durable_streams_tw.http.operators.subscription_listing`."""

from __future__ import annotations

import json
from typing import Any

from twisted.web.resource import IResource

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.subscription_listing import SubscriptionListing
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.storage.commands.subscription_listing import (
    ListSubscriptions,
    SubscriptionPage,
)
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse
from tests.http.handlers.test_subscriptions import FakeCaller
from tests.http.operators.operator_case import OperatorCase
from tests.http.server_fixture import ROOT, at_once


class SubscriptionListingTests(OperatorCase):
    """Requests to ``/-/subscriptions``."""

    def resources(self) -> dict[bytes, IResource]:
        """Return the listing, with errors that the test sets."""
        self.errors: dict[str, str] = {}
        return {b"subscriptions": SubscriptionListing(self.store, self.errors)}

    def subscribe(self, name: str, **config: object) -> None:
        """Create a subscription."""
        body = json.dumps(config).encode()
        answer = self.ask(
            "PUT", f"{ROOT}__ds/subscriptions/{name}", body, Content_Type="application/json"
        )
        self.assertEqual(answer.status, 201, answer.body)

    def listed(self, query: str = "") -> list[dict[str, Any]]:
        """Return the subscriptions of one page."""
        found: list[dict[str, Any]] = self.shown(f"/-/subscriptions?{query}")["subscriptions"]
        return found

    def test_pull(self) -> None:
        """A pull-wake subscription has its phase and the bytes that are not acknowledged."""
        self.put("wakes", "application/json")
        self.put("a")
        self.subscribe("s", type="pull-wake", pattern="*", wake_stream="wakes")
        (shown,) = self.listed()
        self.assertEqual(
            (shown["id"], shown["type"], shown["pattern"], shown["target"], shown["phase"]),
            ("s", "pull-wake", "*", "wakes", "idle"),
        )
        self.append("a", b"abc")
        self.clock.advance(1)
        (shown,) = self.listed()
        self.assertEqual((shown["pending_streams"], shown["pending_bytes"]), (1, 3))
        self.assertEqual((shown["phase"], shown["pending_complete"]), ("offered", True))
        self.assertEqual((shown["failures"], shown["last_error"]), (0, None))

    def test_pages(self) -> None:
        """Pages are in the order of ids."""
        self.put("wakes", "application/json")
        for name in ("b", "c", "a"):
            self.subscribe(name, type="pull-wake", pattern="*", wake_stream="wakes")
        page = self.shown("/-/subscriptions?limit=2")
        self.assertEqual([one["id"] for one in page["subscriptions"]], ["a", "b"])
        self.assertEqual(page["after"], "b")
        self.assertEqual([one["id"] for one in self.listed("after=b")], ["c"])
        self.assertEqual(self.ask("GET", "/-/subscriptions?limit=1001").status, 400)

    def test_bounded_work(self) -> None:
        """A page that examines too many cursors says which counts are incomplete."""
        self.put("wakes", "application/json")
        for name in ("a", "b"):
            self.subscribe(name, type="pull-wake", pattern="*", wake_stream="wakes")
        for name in ("x", "y"):
            self.put(name)
            self.append(name, b"abc")
        page: Any = self.successResultOf(self.store.query(ListSubscriptions(scan=3)))
        assert isinstance(page, SubscriptionPage)
        counts = [(one.streams, one.size, one.complete) for one in page.subscriptions]
        self.assertEqual(counts, [(2, 6, True), (1, 3, False)])


class WebhookTests(OperatorCase):
    """Subscriptions whose webhook fails."""

    def make_streams(self) -> DurableStreams:
        """Return streams whose webhooks are answered by the test."""
        self.caller = FakeCaller()
        caller: Any = self.caller
        self.caller.answer = WebhookResponse(500, b"")
        settings = Settings(public_url="https://streams.example/v1/stream/")
        return DurableStreams(
            reactor=self.clock,
            in_thread=at_once,
            settings=settings,
            store=self.store,
            webhook_client=caller,
        )

    def test_failing(self) -> None:
        """A failing webhook has its last error and the time of the next attempt."""
        body = {"type": "webhook", "pattern": "a", "webhook": {"url": "https://hook.example/x"}}
        target = f"{ROOT}__ds/subscriptions/s"
        self.ask("PUT", target, json.dumps(body).encode(), Content_Type="application/json")
        self.put("a")
        self.append("a", b"abc")
        self.clock.pump([0] * 5)
        (shown,) = self.shown("/-/subscriptions")["subscriptions"]
        self.assertEqual((shown["phase"], shown["failures"]), ("failing", 1))
        self.assertEqual(shown["last_error"], "status 500")
        self.assertEqual(shown["target"], "https://hook.example/x")
        self.assertTrue(shown["next_attempt_at"].startswith("2027-01-15T08:00:0"))
        self.caller.answer = WebhookResponse(200, b'{"done": true}')
        self.clock.pump([1] * 10)
        (shown,) = self.shown("/-/subscriptions")["subscriptions"]
        self.assertEqual((shown["phase"], shown["last_error"]), ("idle", None))
