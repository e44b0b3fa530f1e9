"""Tests of `durable_streams_tw.http.handlers.subscriptions` (PROTOCOL.md §6, §7)."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.storage.commands import subscription_queries
from durable_streams_tw.storage.limits import MAX_LISTED_STREAMS
from durable_streams_tw.subscriptions.limits import TOKEN_LIFETIME
from durable_streams_tw.subscriptions.webhook_response import WebhookResponse
from tests.http.server_fixture import Answer, ServerFixture
from tests.tokens import at, bare, position_of

BASE = "https://streams.example/v1/stream/"
HOOK = "https://hook.example/x"
JSON = {"Content-Type": "application/json"}


class FakeCaller:
    """Webhook client of a test; every URL is allowed but those in a set."""

    def __init__(self) -> None:
        self.refusal: Refusal | None = None
        self.bodies: list[dict[str, Any]] = []
        self.answer = WebhookResponse(202, b"")

    def inspect(self, url: str) -> Deferred[None]:
        if self.refusal is not None:
            refused = Refused(self.refusal.problem, self.refusal.detail)
            return fail(refused)
        return succeed(None)

    def post(
        self, url: str, body: bytes, header: dict[str, str], timeout: float
    ) -> Deferred[WebhookResponse]:
        self.bodies.append(json.loads(body))
        return succeed(self.answer)


class Reply(Struct):
    """Response with decoded JSON."""

    status: int
    body: Any
    header: dict[str, str]


class ControlCase(SynchronousTestCase):
    """Test case with webhooks that the test answers."""

    settings = Settings(public_url=BASE)

    def setUp(self) -> None:
        self.caller = FakeCaller()
        self.fixture = ServerFixture(self.settings, webhook_client=self.caller)

    def ask(
        self, method: str, path: str, body: Any = b"", token: str | None = None, **header: str
    ) -> Reply:
        fields = {**JSON, **header}
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer: Answer = self.fixture.ask(method, f"__ds/{path}", fields, raw or None)
        decoded: Any = json.loads(answer.body) if answer.body else None
        if answer.status >= 400 and method != "HEAD":
            self.assertEqual(set(decoded), {"error"})
            self.assertIsInstance(decoded["error"]["message"], str)
        return Reply(answer.status, decoded, answer.header)

    def assertError(self, reply: Reply, status: int, code: str) -> None:
        self.assertEqual((reply.status, reply.body["error"]["code"]), (status, code), reply.body)

    def pull(self, name: str = "s", **changes: Any) -> Reply:
        body = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake", **changes}
        return self.ask("PUT", f"subscriptions/{name}", body)

    def hook(self, name: str = "s", **changes: Any) -> Reply:
        body = {"type": "webhook", "pattern": "events/*", "webhook": {"url": HOOK}, **changes}
        return self.ask("PUT", f"subscriptions/{name}", body)

    def claim(self, name: str = "s", worker: str = "w") -> Reply:
        return self.ask("POST", f"subscriptions/{name}/claim", {"worker": worker})

    def work(self) -> None:
        """Create a wake stream, a pull-wake subscription, and three pending bytes."""
        self.fixture.put("wake", "application/json")
        self.assertEqual(self.pull().status, 201)
        self.fixture.put("events/a", body=b"abc")


class SubscriptionTests(ControlCase):
    """PUT, GET, DELETE (§6.2, §6.3)."""

    def test_preconditions(self) -> None:
        """If-None-Match: * works, an ETag does not exist."""
        config = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake"}
        only_new, only_there = {"If-None-Match": "*"}, {"If-Match": "*"}

        def ask(method: str, path: str, header: dict[str, str]) -> Reply:
            body = config if method == "PUT" else b""
            return self.ask(method, path, body, **header)

        self.assertError(ask("PUT", "subscriptions/s", only_there), 412, "PRECONDITION_FAILED")
        self.assertEqual(ask("PUT", "subscriptions/s", only_new).status, 201)
        self.assertError(ask("PUT", "subscriptions/s", only_new), 412, "PRECONDITION_FAILED")
        self.assertEqual(ask("PUT", "subscriptions/s", only_there).status, 200)
        for header in ({"If-Match": '"x"'}, only_new, {"If-Unmodified-Since": "x"}):
            refused = ask("DELETE", "subscriptions/s", header)
            self.assertError(refused, 412, "PRECONDITION_FAILED")
        self.assertError(
            ask("DELETE", "subscriptions/s", {"If-Match": "x"}), 400, "INVALID_REQUEST"
        )
        for method, path in (("POST", "claim"), ("POST", "streams"), ("DELETE", "streams/a")):
            refused = ask(method, f"subscriptions/s/{path}", {"If-Match": "*"})
            self.assertError(refused, 412, "PRECONDITION_FAILED")
        for path in ("subscriptions/s", "jwks.json"):
            self.assertEqual(ask("GET", path, only_there).status, 200)
            self.assertError(ask("GET", path, {"If-Match": '"x"'}), 412, "PRECONDITION_FAILED")
        self.assertEqual(ask("DELETE", "subscriptions/s", only_there).status, 204)
        self.assertEqual(ask("GET", "subscriptions/s", only_there).status, 404)
        self.assertError(ask("DELETE", "subscriptions/s", only_there), 412, "PRECONDITION_FAILED")

    def test_webhook(self) -> None:
        made = self.hook(description="d", lease_ttl_ms=1000, streams=["a", "events/x"])
        self.assertEqual(made.status, 201)
        kid = made.body["webhook"]["signing"]["kid"]
        expected = {
            "id": "s",
            "subscription_id": "s",
            "type": "webhook",
            "pattern": "events/*",
            "streams": [
                {"path": path, "link_type": "explicit", "acked_offset": at(0)}
                for path in ("a", "events/x")
            ],
            "webhook": {
                "url": HOOK,
                "signing": {"alg": "ed25519", "kid": kid, "jwks_url": BASE + "__ds/jwks.json"},
            },
            "wake_stream": None,
            "lease_ttl_ms": 1000,
            "created_at": "2027-01-15T08:00:00.000Z",
            "status": "active",
            "description": "d",
        }
        self.assertEqual(made.body, expected)
        self.assertEqual(made.header["content-type"], "application/json")
        self.assertEqual(made.header["cache-control"], "no-store")
        again = self.hook(description="d", lease_ttl_ms=1000, streams=["events/x", "a"])
        self.assertEqual((again.status, again.body), (200, expected))
        got = self.ask("GET", "subscriptions/s")
        self.assertEqual((got.status, got.body), (200, expected))
        head = self.ask("HEAD", "subscriptions/s")
        self.assertEqual((head.status, head.body), (200, None))
        self.assertError(self.hook(), 409, "SUBSCRIPTION_ALREADY_EXISTS")

    def test_pull(self) -> None:
        made = self.pull()
        self.assertEqual((made.status, made.body["wake_stream"]), (201, "wake"))
        self.assertIsNone(made.body["webhook"])
        self.assertEqual(made.body["lease_ttl_ms"], 30_000)

    def test_links(self) -> None:
        self.fixture.put("events/b", body=b"xy")
        self.fixture.put("events/a", body=b"x")
        made = self.pull(streams=["events/b"])
        links = [
            (link["path"], link["link_type"], position_of(link["acked_offset"]))
            for link in made.body["streams"]
        ]
        expected = [
            ("events/a", "glob", 1),
            ("events/b", "explicit", 2),
        ]
        self.assertEqual(links, expected)

    def test_too_many_to_list(self) -> None:
        """An incomplete list of streams says so."""
        self.patch(subscription_queries, "MAX_LISTED_STREAMS", 2)
        self.assertGreater(MAX_LISTED_STREAMS, 2)
        for path in ("events/a", "events/b"):
            self.fixture.put(path)
        self.assertNotIn("streams_complete", self.pull().body)
        self.fixture.put("events/c")
        body = self.ask("GET", "subscriptions/s").body
        self.assertEqual((len(body["streams"]), body["streams_complete"]), (2, False))
        self.patch(subscription_queries, "MAX_LISTED_STREAMS", 10)
        self.assertNotIn("streams_complete", self.ask("GET", "subscriptions/s").body)
        self.patch(subscription_queries, "MAX_SCANNED_NAMES", 1)
        body = self.ask("GET", "subscriptions/s").body
        self.assertEqual((len(body["streams"]), body["streams_complete"]), (1, False))

    def test_delete(self) -> None:
        self.work()
        claimed = self.claim().body
        for _ in range(2):
            gone = self.ask("DELETE", "subscriptions/s")
            self.assertEqual((gone.status, gone.body), (204, None))
        self.assertError(self.ask("GET", "subscriptions/s"), 404, "SUBSCRIPTION_NOT_FOUND")
        self.assertError(self.claim(), 404, "SUBSCRIPTION_NOT_FOUND")
        wake = {"wake_id": claimed["wake_id"], "generation": claimed["generation"]}
        for action in ("ack", "release", "callback"):
            reply = self.ask("POST", f"subscriptions/s/{action}", wake, claimed["token"])
            self.assertError(reply, 404, "SUBSCRIPTION_NOT_FOUND")

    def test_refused_url(self) -> None:
        self.caller.refusal = Refusal(Problem.WEBHOOK_URL_REJECTED, "no")
        self.assertError(self.hook(), 400, "WEBHOOK_URL_REJECTED")
        self.assertError(self.ask("GET", "subscriptions/s"), 404, "SUBSCRIPTION_NOT_FOUND")

    def test_invalid(self) -> None:
        for body in (b"", b"{", b"[]", b"\xff"):
            reply = self.ask("PUT", "subscriptions/s", body)
            self.assertError(reply, 400, "INVALID_REQUEST")
        large = self.ask("PUT", "subscriptions/s", b" " * (2**20 + 1))
        self.assertError(large, 413, "BODY_TOO_LARGE")
        self.assertError(self.hook("x" * 257), 400, "INVALID_REQUEST")
        self.assertError(self.hook("a%00b"), 400, "INVALID_REQUEST")

    def test_ids(self) -> None:
        """A percent-encoded id is returned as it was sent."""
        made = self.hook("team%2Fsub%201")
        self.assertEqual((made.status, made.body["id"]), (201, "team/sub 1"))
        self.assertEqual(self.ask("GET", "subscriptions/team%2fsub%201").status, 200)
        self.assertError(self.ask("GET", "subscriptions/team/sub%201"), 404, "NOT_FOUND")
        self.fixture.put("events/a", body=b"x")
        self.fixture.turn()
        (told,) = self.caller.bodies
        self.assertEqual(told["callback_url"], BASE + "__ds/subscriptions/team%2Fsub%201/callback")

    def test_status(self) -> None:
        self.caller.answer = WebhookResponse(500, b"")
        self.hook()
        self.fixture.put("events/a", body=b"x")
        self.fixture.turn()
        self.assertEqual(self.ask("GET", "subscriptions/s").body["status"], "failed")


class MembershipTests(ControlCase):
    """POST streams, DELETE streams/:path (§6.4)."""

    def paths(self) -> list[str]:
        streams = self.ask("GET", "subscriptions/s").body["streams"]
        return [f"{link['path']} {link['link_type']}" for link in streams]

    def test_add_and_remove(self) -> None:
        self.pull()
        self.fixture.put("events/a")
        for _ in range(2):
            body = {"streams": ["events/a", "manual/b", "/c"]}
            added = self.ask("POST", "subscriptions/s/streams", body)
            self.assertEqual((added.status, added.body), (204, None))
        self.assertEqual(self.paths(), ["c explicit", "events/a explicit", "manual/b explicit"])
        for path in ("manual%2Fb", "manual/b", "events/a", "none"):
            removed = self.ask("DELETE", f"subscriptions/s/streams/{path}")
            self.assertEqual((removed.status, removed.body), (204, None))
        self.assertEqual(self.paths(), ["c explicit", "events/a glob"])

    def test_refused(self) -> None:
        missing = self.ask("POST", "subscriptions/s/streams", {"streams": ["a"]})
        self.assertError(missing, 404, "SUBSCRIPTION_NOT_FOUND")
        missing = self.ask("DELETE", "subscriptions/s/streams/a")
        self.assertError(missing, 404, "SUBSCRIPTION_NOT_FOUND")
        self.pull()
        wrong: tuple[list[str], ...] = ([], [""], ["__ds/x"], ["wake"])
        for streams in wrong:
            reply = self.ask("POST", "subscriptions/s/streams", {"streams": streams})
            self.assertError(reply, 400, "INVALID_REQUEST")
        reply = self.ask("DELETE", "subscriptions/s/streams/a//b")
        self.assertError(reply, 400, "INVALID_REQUEST")


class WorkerTests(ControlCase):
    """claim, ack, release (§7.2)."""

    def settle(self, action: str, claimed: Any, token: str | None = None, **changes: Any) -> Reply:
        wake = {"wake_id": claimed["wake_id"], "generation": claimed["generation"], **changes}
        return self.ask("POST", f"subscriptions/s/{action}", wake, token or claimed["token"])

    def test_one_round(self) -> None:
        self.work()
        event = json.loads(self.fixture.ask("GET", "wake").body)
        self.assertEqual(
            event,
            [
                {
                    "type": "wake",
                    "subscription_id": "s",
                    "stream": "events/a",
                    "generation": 1,
                    "ts": 1_800_000_000_000,
                }
            ],
        )
        claimed = self.claim()
        self.assertEqual(claimed.status, 200)
        token, wake_id = claimed.body.pop("token"), claimed.body.pop("wake_id")
        stream = {
            "path": "events/a",
            "link_type": "glob",
            "acked_offset": at(0),
            "tail_offset": at(3),
            "has_pending": True,
        }
        for name in ("acked_offset", "tail_offset"):
            claimed.body["streams"][0][name] = bare(claimed.body["streams"][0][name])
        self.assertEqual(
            claimed.body, {"generation": 1, "streams": [stream], "lease_ttl_ms": 30_000}
        )
        busy = self.claim(worker="other")
        self.assertError(busy, 409, "ALREADY_CLAIMED")
        self.assertEqual(busy.body["error"]["current_holder"], "w")
        self.assertEqual(busy.body["error"]["generation"], 1)
        body = {**claimed.body, "wake_id": wake_id, "token": token}
        acks = [{"stream": "events/a", "offset": at(2)}]
        beat = self.settle("ack", body, acks=acks)
        self.assertEqual((beat.status, beat.body), (200, {"ok": True, "next_wake": False}))
        bad = self.settle("ack", body, acks=[{"stream": "events/a", "offset": at(1)}])
        self.assertError(bad, 409, "INVALID_OFFSET")
        acks = [{"stream": "events/a", "offset": at(3)}]
        done = self.settle("ack", body, acks=acks, done=True)
        self.assertEqual((done.status, done.body), (200, {"ok": True, "next_wake": False}))
        self.assertError(self.settle("ack", body), 409, "FENCED")
        self.assertError(self.settle("release", body), 409, "FENCED")
        self.assertError(self.claim(), 409, "NO_PENDING_WORK")

    def test_release(self) -> None:
        self.work()
        claimed = self.claim().body
        released = self.settle("release", claimed)
        self.assertEqual((released.status, released.body), (204, None))
        self.assertEqual(len(json.loads(self.fixture.ask("GET", "wake").body)), 2)
        self.assertError(self.settle("release", claimed), 409, "FENCED")

    def test_next_wake(self) -> None:
        self.work()
        claimed = self.claim().body
        done = self.settle("ack", claimed, done=True)
        self.assertEqual(done.body, {"ok": True, "next_wake": True})

    def test_lease(self) -> None:
        """A lease expires by itself (§7.3)."""
        self.work()
        claimed = self.claim().body
        self.fixture.clock.advance(30)
        self.assertError(self.settle("ack", claimed), 409, "FENCED")
        self.assertEqual(self.claim(worker="other").body["generation"], 2)

    def test_tokens(self) -> None:
        self.work()
        claimed = self.claim().body
        path = "subscriptions/s/ack"
        wake = {"wake_id": claimed["wake_id"], "generation": 1}
        for header in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}):
            reply = self.ask("POST", path, wake, **header)
            self.assertError(reply, 401, "TOKEN_INVALID")
            self.assertEqual(reply.header["www-authenticate"], "Bearer")
        for token in ("x", claimed["token"] + "x", claimed["token"][:-1]):
            self.assertError(self.ask("POST", path, wake, token), 401, "TOKEN_INVALID")
        reply = self.settle("callback", claimed)
        self.assertError(reply, 400, "INVALID_REQUEST")
        for action in ("ack", "release"):
            reply = self.ask("POST", f"subscriptions/s/{action}", {}, claimed["token"])
            self.assertError(reply, 400, "INVALID_REQUEST")
        good = self.ask("POST", path, wake, Authorization=f"bearer  {claimed['token']}")
        self.assertEqual(good.status, 200)

    def test_offsets_of_another_incarnation(self) -> None:
        """An ack with an offset of a deleted stream has no effect on its successor."""
        self.work()
        shown = self.claim().body
        old = shown["streams"][0]["tail_offset"]
        self.fixture.ask("DELETE", "events/a")
        self.fixture.put("events/a", body=b"another stream")
        acks = [{"stream": "events/a", "offset": old}]
        refused = self.settle("ack", shown, acks=acks, done=True)
        self.assertError(refused, 409, "INVALID_OFFSET")
        self.assertIn("incarnation", refused.body["error"]["message"])
        self.settle("ack", shown, done=True)
        (item,) = self.claim().body["streams"]
        self.assertNotEqual(item["tail_offset"].partition("_")[0], old.partition("_")[0])
        self.assertEqual(position_of(item["acked_offset"]), 0)

    def test_tokens_expire(self) -> None:
        """Heartbeats renew tokens; an expired one is refused as such."""
        self.work()
        claimed = self.claim().body
        renewed: str | None = None
        for _ in range(TOKEN_LIFETIME // 20):
            self.fixture.clock.advance(20)
            beat = self.settle("ack", claimed, renewed)
            self.assertEqual(beat.status, 200)
            renewed = beat.body.get("token", renewed)
        self.fixture.clock.advance(20)
        self.assertError(self.settle("ack", claimed), 401, "TOKEN_EXPIRED")
        self.assertEqual(self.settle("ack", claimed, renewed, done=True).status, 200)

    def test_callback(self) -> None:
        """A webhook receiver can call back with the token of its request (§7.1)."""
        self.hook()
        self.fixture.put("events/a", body=b"abc")
        self.fixture.turn()
        (told,) = self.caller.bodies
        path = told["callback_url"].removeprefix(BASE + "__ds/")
        acks = [{"stream": "events/a", "offset": told["streams"][0]["tail_offset"]}]
        wake = {"wake_id": told["wake_id"], "generation": told["generation"]}
        body = {**wake, "acks": acks, "done": True}
        token = told["callback_token"]
        self.assertError(
            self.ask("POST", "subscriptions/s/ack", body, token), 400, "INVALID_REQUEST"
        )
        reply = self.ask("POST", path, body, token)
        self.assertEqual((reply.status, reply.body), (200, {"ok": True, "next_wake": False}))
        self.assertError(self.ask("POST", path, body, token), 409, "FENCED")
        self.assertError(self.claim(), 400, "INVALID_REQUEST")


class RouteTests(ControlCase):
    """Paths, methods and common headers."""

    def test_keys(self) -> None:
        reply = self.ask("GET", "jwks.json")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header["content-type"], "application/jwk-set+json")
        self.assertEqual(reply.header["cache-control"], "public, max-age=300")
        self.assertEqual(len(reply.body["keys"]), 1)
        self.assertEqual(self.ask("HEAD", "jwks.json").status, 200)

    def test_reserved_however_it_is_encoded(self) -> None:
        """Paths below __ds are reserved, however they are encoded (§6)."""
        for path in ("__ds/jwks.json", "%5F%5Fds/jwks.json", "_%5fds/jwks%2Ejson"):
            self.assertEqual(self.fixture.ask("GET", path).status, 200)
        for path in (
            "__ds%2Fjwks.json",
            "__ds",
            "__ds/",
            "%5f%5F%64%73%2Fx",
            "__ds%2fsubscriptions%2fs",
        ):
            for method in ("GET", "PUT", "POST", "DELETE"):
                answer = self.fixture.ask(method, path, JSON, b"[1]")
                self.assertEqual(answer.status, 404, (method, path))
                self.assertEqual(json.loads(answer.body)["error"]["code"], "NOT_FOUND")
        for path in ("__dsx", "_ds/x", "a/__ds/jwks.json", "%255F_ds"):
            self.assertEqual(self.fixture.ask("PUT", path).status, 201)

    def test_nothing_there(self) -> None:
        for path in (
            *("x", "subscriptions", "subscriptions/", "subscriptions/s/x", "jwks.json/x"),
            *("subscriptions/s/claim/x", "subscriptions/s/", "subscriptions//claim"),
        ):
            reply = self.ask("GET", path)
            self.assertIn(reply.status, (400, 404), path)

    def test_methods(self) -> None:
        for path, wrong, allow in (
            ("jwks.json", "POST", "GET, HEAD, OPTIONS"),
            ("subscriptions/s", "POST", "GET, HEAD, PUT, DELETE, OPTIONS"),
            ("subscriptions/s/streams", "GET", "POST, OPTIONS"),
            ("subscriptions/s/streams/a", "GET", "DELETE, OPTIONS"),
            ("subscriptions/s/claim", "GET", "POST, OPTIONS"),
            ("subscriptions/s/ack", "PUT", "POST, OPTIONS"),
        ):
            reply = self.ask(wrong, path, {})
            self.assertError(reply, 405, "METHOD_NOT_ALLOWED")
            self.assertEqual(reply.header["allow"], allow)
        self.assertEqual(self.fixture.ask("OPTIONS", "__ds/subscriptions/s").status, 204)

    def test_common_fields(self) -> None:
        """Errors have the common headers too."""
        for path in ("jwks.json", "subscriptions/none"):
            header = self.ask("GET", path).header
            self.assertEqual(header["x-content-type-options"], "nosniff")
            self.assertEqual(header["access-control-allow-origin"], "*")

    def test_a_bug(self) -> None:
        """An internal error is 500 without details."""

        def broken(_: object) -> None:
            raise ZeroDivisionError("secret")

        self.patch(self.fixture.streams._store, "submit", broken)
        answer = self.fixture.ask("POST", "__ds/subscriptions/s/claim", JSON, b'{"worker": "w"}')
        self.assertEqual(answer.status, 500)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class NoEndpointTests(ControlCase):
    """Server without a known endpoint."""

    settings = Settings()

    def test_webhooks_are_refused(self) -> None:
        """Webhooks are refused until an endpoint is known; Host does not count (§7.1)."""
        self.assertError(self.hook(), 400, "INVALID_REQUEST")
        self.assertEqual(self.pull("p").status, 201)
        self.fixture.streams.set_endpoint("http://127.0.0.1:1/v1/stream/", True)
        self.fixture.streams.set_endpoint("http://127.0.0.1:2/v1/stream/", True)
        made = self.hook()
        self.assertEqual(made.status, 201)
        self.assertEqual(
            made.body["webhook"]["signing"]["jwks_url"],
            "http://127.0.0.1:1/v1/stream/__ds/jwks.json",
        )

    def test_behind_a_proxy(self) -> None:
        """Behind a proxy, webhooks to loopback addresses are refused."""
        for settings in (Settings(trust_proxy=True), Settings(public_url=BASE)):
            streams = DurableStreams(settings=settings, reactor=self.fixture.clock)
            streams.set_endpoint("http://127.0.0.1:1/", True)
            self.assertFalse(streams._allow_local())
        allowed = Settings(trust_proxy=True, allow_local_webhooks=True)
        streams = DurableStreams(settings=allowed, reactor=self.fixture.clock)
        self.assertTrue(streams._allow_local())

    def test_loopback_only(self) -> None:
        """Webhooks to loopback addresses are allowed while every port is a loopback one."""
        streams = self.fixture.streams
        self.assertFalse(streams._allow_local())
        streams.set_endpoint("http://127.0.0.1:1/", True)
        self.assertTrue(streams._allow_local())
        streams.set_endpoint("http://203.0.113.1:1/", False)
        streams.set_endpoint("http://127.0.0.1:2/", True)
        self.assertFalse(streams._allow_local())
