"""Answers that are longer than a piece, through each HTTP/1.1 server."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.handlers.token_deadline import until
from durable_streams_tw.http.limits import SEND_TIMEOUT
from durable_streams_tw.http.messages import Response, StreamedBody
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.live.limits import READ_PIECE
from durable_streams_tw.storage.durable.store import DurableStore
from tests.http.server_fixture import ROOT, Client, ServerFixture
from tests.http.test_http1_server import Http1ServerFixture
from tests.storage.durable.inline_executor import InlineExecutor
from tests.storage.durable.store_case import scratch_directory

BODY = b"0123456789abcde\n" * (READ_PIECE // 5)
MESSAGES = [{"number": n, "text": "x" * 1000} for n in range(READ_PIECE // 300)]


class StoreTests(SynchronousTestCase):
    """The durable store under a transfer."""

    def test_no_snapshot_waits_for_a_client(self) -> None:
        """Between two pieces nothing of the map is pinned."""
        directory = scratch_directory()
        self.addCleanup(shutil.rmtree, directory)
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
        assert levels is not None
        self.assertEqual(levels.readers, 0)
        producer.resumeProducing()
        for _ in range(20):
            fixture.turn()
        (answer,) = client.answers()
        self.assertTrue(answer.complete and answer.body == BODY)
        client.leave()
        self.successResultOf(fixture.streams.stopService())


class TokenTests(SynchronousTestCase):
    """Answers to a token that expires."""

    def test_long_answer(self) -> None:
        """What the stream had when the token was good is sent to its end."""
        clock = Clock()
        response = Response(200, [], StreamedBody(lambda sink: self.fail("not begun"), 7))
        self.assertIs(until(1.0, response, clock, lambda: response), response)
        self.assertEqual(clock.getDelayedCalls(), [])


class KleinTests(SynchronousTestCase):
    """The site of twisted.web."""

    kind: type[ServerFixture] = ServerFixture

    def setUp(self) -> None:
        self.fixture = self.kind()
        self.fixture.put("a", body=BODY)

    def finish(self, client: Client) -> None:
        """Let the client read all that comes."""
        for _ in range(20):
            self.fixture.turn()

    def get(self, target: str, version: str = "HTTP/1.1", **header: str) -> Any:
        """One GET on a connection of its own, read to its end."""
        client = self.fixture.connect()
        fields = {name.replace("_", "-"): value for name, value in header.items()}
        client.request("GET", ROOT + target, fields, version=version)
        self.finish(client)
        (answer,) = client.answers()
        client.leave()
        return answer

    def test_whole(self) -> None:
        """Everything up to the tail, with its length."""
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
        """The end of a closed stream is told with its bytes."""
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.assertEqual(self.get("a").header["stream-closed"], "true")

    def test_json(self) -> None:
        """One array of all messages."""
        self.fixture.put("j", "application/json", json.dumps(MESSAGES).encode())
        answer = self.get("j")
        self.assertTrue(json.loads(answer.body) == MESSAGES)
        self.assertEqual(answer.header["content-length"], str(len(answer.body)))

    def test_long_poll(self) -> None:
        """A long-poll that finds much is answered at once, and whole."""
        answer = self.get("a?offset=-1&live=long-poll")
        self.assertTrue(answer.body == BODY)
        self.assertTrue(answer.header["stream-cursor"].isdigit())
        self.assertEqual(answer.header["content-length"], str(len(BODY)))

    def test_gzip(self) -> None:
        """Compressed piece by piece, the length is not known before."""
        answer = self.get("a", Accept_Encoding="gzip")
        self.assertTrue(answer.complete)
        self.assertTrue(gzip.decompress(answer.body) == BODY)
        self.assertNotIn("content-length", answer.header)
        self.assertEqual(answer.header["content-encoding"], "gzip")
        self.assertTrue(answer.header["etag"].endswith(':gzip"'))

    def test_http_1_0(self) -> None:
        """With its length, and without chunks."""
        answer = self.get("a", version="HTTP/1.0")
        self.assertTrue(answer.complete and answer.body == BODY)
        self.assertEqual(answer.header["content-length"], str(len(BODY)))
        self.assertNotIn("transfer-encoding", answer.header)

    def test_pages(self) -> None:
        """``max_chunk`` may be larger than a piece: its pages are long answers too."""
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
        """The connection goes on, with requests that came meanwhile too."""
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

    def stalled(self) -> Client:
        """A client whose transport is full from the first piece on."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        self.fixture.turn()
        return client

    def test_stream_deleted_midway(self) -> None:
        """The connection is cut: the client must not take this for the end."""
        client = self.stalled()
        self.assertEqual(self.fixture.ask("DELETE", "a").status, 204)
        producer: Any = client.transport.producer
        producer.resumeProducing()
        self.finish(client)
        (answer,) = client.answers()
        self.assertFalse(answer.complete)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())

    def test_client_that_does_not_read(self) -> None:
        """It is given up after the send timeout, and nothing is kept for it."""
        client = self.stalled()
        written = len(client.transport.value())
        self.assertLess(written, READ_PIECE + 2000)
        for _ in range(int(SEND_TIMEOUT) + 30):
            self.fixture.clock.advance(1)
        self.assertEqual(len(client.transport.value()), written)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())

    def test_client_that_leaves(self) -> None:
        """Nothing is kept for it."""
        client = self.stalled()
        self.assertEqual(len(self.fixture.streams._transfers.running), 1)
        client.leave()
        self.assertEqual(self.fixture.streams._transfers.running, set())


class FastChannelTests(KleinTests):
    """The HTTP/1.1 engine."""

    kind = Http1ServerFixture

    def test_client_that_sends_no_more(self) -> None:
        """A client that has ended its side may still wait for the answer."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a")
        IHalfCloseableProtocol(client.protocol).readConnectionLost()
        self.finish(client)
        (answer,) = client.answers()
        self.assertTrue(answer.complete and answer.body == BODY)
        self.assertTrue(client.transport.disconnecting)
        client.leave()

    def test_http_1_0_connection_that_goes_on(self) -> None:
        """With a length an old client may keep its connection."""
        client = self.fixture.connect()
        client.request("GET", ROOT + "a", {"Connection": "keep-alive"}, version="HTTP/1.0")
        self.finish(client)
        (answer,) = client.answers()
        self.assertTrue(answer.complete)
        self.assertEqual(answer.header["connection"], "keep-alive")
        self.assertFalse(client.transport.disconnecting)
        client.leave()
