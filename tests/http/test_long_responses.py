"""Tests of responses longer than one piece, with both HTTP/1.1 servers."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.token_deadline import until
from durable_streams_tw.http.limits import SEND_TIMEOUT
from durable_streams_tw.http.messages import Response, StreamedBody
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.live.limits import READ_PIECE
from durable_streams_tw.storage.api import StoreStats
from durable_streams_tw.storage.durable.store import DurableStore
from tests.http.server_fixture import ROOT, Client, ServerFixture
from tests.http.test_http1_server import Http1ServerFixture
from tests.storage.durable.store_case import scratch_directory
from tests.storage.shared.inline_executor import InlineExecutor

BODY = b"0123456789abcde\n" * (READ_PIECE // 5)
MESSAGES = [{"number": n, "text": "x" * 1000} for n in range(READ_PIECE // 300)]


class StoreTests(SynchronousTestCase):
    """Durable store during a transfer."""

    def test_no_snapshot_waits_for_a_client(self) -> None:
        """No LMDB snapshot is open between two pieces."""
        directory = scratch_directory(self)
        store = DurableStore(directory, Clock(), InlineExecutor(), segment_size=64 * 1024)
        fixture = Http1ServerFixture(store=store)
        fixture.put("a", body=BODY)
        client = fixture.connect()
        client.request("GET", ROOT + "a")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        fixture.turn()
        self.assertEqual(len(fixture.streams._transfers.running), 1)
        levels = self.successResultOf(store.stats())
        assert isinstance(levels, StoreStats)
        self.assertEqual(levels.readers, 0)
        producer.resumeProducing()
        for _ in range(20):
            fixture.turn()
        (answer,) = client.answers()
        self.assertTrue(answer.complete and answer.body == BODY)
        client.leave()
        self.successResultOf(fixture.streams.stopService())


class TokenTests(SynchronousTestCase):
    """Responses to a token that expires."""

    def test_long_answer(self) -> None:
        """A response that started before the expiry is sent to its end."""
        clock = Clock()
        response = Response(200, [], StreamedBody(lambda sink: self.fail("not begun"), 7))
        self.assertIs(until(1.0, response, clock, lambda: response), response)
        self.assertEqual(clock.getDelayedCalls(), [])


class KleinTests(SynchronousTestCase):
    """Transfers on the twisted.web site."""

    kind: type[ServerFixture] = ServerFixture

    def setUp(self) -> None:
        self.fixture = self.kind()
        self.fixture.put("a", body=BODY)

    def finish(self, client: Client) -> None:
        """Let the client read all bytes."""
        for _ in range(20):
            self.fixture.turn()

    def get(self, target: str, version: str = "HTTP/1.1", **header: str) -> Any:
        """Send one GET on a new connection and return the response."""
        client = self.fixture.connect()
        fields = {name.replace("_", "-"): value for name, value in header.items()}
        client.request("GET", ROOT + target, fields, version=version)
        self.finish(client)
        (answer,) = client.answers()
        client.leave()
        return answer

    def test_whole(self) -> None:
        """The body has everything up to the tail, and its length."""
        answer = self.get("a?offset=-1")
        self.assertEqual((answer.status, answer.complete), (200, True))
        self.assertTrue(answer.body == BODY)
        self.assertEqual(answer.header["content-length"], str(len(BODY)))
        self.assertEqual(answer.header["stream-up-to-date"], "true")
        self.assertTrue(answer.header["etag"].endswith(f':0:{len(BODY)}"'))
        self.assertEqual(
            answer.header["cache-control"], "public, max-age=60, stale-while-revalidate=300"
        )
        self.assertEqual(self.get("a", If_None_Match=answer.header["etag"]).status, 304)
        end = answer.header["stream-next-offset"]
        self.assertEqual(self.get(f"a?offset={end}").body, b"")

    def test_closed(self) -> None:
        """The end of a closed stream is in the response with its bytes."""
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.assertEqual(self.get("a").header["stream-closed"], "true")

    def test_json(self) -> None:
        """A JSON response is one array of all messages."""
        self.fixture.put("j", "application/json", json.dumps(MESSAGES).encode())
        answer = self.get("j")
        self.assertTrue(json.loads(answer.body) == MESSAGES)
        self.assertEqual(answer.header["content-length"], str(len(answer.body)))

    def test_long_poll(self) -> None:
        """A long-poll with much stored data gets a complete response at once."""
        answer = self.get("a?offset=-1&live=long-poll")
        self.assertTrue(answer.body == BODY)
        self.assertTrue(answer.header["stream-cursor"].isdigit())
        self.assertEqual(answer.header["content-length"], str(len(BODY)))

    def test_gzip(self) -> None:
        """A compressed body is sent in pieces, without a length."""
        answer = self.get("a", Accept_Encoding="gzip")
        self.assertTrue(answer.complete)
        self.assertTrue(gzip.decompress(answer.body) == BODY)
        self.assertNotIn("content-length", answer.header)
        self.assertEqual(answer.header["content-encoding"], "gzip")
        self.assertTrue(answer.header["etag"].endswith(':gzip"'))

    def test_http_1_0(self) -> None:
        """HTTP/1.0 gets the length and no chunks."""
        answer = self.get("a", version="HTTP/1.0")
        self.assertTrue(answer.complete and answer.body == BODY)
        self.assertEqual(answer.header["content-length"], str(len(BODY)))
        self.assertNotIn("transfer-encoding", answer.header)

    def test_pages(self) -> None:
        """With ``max_chunk`` above the piece size, pages are sent in pieces."""
        self.fixture = self.kind(Settings(max_chunk=READ_PIECE + 100))
        self.fixture.put("j", "application/json", json.dumps(MESSAGES).encode())
        found, offset, pages = [], "-1", 0
        while True:
            answer = self.get(f"j?offset={offset}")
            self.assertTrue(answer.complete)
            found += json.loads(answer.body)
            offset = answer.header["stream-next-offset"]
            pages += 1
            if "stream-up-to-date" in answer.header:
                break
            self.assertGreater(len(answer.body), READ_PIECE + 100)
        self.assertTrue(found == MESSAGES)
        self.assertGreater(pages, 2)

    def test_next_request(self) -> None:
        """The connection stays open, and requests queued meanwhile are executed."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a")
        client.request("HEAD", ROOT + "a")
        self.finish(client)
        client.request("GET", ROOT + "a?offset=now")
        self.finish(client)
        answers = client.answers("GET", "HEAD", "GET")
        self.assertEqual([answer.status for answer in answers], [200, 200, 200])
        self.assertTrue(answers[0].body == BODY)
        self.assertFalse(client.transport.disconnecting)
        client.leave()

    def full_transport(self) -> Client:
        """Return a client whose transport is full from the first piece on."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        self.fixture.turn()
        return client

    def test_stream_deleted_midway(self) -> None:
        """Deleting the stream aborts the connection, since the body is incomplete."""
        client = self.full_transport()
        self.assertEqual(self.fixture.ask("DELETE", "a").status, 204)
        producer: Any = client.transport.producer
        producer.resumeProducing()
        self.finish(client)
        (answer,) = client.answers()
        self.assertFalse(answer.complete)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())

    def test_slow_reader(self) -> None:
        """A client that does not read is disconnected after the send timeout."""
        client = self.full_transport()
        written = len(client.transport.value())
        self.assertLess(written, READ_PIECE + 2000)
        for _ in range(int(SEND_TIMEOUT) + 30):
            self.fixture.clock.advance(1)
        self.assertEqual(len(client.transport.value()), written)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())

    def test_disconnect(self) -> None:
        """A client that disconnects leaves no state."""
        client = self.full_transport()
        self.assertEqual(len(self.fixture.streams._transfers.running), 1)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())


class FastChannelTests(KleinTests):
    """Transfers on the HTTP/1.1 engine."""

    kind = Http1ServerFixture

    def test_half_closed(self) -> None:
        """A half-closed client receives the whole response."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a")
        IHalfCloseableProtocol(client.protocol).readConnectionLost()
        self.finish(client)
        (answer,) = client.answers()
        self.assertTrue(answer.complete and answer.body == BODY)
        self.assertTrue(client.transport.disconnecting)
        client.leave()

    def test_http_1_0_keep_alive(self) -> None:
        """An HTTP/1.0 connection may persist, since the body has a length."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a", {"Connection": "keep-alive"}, version="HTTP/1.0")
        self.finish(client)
        (answer,) = client.answers()
        self.assertTrue(answer.complete)
        self.assertEqual(answer.header["connection"], "keep-alive")
        self.assertFalse(client.transport.disconnecting)
        client.leave()
