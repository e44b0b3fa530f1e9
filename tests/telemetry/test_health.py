"""Tests of `durable_streams_tw.telemetry.health`."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.telemetry.health import (
    NOT_READY_FOR,
    READY_FOR,
    READY_TIMEOUT,
    Live,
    Ready,
)
from tests.http.server_fixture import Answer, Client, ServerFixture


class ProbeTests(SynchronousTestCase):
    """Responses to probes."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.addCleanup(self.fixture.streams.stopService)
        observed = self.fixture.streams.server_stats()
        tree = OperatorTree()
        tree.putChild(b"live", Live())
        tree.putChild(b"ready", Ready(observed))
        self.site = self.fixture.streams.site(b"v1/stream/", tree)
        self.checks: list[Deferred[Any]] = []
        self.answer: Any = None
        self.patch(observed.store, "check_writable", self.obstacle)

    def obstacle(self) -> Deferred[Any]:
        """Replacement of the store's check."""
        look: Deferred[Any] = self.answer() if self.answer else Deferred()
        self.checks.append(look)
        return look

    def begin(self, target: str = "/-/ready", method: str = "GET") -> Client:
        """Send a probe."""
        client = Client(self.site)
        self.addCleanup(client.leave)
        client.request(method, target)
        return client

    def response_of(self, client: Client) -> tuple[int, dict[str, str]]:
        """Return status and content of the response to a probe."""
        (answer,) = client.answers()
        return self.parse(answer)

    def parse(self, answer: Answer) -> tuple[int, dict[str, str]]:
        """Return status and content of a response."""
        self.assertEqual(answer.header["content-type"], "application/json")
        self.assertEqual(answer.header["cache-control"], "no-store")
        return answer.status, json.loads(answer.body)

    def test_live(self) -> None:
        """/-/live succeeds whatever the store does."""
        self.assertEqual(self.response_of(self.begin("/-/live")), (200, {"status": "live"}))
        self.assertEqual(self.checks, [])

    def test_methods_and_names(self) -> None:
        """Probes accept GET and HEAD only."""
        for target in ("/-/live", "/-/ready"):
            self.assertEqual(self.begin(target, "POST").answers()[0].status, 405)
            self.assertEqual(self.begin(target + "/x").answers()[0].status, 404)
        head = self.begin("/-/live", "HEAD").answers("HEAD")[0]
        self.assertEqual((head.status, head.body), (200, b""))

    def test_ready(self) -> None:
        """/-/ready succeeds once the store is writable."""
        client = self.begin()
        self.assertEqual(client.answers(), [])
        self.checks[0].callback(None)
        self.assertEqual(self.response_of(client), (200, {"status": "ready"}))

    def test_obstacle(self) -> None:
        """An obstacle is in the response."""
        self.answer = lambda: succeed("the disk is full")
        response_of = self.response_of(self.begin())
        self.assertEqual(response_of, (503, {"status": "not ready", "why": "the disk is full"}))

    def test_shared(self) -> None:
        """Concurrent probes share one check, whose success is cached briefly."""
        clients = [self.begin() for _ in range(5)]
        self.checks[0].callback(None)
        clients.append(self.begin())
        self.assertEqual([self.response_of(client)[0] for client in clients], [200] * 6)
        self.assertEqual(len(self.checks), 1)
        self.fixture.clock.advance(READY_FOR)
        self.begin()
        self.assertEqual(len(self.checks), 2)

    def test_obstacle_is_cached_briefly(self) -> None:
        """An obstacle is cached for a shorter time than a success."""
        first = self.begin()
        self.checks[0].callback("the disk is full")
        self.assertEqual(
            (self.response_of(first)[0], self.response_of(self.begin())[0]), (503, 503)
        )
        self.fixture.clock.advance(NOT_READY_FOR)
        second = self.begin()
        self.checks[1].callback(None)
        self.assertEqual(
            (self.response_of(second)[0], self.response_of(self.begin())[0]), (200, 200)
        )
        self.assertEqual(len(self.checks), 2)

    def test_hangs(self) -> None:
        """A check that hangs is reported as not ready, is not repeated meanwhile, and recovers."""
        first = self.begin()
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        second = self.begin()
        self.assertEqual(first.answers(), [])
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        status, parse = self.response_of(first)
        self.assertEqual(status, 503)
        self.assertIn("dead", parse["why"])
        self.assertEqual(second.answers(), [])
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        self.assertEqual(self.response_of(second)[0], 503)
        third = self.begin()
        self.assertEqual(len(self.checks), 1)
        self.checks[0].callback(None)
        self.assertEqual(self.response_of(third)[0], 200)

    def test_disconnect(self) -> None:
        """A probe that disconnects does not affect others."""
        leaver, stays = self.begin(), self.begin()
        leaver.leave()
        self.checks[0].callback(None)
        self.assertEqual(leaver.transport.value(), b"")
        self.assertEqual(self.response_of(stays)[0], 200)

    def test_exception(self) -> None:
        """A check that raises is logged and reported as an obstacle."""
        self.answer = lambda: fail(ZeroDivisionError())
        self.assertEqual(self.response_of(self.begin())[0], 503)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class StoreProbeTests(SynchronousTestCase):
    """Probes with a real store."""

    def test_memory(self) -> None:
        """The memory store is always ready."""
        fixture = ServerFixture()
        tree = OperatorTree()
        tree.putChild(b"ready", Ready(fixture.streams.server_stats()))
        client = Client(fixture.streams.site(b"v1/stream/", tree))
        self.assertEqual(client.ask("GET", "/-/ready").status, 200)
        client.leave()
