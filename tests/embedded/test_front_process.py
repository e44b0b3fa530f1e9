"""Front processes and the owner of their store, with HTTP clients, in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.storage.limits import RECONNECT_LAST
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.storage.remote.store import RemoteStore
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.limits import KEY_REFRESH
from tests.http.server_fixture import MORNING, ROOT, Answer, Client, ServerFixture
from tests.storage.command_builders import append
from tests.storage.remote.wire import Wire
from tests.subscriptions.test_shared_keyring import Secret

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
SUBSCRIPTION = f"{ROOT}__ds/subscriptions/s"


class FrontProcess(ServerFixture):
    """Server of a front process."""

    def __init__(self, owner: Owner) -> None:
        self.wire = Wire(owner.server, owner.clock)
        super().__init__(store=RemoteStore(owner.clock, self.wire))


class Owner:
    """Process that owns the store. The store itself outlives `FrontProcessTests.kill`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.memory = MemoryStore(lambda: round(self.clock.seconds() * 1000))
        self.keys = self.memory.keyring = Secret()
        self.streams = DurableStreams(store=self.memory, reactor=self.clock)
        self.server = self.streams.store_server()
        self.streams.startService()


class FrontProcessTests(SynchronousTestCase):
    """Two front processes, `a` and `b`."""

    def setUp(self) -> None:
        self.owner = Owner()
        self.a, self.b = self.fronts = [FrontProcess(self.owner) for _ in range(2)]
        self.settle()

    def settle(self) -> None:
        """Run all processes until nothing is on its way."""
        moved = True
        while moved:
            turns = [front.wire.turn() for front in self.fronts]
            moved = any(turns)
            for front in self.fronts:
                front.turn()

    def ask(
        self,
        front: FrontProcess,
        method: str,
        target: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request to a front process, and return its response."""
        client = front.connect()
        client.request(method, target, header, body)
        self.settle()
        (answer,) = client.answers(method)
        client.leave()
        return answer

    def kill(self) -> None:
        """Kill the owner."""
        for front in self.fronts:
            front.wire.kill_server()

    def restart(self) -> None:
        """Start the owner again."""
        for front in self.fronts:
            front.wire.server = self.owner.server
        self.owner.clock.advance(RECONNECT_LAST)
        self.settle()

    def follow(self, front: FrontProcess, path: str) -> Client:
        """Open an SSE connection at the tail of a stream."""
        client = front.connect()
        client.request("GET", f"{ROOT}{path}?offset=now&live=sse")
        self.settle()
        client.transport.clear()
        return client

    def test_streams(self) -> None:
        """Data that one front process writes is read by the other at once."""
        target = f"{ROOT}a"
        self.assertEqual(self.ask(self.a, "PUT", target, TEXT, b"one").status, 201)
        self.assertEqual(self.ask(self.b, "POST", target, TEXT, b"two").status, 204)
        self.assertEqual(self.ask(self.a, "GET", target).body, b"onetwo")
        self.assertEqual(self.ask(self.b, "HEAD", target).status, 200)
        self.assertEqual(self.ask(self.b, "DELETE", target).status, 204)
        self.assertEqual(self.ask(self.a, "GET", target).status, 404)

    def test_added_webhook_key(self) -> None:
        """A webhook key that is added while the owner runs is published by front processes."""
        Keyring(None, self.owner.clock.seconds, self.owner.keys).open(rotate=True)
        self.owner.clock.advance(KEY_REFRESH)
        self.settle()
        for front in self.fronts:
            keys = json.loads(self.ask(front, "GET", f"{ROOT}__ds/jwks.json").body)["keys"]
            self.assertEqual(len(keys), 2)

    def test_events(self) -> None:
        """An append through one front process reaches the subscribers of both."""
        self.ask(self.a, "PUT", f"{ROOT}a", TEXT)
        followers = [self.follow(front, "a") for front in self.fronts for _ in range(3)]
        self.ask(self.a, "POST", f"{ROOT}a", TEXT, b"news")
        for follower in followers:
            self.assertIn(b"data:news", follower.transport.value().replace(b": ", b":"))

    def test_outage(self) -> None:
        """Live connections outlive the owner; requests are refused until it is back."""
        target = f"{ROOT}a"
        self.ask(self.a, "PUT", target, TEXT)
        events = self.follow(self.a, "a")
        poll = self.b.connect()
        poll.request("GET", f"{target}?offset=now&live=long-poll")
        self.settle()
        writer = self.a.connect()
        writer.request("POST", target, TEXT, b"lost")
        self.kill()
        (under_way,) = writer.answers("POST")
        self.assertEqual(under_way.status, 503)
        self.assertIn(b"outcome-unknown", under_way.body)
        for method, body in (("GET", None), ("POST", b"x"), ("HEAD", None), ("DELETE", None)):
            answer = self.ask(self.a, method, target, TEXT, body)
            self.assertEqual((answer.status, answer.header["retry-after"]), (503, "1"), method)
        self.successResultOf(
            self.owner.memory.submit(append("a", b"kept", content_type="text/plain"))
        )
        self.settle()
        self.assertEqual((events.transport.value(), poll.transport.value()), (b"", b""))
        self.restart()
        self.assertIn(b"kept", events.transport.value())
        (polled,) = poll.answers("GET")
        self.assertEqual((polled.status, polled.body), (200, b"kept"))
        self.ask(self.b, "POST", target, TEXT, b"later")
        self.assertIn(b"later", events.transport.value())

    def test_subscriptions(self) -> None:
        """Every front process serves subscriptions, and accepts the tokens of the others."""
        body = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake"}
        made = self.ask(self.a, "PUT", SUBSCRIPTION, JSON, json.dumps(body).encode())
        self.assertEqual(made.status, 201, made.body)
        self.ask(self.b, "PUT", f"{ROOT}wake", JSON)
        self.ask(self.b, "PUT", f"{ROOT}events/a", TEXT)
        self.ask(self.b, "POST", f"{ROOT}events/a", TEXT, b"work")
        self.owner.clock.advance(1)
        self.settle()
        described = self.ask(self.b, "GET", SUBSCRIPTION)
        self.assertEqual(json.loads(described.body)["streams"][0]["path"], "events/a")
        claim = json.dumps({"worker": "w"}).encode()
        claimed: Any = json.loads(
            self.ask(self.a, "POST", f"{SUBSCRIPTION}/claim", JSON, claim).body
        )
        stream = claimed["streams"][0]
        settle = {
            "wake_id": claimed["wake_id"],
            "generation": claimed["generation"],
            "acks": [{"stream": stream["path"], "offset": stream["tail_offset"]}],
            "done": True,
        }
        header = {**JSON, "Authorization": f"Bearer {claimed['token']}"}
        acked = self.ask(self.b, "POST", f"{SUBSCRIPTION}/ack", header, json.dumps(settle).encode())
        self.assertEqual((acked.status, json.loads(acked.body)["ok"]), (200, True), acked.body)

    def test_keys(self) -> None:
        """All front processes publish the signing keys of the owner."""
        keys = [self.ask(front, "GET", f"{ROOT}__ds/jwks.json").body for front in self.fronts]
        self.assertEqual(keys[0], keys[1])
        self.assertEqual(keys[0], self.owner.streams._subscriptions.keyring.jwks())

    def test_keys_before_the_owner_is_there(self) -> None:
        """Without the owner's keys, tokens are not checked and no keys are published."""
        self.kill()
        late = FrontProcess(self.owner)
        late.wire.kill_server()
        header = {"Authorization": "Bearer a.b.c", **JSON}
        for method, path in (("GET", "jwks.json"), ("POST", "subscriptions/s/ack")):
            client = late.connect()
            client.request(
                method, f"{ROOT}__ds/{path}", header, b"{}" if method == "POST" else None
            )
            (answer,) = client.answers(method)
            self.assertEqual((answer.status, answer.header["retry-after"]), (503, "1"))

    def test_stop(self) -> None:
        """A front process and the owner stop, each on its own."""
        stopped = self.a.streams.stopService()
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.ask(self.b, "PUT", f"{ROOT}a", TEXT).status, 201)
        self.successResultOf(self.owner.streams.stopService())
