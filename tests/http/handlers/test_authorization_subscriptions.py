"""Tests of `durable_streams_tw.http.handlers.authorization` for subscriptions."""

from __future__ import annotations

import json
from typing import Any

from tests.http.authorization_case import AuthorizationCase, both_servers
from tests.http.server_fixture import Answer

SUBSCRIPTIONS = "__ds/subscriptions/"


class Subscriptions(AuthorizationCase):
    """Creation and use of subscriptions."""

    def subscribe(self, token: str | None, name: str = "s", **config: Any) -> Answer:
        """PUT a pull-wake subscription."""
        body = {"type": "pull-wake", "wake_stream": "wake/a", **config}
        return self.ask("PUT", SUBSCRIPTIONS + name, token, json.dumps(body).encode())

    def test_without(self) -> None:
        """A token is required, and the error has the form of control resources."""
        answer = self.subscribe(None, pattern="jobs/*")
        self.assertEqual(answer.status, 401)
        self.assertEqual(json.loads(answer.body)["error"]["code"], "UNAUTHORIZED")
        for method, path in (
            ("GET", "s"),
            ("DELETE", "s"),
            ("POST", "s/claim"),
            ("POST", "s/streams"),
            ("DELETE", "s/streams/a"),
            ("GET", "nowhere/at/all"),
        ):
            self.assertEqual(self.status(method, SUBSCRIPTIONS + path), 401, path)
        self.assertEqual(self.status("GET", "__ds/"), 401)
        self.assertEqual(self.status("GET", "%5F%5Fds/subscriptions/s"), 401)

    def test_keys_are_public(self) -> None:
        """The keys of webhooks need no token."""
        self.assertEqual(self.status("GET", "__ds/jwks.json"), 200)
        self.assertEqual(self.status("HEAD", "__ds/jwks.json"), 200)
        self.assertEqual(self.status("DELETE", "__ds/jwks.json"), 401)

    def test_patterns(self) -> None:
        """A glob must be covered by one grant."""
        self.give("t", ("jobs", "read subscribe"), ("below/", "read subscribe"), ("wake", "append"))
        for number, (pattern, allowed) in enumerate(
            (
                ("jobs/*", True),
                ("jobs/**", True),
                ("jobs/*/x", True),
                ("jobs", True),
                ("below/*", True),
                ("below/*/**", True),
                ("below/**", False),
                ("below", False),
                ("**", False),
                ("*", False),
                ("*/jobs", False),
                ("**/jobs", False),
                ("jobs2/*", False),
                ("job/*", False),
                ("*/*", False),
                ("%2A/x", False),
                ("secret/*", False),
            )
        ):
            status = self.subscribe("t", f"s{number}", pattern=pattern).status
            self.assertEqual(status, 201 if allowed else 403, pattern)

    def test_escapes_in_patterns(self) -> None:
        """Malformed globs are refused as such."""
        self.give("t", ("jobs", "read subscribe"), ("wake", "append"))
        for pattern in ("jobs/../secret/*", "jobs//*", "jobs/x*", "jobs/./**"):
            self.assertEqual(self.subscribe("t", pattern=pattern).status, 400, pattern)

    def test_streams(self) -> None:
        """Explicit streams must be granted."""
        self.give("t", ("jobs", "read subscribe"), ("wake", "append"))
        self.assertEqual(self.subscribe("t", streams=["jobs/1", "secret"]).status, 403)
        self.assertEqual(self.subscribe("t", streams=["jobs2"]).status, 403)
        self.assertEqual(self.subscribe("t", pattern="jobs/*", streams=["secret"]).status, 403)
        self.assertEqual(self.subscribe("t", streams=["jobs/1", "/jobs/2/"]).status, 201)

    def test_verbs(self) -> None:
        """Needs read and subscribe on the streams, and append on the wake stream."""
        for name, grants in (
            ("no-read", (("jobs", "subscribe"), ("wake", "append"))),
            ("no-subscribe", (("jobs", "read append create delete"), ("wake", "append subscribe"))),
            ("no-append", (("jobs", "read subscribe"), ("wake", "read subscribe create"))),
            ("elsewhere", (("jobs", "read subscribe"), ("wake2", "append"))),
        ):
            self.give(name, *grants)
            self.assertEqual(self.subscribe(name, pattern="jobs/*").status, 403, name)
        self.assertEqual(self.status("GET", SUBSCRIPTIONS + "s", "root"), 404)

    def test_webhooks(self) -> None:
        """Webhook subscriptions need read and subscribe on the streams."""
        self.streams.set_endpoint("http://127.0.0.1:1/v1/stream/", loopback=True)
        self.give("t", ("jobs", "read subscribe"))
        hook = {"url": "http://localhost:9/"}
        secret = self.subscribe("t", type="webhook", webhook=hook, pattern="secret/*")
        self.assertEqual(secret.status, 403)

    def test_others(self) -> None:
        """A subscription of other clients does not appear to exist."""
        self.put("wake/a")
        self.put("secret/1", b"x")
        self.assertEqual(self.subscribe("root", "theirs", pattern="secret/*").status, 201)
        self.successResultOf(self.streams.append("secret/1", b"x"))
        self.give("t", ("jobs", "read subscribe"), ("wake", "append"))
        claim = json.dumps({"worker": "w"}).encode()
        streams = json.dumps({"streams": ["jobs/1"]}).encode()
        for method, path, body in (
            ("GET", "theirs", None),
            ("DELETE", "theirs", None),
            ("POST", "theirs/claim", claim),
            ("POST", "theirs/streams", streams),
            ("DELETE", "theirs/streams/jobs/1", None),
            ("DELETE", "th%65irs", None),
        ):
            theirs = self.ask(method, SUBSCRIPTIONS + path, "t", body)
            other = path.replace("theirs", "nobodys").replace("th%65irs", "nobodys")
            nobodys = self.ask(method, SUBSCRIPTIONS + other, "t", body)
            self.assertEqual((theirs.status, nobodys.status), (404, 404), path)
            self.assertEqual(theirs.body, nobodys.body)
            self.assertNotIn(b"secret", theirs.body)
        self.assertEqual(self.subscribe("t", "theirs", pattern="jobs/*").status, 409)
        self.assertEqual(self.status("GET", SUBSCRIPTIONS + "theirs", "root"), 200)

    def test_streams_that_were_added(self) -> None:
        """A client loses access once others have linked streams that it may not read."""
        self.give("t", ("jobs", "read subscribe"), ("wake", "append"))
        self.assertEqual(self.subscribe("t", pattern="jobs/*").status, 201)
        self.assertEqual(self.status("GET", SUBSCRIPTIONS + "s", "t"), 200)
        body = json.dumps({"streams": ["secret/1"]}).encode()
        self.assertEqual(self.status("POST", SUBSCRIPTIONS + "s/streams", "t", body), 403)
        self.assertEqual(self.status("POST", SUBSCRIPTIONS + "s/streams", "root", body), 204)
        self.assertEqual(self.status("GET", SUBSCRIPTIONS + "s", "t"), 404)
        again = self.subscribe("t", pattern="jobs/*")
        self.assertEqual(again.status, 409)
        self.assertNotIn(b"secret", again.body)

    def test_workers(self) -> None:
        """A worker needs the grant read to claim; later its wake token is enough."""
        self.put("wake/a")
        self.put("jobs/1")
        self.assertEqual(self.subscribe("root", pattern="jobs/*").status, 201)
        self.successResultOf(self.streams.append("jobs/1", b"x"))
        for _ in range(5):
            self.clock.advance(0)
        self.give("worker", ("jobs", "read subscribe"))
        claim = json.dumps({"worker": "w"}).encode()
        claimed = self.ask("POST", SUBSCRIPTIONS + "s/claim", "worker", claim)
        self.assertEqual(claimed.status, 200, claimed)
        told = json.loads(claimed.body)
        ack = {"wake_id": told["wake_id"], "generation": told["generation"], "done": True}
        body = json.dumps(ack).encode()
        for action in ("ack", "release", "callback"):
            # Neither anonymous clients nor those with all grants may do this.
            for token in (None, "root", "worker", "a.b.c"):
                answer = self.ask("POST", SUBSCRIPTIONS + f"s/{action}", token, body)
                nowhere = self.ask("POST", SUBSCRIPTIONS + f"none/{action}", token, body)
                self.assertEqual((answer.status, nowhere.status), (401, 401))
                self.assertEqual(answer.body, nowhere.body)
        self.assertEqual(self.status("POST", SUBSCRIPTIONS + "s/ack", told["token"], body), 200)

    def test_a_wakes_token_is_no_other(self) -> None:
        """A wake token opens no stream and no other subscription."""
        self.put("wake/a")
        self.put("jobs/1")
        self.subscribe("root", pattern="jobs/*")
        self.successResultOf(self.streams.append("jobs/1", b"x"))
        for _ in range(5):
            self.clock.advance(0)
        claim = json.dumps({"worker": "w"}).encode()
        claimed = self.ask("POST", SUBSCRIPTIONS + "s/claim", "root", claim)
        token = json.loads(claimed.body)["token"]
        self.assertEqual(self.status("GET", "jobs/1", token), 401)
        self.assertEqual(self.status("GET", SUBSCRIPTIONS + "s", token), 401)

    def test_a_store_that_does_not_answer(self) -> None:
        """A failing look-up refuses the request."""
        from twisted.internet.defer import fail

        self.assertEqual(self.subscribe("root", pattern="jobs/*").status, 201)
        self.patch(self.streams._subscriptions.store, "query", lambda _: fail(ZeroDivisionError()))
        self.assertEqual(self.status("DELETE", SUBSCRIPTIONS + "s", "root"), 500)
        self.flushLoggedErrors(ZeroDivisionError)


FastSubscriptions, WebSubscriptions = both_servers(Subscriptions)
del Subscriptions, AuthorizationCase
