"""Site with operator resources over a store in memory, and a clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.http.server_fixture import MORNING, ROOT, Answer, Client, at_once


class OperatorCase(SynchronousTestCase):
    """Requests to the resources of the console."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(MORNING)
        self.store = self.make_store()
        self.streams = self.make_streams()
        self.streams.startService()
        self.addCleanup(self.streams.stopService)
        tree = OperatorTree()
        for name, resource in self.resources().items():
            tree.putChild(name, resource)
        self.site = self.streams.site(operators=tree)

    def make_store(self) -> MemoryStore:
        """Return the store."""
        return MemoryStore(lambda: int(self.clock.seconds() * 1000))

    def make_streams(self) -> DurableStreams:
        """Return the streams, not started."""
        return DurableStreams(reactor=self.clock, in_thread=at_once, store=self.store)

    def resources(self) -> dict[bytes, IResource]:
        """Return the children of the operator tree."""
        return self.streams.listing_resources()

    def ask(self, method: str, target: str, body: bytes | None = None, **header: str) -> Answer:
        """Send one request on a new connection."""
        client = Client(self.site)
        named = {name.replace("_", "-"): value for name, value in header.items()}
        answer = client.ask(method, target, named, body)
        client.leave()
        return answer

    def put(self, name: str, content_type: str = "text/plain", **header: str) -> None:
        """Create a stream."""
        header = {"Content_Type": content_type, **header}
        self.assertEqual(self.ask("PUT", ROOT + name, b"", **header).status, 201)

    def append(self, name: str, body: bytes, content_type: str = "text/plain") -> None:
        """Append to a stream."""
        answer = self.ask("POST", ROOT + name, body, Content_Type=content_type)
        self.assertEqual(answer.status, 204)

    def shown(self, target: str) -> dict[str, Any]:
        """Return the JSON object at a target."""
        return parsed(self.ask("GET", target))


def parsed(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of a response."""
    assert answer.status == 200, answer
    assert answer.header["content-type"] == "application/json"
    found: dict[str, Any] = json.loads(answer.body)
    return found
