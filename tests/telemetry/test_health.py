"""Probes, over requests; and readiness beside a store that fails, hangs or is gone."""

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
    """What probes are told."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.addCleanup(self.fixture.streams.stopService)
        observed = self.fixture.streams.server_stats()
        tree = OperatorTree()
        tree.putChild(b"live", Live())
        tree.putChild(b"ready", Ready(observed))
        self.site = self.fixture.streams.site(b"v1/stream/", tree)
        self.looks: list[Deferred[Any]] = []
        self.answer: Any = None
        self.patch(observed, "obstacle", self.obstacle)

    def obstacle(self) -> Deferred[Any]:
        """Stands in for the store's."""
        look: Deferred[Any] = self.answer() if self.answer else Deferred()
        self.looks.append(look)
        return look

    def begin(self, target: str = "/-/ready", method: str = "GET") -> Client:
        """A probe that has asked."""
        client = Client(self.site)
        self.addCleanup(client.leave)
        client.request(method, target)
        return client

    def told(self, client: Client) -> tuple[int, dict[str, str]]:
        """What it was answered."""
        (answer,) = client.answers()
        return self.said(answer)

    def said(self, answer: Answer) -> tuple[int, dict[str, str]]:
        """Status and content."""
        self.assertEqual(answer.header["content-type"], "application/json")
        self.assertEqual(answer.header["cache-control"], "no-store")
        return answer.status, json.loads(answer.body)

    def test_live(self) -> None:
        """Whatever the store does."""
        self.assertEqual(self.told(self.begin("/-/live")), (200, {"status": "live"}))
        self.assertEqual(self.looks, [])

    def test_methods_and_names(self) -> None:
        """Probes look, and are nothing else."""
        for target in ("/-/live", "/-/ready"):
            self.assertEqual(self.begin(target, "POST").answers()[0].status, 405)
            self.assertEqual(self.begin(target + "/x").answers()[0].status, 404)
        head = self.begin("/-/live", "HEAD").answers("HEAD")[0]
        self.assertEqual((head.status, head.body), (200, b""))

    def test_ready(self) -> None:
        """Once the store has said so."""
        client = self.begin()
        self.assertEqual(client.answers(), [])
        self.looks[0].callback(None)
        self.assertEqual(self.told(client), (200, {"status": "ready"}))

    def test_obstacle(self) -> None:
        """What stands in the way is told."""
        self.answer = lambda: succeed("the disk is full")
        told = self.told(self.begin())
        self.assertEqual(told, (503, {"status": "not ready", "why": "the disk is full"}))

    def test_shared(self) -> None:
        """Many probes cost one look, and for a moment later ones none."""
        clients = [self.begin() for _ in range(5)]
        self.looks[0].callback(None)
        clients.append(self.begin())
        self.assertEqual([self.told(client)[0] for client in clients], [200] * 6)
        self.assertEqual(len(self.looks), 1)
        self.fixture.clock.advance(READY_FOR)
        self.begin()
        self.assertEqual(len(self.looks), 2)

    def test_obstacle_is_gone(self) -> None:
        """It is told for a shorter time than that there is none."""
        first = self.begin()
        self.looks[0].callback("the disk is full")
        self.assertEqual((self.told(first)[0], self.told(self.begin())[0]), (503, 503))
        self.fixture.clock.advance(NOT_READY_FOR)
        second = self.begin()
        self.looks[1].callback(None)
        self.assertEqual((self.told(second)[0], self.told(self.begin())[0]), (200, 200))
        self.assertEqual(len(self.looks), 2)

    def test_hangs(self) -> None:
        """A disk that does not answer is not ready, costs one look, and is ready afterwards."""
        first = self.begin()
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        second = self.begin()
        self.assertEqual(first.answers(), [])
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        status, said = self.told(first)
        self.assertEqual(status, 503)
        self.assertIn("dead", said["why"])
        self.assertEqual(second.answers(), [])
        self.fixture.clock.advance(READY_TIMEOUT / 2)
        self.assertEqual(self.told(second)[0], 503)
        third = self.begin()
        self.assertEqual(len(self.looks), 1)
        self.looks[0].callback(None)
        self.assertEqual(self.told(third)[0], 200)

    def test_gone(self) -> None:
        """A probe that has left is answered nothing, and nobody else is harmed."""
        leaver, stays = self.begin(), self.begin()
        leaver.leave()
        self.looks[0].callback(None)
        self.assertEqual(leaver.transport.value(), b"")
        self.assertEqual(self.told(stays)[0], 200)

    def test_bug(self) -> None:
        """A look that fails is an obstacle, and in the log."""
        self.answer = lambda: fail(ZeroDivisionError())
        self.assertEqual(self.told(self.begin())[0], 503)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class StoreProbeTests(SynchronousTestCase):
    """With the store's own answer."""

    def test_memory(self) -> None:
        """Streams in memory are always ready."""
        fixture = ServerFixture()
        tree = OperatorTree()
        tree.putChild(b"ready", Ready(fixture.streams.server_stats()))
        client = Client(fixture.streams.site(b"v1/stream/", tree))
        self.assertEqual(client.ask("GET", "/-/ready").status, 200)
        client.leave()
