"""Tests of offsets of another incarnation, over HTTP and in the process."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw import StreamError
from durable_streams_tw.protocol.errors import Problem
from tests.http.server_fixture import ROOT, Client, ServerFixture
from tests.sse_parser import parse
from tests.tokens import position_of

TEXT = {"Content-Type": "text/plain"}
GONE = "urn:durable-streams:problem:offset-gone"


class OffsetTests(SynchronousTestCase):
    """Offsets of a stream that was deleted and created again."""

    def servers(self) -> list[Client]:
        """Return clients of twisted.web and of the HTTP/1.1 engine."""
        factory: Any = ServerFixture().streams.http_factory()
        return [ServerFixture().connect(), Client(factory)]

    def recreated(self, client: Client) -> str:
        """Create a stream, replace it by a longer one, and return the tail of the first."""
        client.ask("PUT", f"{ROOT}a", TEXT, b"the first")
        saved = client.ask("HEAD", f"{ROOT}a").header["stream-next-offset"]
        client.ask("DELETE", f"{ROOT}a")
        client.ask("PUT", f"{ROOT}a", TEXT, b"the second stream")
        self.assertEqual(position_of(saved), 9)
        return saved

    def test_reads(self) -> None:
        """Each kind of read gets 410, and a read from the start succeeds."""
        for client in self.servers():
            saved = self.recreated(client)
            for mode in ("", "&live=long-poll", "&live=sse"):
                answer = client.ask("GET", f"{ROOT}a?offset={saved}{mode}")
                self.assertEqual(answer.status, 410)
                self.assertEqual(json.loads(answer.body)["type"], GONE)
            self.assertEqual(client.ask("GET", f"{ROOT}a?offset=-1").body, b"the second stream")

    def test_forks(self) -> None:
        """The offset of a fork must belong to the current source."""
        for client in self.servers():
            saved = self.recreated(client)
            header = {"Stream-Forked-From": f"{ROOT}a", "Stream-Fork-Offset": saved}
            answer = client.ask("PUT", f"{ROOT}b", header, b"")
            self.assertEqual((answer.status, json.loads(answer.body)["type"]), (410, GONE))

    def test_event_streams(self) -> None:
        """Control events have the same offsets as headers."""
        fixture = ServerFixture()
        fixture.put("a", body=b"abc")
        client = fixture.connect()
        client.send(f"GET {ROOT}a?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        fixture.turn()
        (answer,) = client.answers()
        told = json.loads(parse(answer.body)[-1].data)["streamNextOffset"]
        self.assertEqual(told, fixture.ask("HEAD", "a").header["stream-next-offset"])

    def test_in_the_process(self) -> None:
        """Calls in the process refuse them too."""
        streams = ServerFixture().streams
        first = self.successResultOf(streams.create("a", "text/plain", b"the first"))
        self.successResultOf(streams.delete("a"))
        self.successResultOf(streams.create("a", "text/plain", b"the second stream"))
        failure = self.failureResultOf(streams.read("a", first.offset), StreamError)
        self.assertEqual(failure.value.problem, Problem.OFFSET_GONE)
