"""Offsets of another incarnation, through both doors and inside the process."""

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
    """A reader that comes back to a stream that was deleted and created again."""

    def doors(self) -> list[Client]:
        """Return clients of Klein and of the HTTP/1.1 engine."""
        door: Any = ServerFixture().streams.http_factory()
        return [ServerFixture().connect(), Client(door)]

    def recreated(self, client: Client) -> str:
        """Make a stream and replace it by a longer one. Return the end of the first."""
        client.ask("PUT", f"{ROOT}a", TEXT, b"the first")
        saved = client.ask("HEAD", f"{ROOT}a").header["stream-next-offset"]
        client.ask("DELETE", f"{ROOT}a")
        client.ask("PUT", f"{ROOT}a", TEXT, b"the second stream")
        self.assertEqual(position_of(saved), 9)
        return saved

    def test_reads(self) -> None:
        """Every kind of read is 410, and from the start all is there."""
        for client in self.doors():
            saved = self.recreated(client)
            for mode in ("", "&live=long-poll", "&live=sse"):
                answer = client.ask("GET", f"{ROOT}a?offset={saved}{mode}")
                self.assertEqual(answer.status, 410)
                self.assertEqual(json.loads(answer.body)["type"], GONE)
            self.assertEqual(client.ask("GET", f"{ROOT}a?offset=-1").body, b"the second stream")

    def test_forks(self) -> None:
        """A fork point is an offset of the source as it is now."""
        for client in self.doors():
            saved = self.recreated(client)
            header = {"Stream-Forked-From": f"{ROOT}a", "Stream-Fork-Offset": saved}
            answer = client.ask("PUT", f"{ROOT}b", header, b"")
            self.assertEqual((answer.status, json.loads(answer.body)["type"]), (410, GONE))

    def test_event_streams(self) -> None:
        """Control events carry the offsets that header fields carry."""
        fixture = ServerFixture()
        fixture.put("a", body=b"abc")
        client = fixture.connect()
        client.send(f"GET {ROOT}a?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        fixture.turn()
        (answer,) = client.answers()
        told = json.loads(parse(answer.body)[-1].data)["streamNextOffset"]
        self.assertEqual(told, fixture.ask("HEAD", "a").header["stream-next-offset"])

    def test_in_the_process(self) -> None:
        """Methods refuse them as HTTP does."""
        streams = ServerFixture().streams
        first = self.successResultOf(streams.create("a", "text/plain", b"the first"))
        self.successResultOf(streams.delete("a"))
        self.successResultOf(streams.create("a", "text/plain", b"the second stream"))
        failure = self.failureResultOf(streams.read("a", first.offset), StreamError)
        self.assertEqual(failure.value.problem, Problem.OFFSET_GONE)
