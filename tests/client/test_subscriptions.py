"""Workers of pull-wake subscriptions and receivers of webhooks, against a server in the process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import treq
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Site

from durable_streams_tw import DurableStreams
from durable_streams_tw.client import PullWakeWorker, StreamClient, Wake, WebhookReceiver
from durable_streams_tw.client.errors import Rejected
from durable_streams_tw.http.settings import Settings
from tests.client.reactor_case import ReactorTestCase, reactor
from tests.ports import free_port


async def until(holds: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    while not holds():
        await deferLater(reactor, 0.02)


class SubscriptionCase(ReactorTestCase):
    """A server on a port of its own, and a client."""

    def setUp(self) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}/v1/stream/"
        streams = DurableStreams(settings=Settings(public_url=url, allow_local_webhooks=True))
        streams.startService()
        self.addCleanup(streams.stopService)
        listening = reactor.listenTCP(port, streams.site(), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.client = StreamClient(url)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.client.aclose()))
        self.done: list[Any] = []

    async def subscribe(self, **config: Any) -> str:
        """Create a subscription and return its URL."""
        url = f"{self.client.url}__ds/subscriptions/jobs"
        config = {"pattern": "jobs/**", **config}
        response = await treq.put(url, json=config, persistent=False)
        body = await response.content()
        self.assertEqual(response.code, 201, body)
        return url

    async def put(self, name: str, *messages: Any) -> None:
        """Create a JSON stream and append messages."""
        stream = self.client.stream(name)
        await stream.create("application/json")
        if messages:
            await stream.append_json(*messages)

    async def acknowledged(self, url: str, name: str) -> None:
        """Wait until all data of a stream are acknowledged."""
        while True:
            described = await (await treq.get(url, persistent=False)).json()
            tail = (await self.client.stream(name).head()).offset
            if (name, tail) in {(one["path"], one["acked_offset"]) for one in described["streams"]}:
                return
            await deferLater(reactor, 0.05)

    async def note(self, wake: Wake) -> None:
        """Note the messages of a wake with their streams."""
        async for pending, batch in wake.batches():
            self.done += [(pending.path, message) for message in batch.json()]


class PullWakeWorkerTests(SubscriptionCase):
    """Claims, heartbeats, acknowledgements and releases."""

    async def pool(self, **config: Any) -> str:
        await self.put("wake/pool")
        return await self.subscribe(type="pull-wake", wake_stream="wake/pool", **config)

    def worker(self, handler: Callable[[Wake], Awaitable[object]], **more: Any) -> PullWakeWorker:
        return PullWakeWorker(self.client, "jobs", "wake/pool", handler, **more)

    async def stop(self, running: Deferred[None]) -> None:
        running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        running.cancel()
        await running

    async def test_work(self) -> None:
        """A worker handles work from before its start and later work, each message once."""
        url = await self.pool()
        await self.put("jobs/a b", 1, 2)
        await self.put("jobs/c", 3)
        running = Deferred.fromCoroutine(self.worker(self.note).run())
        await until(lambda: len(self.done) == 3)
        await self.client.stream("jobs/c").append_json(4)
        await until(lambda: len(self.done) == 4)
        # A worker that is stopped before its acknowledgement repeats the work.
        await self.acknowledged(url, "jobs/c")
        await self.stop(running)
        expected = [("jobs/a b", 1), ("jobs/a b", 2), ("jobs/c", 3), ("jobs/c", 4)]
        self.assertEqual(sorted(self.done), expected)
        # Nothing is left: the wakes were acknowledged.
        await self.worker(self.note).work()
        self.assertEqual(len(self.done), 4)

    async def test_failing_handler(self) -> None:
        """The wake of a handler that fails is released and handled again."""
        await self.pool()
        await self.put("jobs/a", 1)
        failures: list[Exception] = []

        async def handle(wake: Wake) -> None:
            if not failures:
                raise KeyError("first")
            await self.note(wake)

        await self.worker(handle, on_failure=failures.append).work()
        await until(lambda: failures)
        await self.worker(handle).work()
        self.assertEqual((self.done, len(failures)), ([("jobs/a", 1)], 1))

    async def test_lease_is_renewed(self) -> None:
        """A handler may take longer than the lease; acknowledged data are not read again."""
        await self.pool(lease_ttl_ms=1000)
        await self.put("jobs/a", 1)
        await self.put("jobs/b", 2)

        async def slow(wake: Wake) -> None:
            self.done.append(wake.id)
            pending = wake.streams[0]
            await wake.ack(pending, pending.tail_offset)
            await deferLater(reactor, 3)

        working = Deferred.fromCoroutine(self.worker(slow).work())
        await until(lambda: self.done)
        await deferLater(reactor, 2)
        await self.worker(self.note).work()
        self.assertEqual(len(self.done), 1, "another worker claims nothing")
        await working
        self.assertEqual(len(self.done), 1)

    async def test_lost_lease_cancels_the_handler(self) -> None:
        """The handler is cancelled when the subscription is gone; the worker reports it."""
        url = await self.pool(lease_ttl_ms=1000)
        await self.put("jobs/a", 1)
        failures: list[Exception] = []

        async def endless(wake: Wake) -> None:
            try:
                self.done.append("begun")
                await Deferred()
            except CancelledError:
                self.done.append("cancelled")
                raise

        working = Deferred.fromCoroutine(self.worker(endless, on_failure=failures.append).work())
        working.addErrback(lambda failure: failure.trap(Rejected) and None)
        await until(lambda: self.done)
        response = await treq.delete(url, persistent=False)
        await response.content()
        await working
        self.assertEqual(self.done, ["begun", "cancelled"])

    async def test_cancelled_worker_releases(self) -> None:
        """A worker that is stopped gives its wake back at once."""
        await self.pool(lease_ttl_ms=60_000)
        await self.put("jobs/a", 1)

        async def endless(wake: Wake) -> None:
            self.done.append("begun")
            await Deferred()

        running = Deferred.fromCoroutine(self.worker(endless).run())
        await until(lambda: self.done)
        await self.stop(running)
        self.done.clear()
        await self.worker(self.note).work()
        self.assertEqual(self.done, [("jobs/a", 1)])


class WebhookTests(SubscriptionCase):
    """Webhooks received with twisted.web and Klein."""

    def listen(self, resource: Resource) -> int:
        port = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def mount(self, receiver: WebhookReceiver) -> int:
        root = Resource()
        root.putChild(b"hook", receiver.resource())
        return self.listen(root)

    async def test_resource(self) -> None:
        """A webhook on twisted.web runs the handler and acknowledges the data."""
        port = self.mount(WebhookReceiver(self.client, self.note))
        await self.check(port)

    async def test_klein(self) -> None:
        """A webhook on a Klein route runs the handler and acknowledges the data."""
        receiver = WebhookReceiver(self.client, self.note)
        app = Klein()

        @app.route("/hook", methods=["POST"])
        async def hook(request: Any) -> bytes:
            return await receiver.respond(request)

        await self.check(self.listen(app.resource()))

    async def check(self, port: int) -> None:
        url = await self.subscribe(type="webhook", webhook={"url": f"http://127.0.0.1:{port}/hook"})
        await self.put("jobs/a", 1)
        await until(lambda: self.done)
        await self.client.stream("jobs/a").append_json(2)
        await until(lambda: len(self.done) == 2)
        self.assertEqual(self.done, [("jobs/a", 1), ("jobs/a", 2)])
        await self.settle(url)

    async def settle(self, url: str) -> None:
        """Wait until all data are acknowledged, then delete the subscription."""
        await self.acknowledged(url, "jobs/a")
        await (await treq.delete(url, persistent=False)).content()

    async def test_slow_and_failing_handlers(self) -> None:
        """A handler that fails is called again; a slow one goes on after the response."""
        calls: list[str] = []

        async def handle(wake: Wake) -> None:
            calls.append(wake.id)
            if len(calls) == 1:
                raise KeyError("first")
            await deferLater(reactor, 2.5)
            await self.note(wake)

        port = self.mount(WebhookReceiver(self.client, handle, response_time=0.1, lease=1.0))
        url = await self.subscribe(
            type="webhook",
            webhook={"url": f"http://127.0.0.1:{port}/hook"},
            lease_ttl_ms=1000,
        )
        await self.put("jobs/a", 1)
        await until(lambda: self.done)
        await self.settle(url)
        self.assertEqual((self.done, len(calls)), ([("jobs/a", 1)], 2))
        self.flushLoggedErrors(KeyError)

    async def test_unverified(self) -> None:
        """Requests without a valid signature get 401 and reach no handler."""
        port = self.mount(WebhookReceiver(self.client, self.note))
        body = json.dumps({"wake_id": "w"}).encode()
        jwks = await (await treq.get(f"{self.client.url}__ds/jwks.json", persistent=False)).json()
        kid = jwks["keys"][0]["kid"]
        now = int(reactor.seconds())
        for signature in (
            None,
            "",
            f"t={now},kid=other,ed25519=AAAA",
            f"t={now},kid={kid},ed25519=AAAA",
            f"t={now},kid={kid},ed25519=!",
            f"t={now - 400},kid={kid},ed25519=AAAA",
            f"t=x,kid={kid}",
        ):
            headers: Any = {} if signature is None else {"Webhook-Signature": signature}
            response = await treq.post(
                f"http://127.0.0.1:{port}/hook", body, headers=headers, persistent=False
            )
            await response.content()
            self.assertEqual((signature, response.code), (signature, 401))
        self.assertEqual(self.done, [])
