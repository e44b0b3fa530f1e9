"""Tests of live reads through the twisted.web resource."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.live import limits
from durable_streams_tw.protocol.streams.commands import Append
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.http.server_fixture import MORNING, ROOT, Client, ServerFixture
from tests.sse_parser import Parser
from tests.sse_parser import parse as parse_events
from tests.tokens import bare

START = "0000000000000000_0000000000000000"


class LongPollTests(SynchronousTestCase):
    """``live=long-poll`` (PROTOCOL.md §5.7)."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.fixture.put("a")
        self.client = self.fixture.connect()

    def poll(self, offset: str = "now", more: str = "") -> None:
        """Start a long-poll."""
        self.client.request("GET", f"{ROOT}a?offset={offset}&live=long-poll{more}")

    def test_append_wakes(self) -> None:
        """A waiting long-poll responds with an append."""
        self.poll(START)
        self.assertEqual(self.client.answers(), [])
        self.fixture.post("a", b"news")
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, answer.body), (200, b"news"))
        self.assertEqual(answer.header["stream-up-to-date"], "true")
        self.assertTrue(answer.header["etag"].endswith(':0:4"'))
        self.assertEqual(
            answer.header["cache-control"], "public, max-age=60, stale-while-revalidate=300"
        )
        self.assertTrue(answer.header["stream-cursor"].isdigit())

    def test_now_is_not_cacheable(self) -> None:
        """A response for ``offset=now`` is not cacheable."""
        self.poll()
        self.fixture.post("a", b"news")
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertEqual(answer.header["cache-control"], "no-store")
        self.assertNotIn("etag", answer.header)

    def test_timeout(self) -> None:
        """A timeout is 204 with the next offset and a cursor above the client's."""
        self.poll(START, "&cursor=99999999")
        self.fixture.clock.advance(limits.LONG_POLL_TIMEOUT + 1)
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(bare(answer.header["stream-next-offset"]), START)
        self.assertEqual(answer.header["stream-up-to-date"], "true")
        self.assertEqual(answer.header["cache-control"], "no-store")
        self.assertGreater(int(answer.header["stream-cursor"]), 99999999)
        self.assertNotIn("content-length", answer.header)

    def test_closing_wakes(self) -> None:
        """Closing the stream ends a long-poll."""
        self.poll(START)
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, answer.header["stream-closed"]), (204, "true"))

    def test_closed_before(self) -> None:
        """A long-poll at the end of a closed stream ends at once."""
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.poll()
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, answer.header["stream-closed"]), (204, "true"))

    def test_deletion_wakes(self) -> None:
        """Deleting the stream ends a long-poll with a refusal."""
        self.poll()
        self.fixture.ask("DELETE", "a")
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertEqual(answer.status, 404)

    def test_client_disconnects(self) -> None:
        """A client that disconnects leaves no long-poll."""
        self.poll()
        self.assertEqual(self.fixture.streams._long_polls.count, 1)
        self.client.leave()
        self.assertEqual(self.fixture.streams._long_polls.count, 0)
        self.fixture.post("a", b"news")
        self.fixture.turn()
        self.assertEqual(self.client.answers(), [])

    def test_service_stops(self) -> None:
        """When the service stops, long-polls get responses."""
        self.poll()
        stopped = self.fixture.streams.stopService()
        (answer,) = self.client.answers()
        self.assertEqual(answer.status, 204)
        self.successResultOf(stopped)

    def test_outlives_the_idle_timeout(self) -> None:
        """The idle timeout does not apply during a long-poll."""
        fixture = ServerFixture(Settings(long_poll_timeout=600.0))
        fixture.put("a")
        client = fixture.connect()
        client.request("GET", f"{ROOT}a?offset=now&live=long-poll")
        for _ in range(59):
            fixture.clock.advance(10)
        self.assertFalse(client.transport.disconnecting)
        self.assertEqual(client.answers(), [])
        fixture.clock.advance(20)
        (answer,) = client.answers()
        self.assertEqual(answer.status, 204)


class EventStreamTests(SynchronousTestCase):
    """``live=sse`` (PROTOCOL.md §5.8)."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.fixture.put("a", body=b"old")
        self.client = self.fixture.connect()

    def follow(self, path: str = "a", offset: str = "-1") -> None:
        """Start an SSE response."""
        self.client.transport.clear()
        self.client.request("GET", f"{ROOT}{path}?offset={offset}&live=sse")
        self.fixture.turn()

    def events(self) -> list[tuple[str, str]]:
        """Return the received events."""
        (answer,) = self.client.answers()
        return [(event.type, event.data) for event in parse_events(answer.body)]

    def test_head(self) -> None:
        """The head is sent at once, and forbids proxies to buffer or change the body."""
        self.client.request("GET", f"{ROOT}a?offset=-1&live=sse")
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, answer.complete), (200, False))
        self.assertEqual(answer.header["content-type"], "text/event-stream")
        self.assertEqual(answer.header["cache-control"], "no-cache")
        self.assertEqual(answer.header["x-accel-buffering"], "no")
        self.assertIn("Last-Event-ID", answer.header["vary"])
        self.assertEqual(answer.header["transfer-encoding"], "chunked")
        self.assertNotIn("content-length", answer.header)
        self.assertNotIn("content-encoding", answer.header)
        self.assertNotIn("content-disposition", answer.header)
        self.assertNotIn("stream-sse-data-encoding", answer.header)

    def test_binary_says_base64(self) -> None:
        """Binary streams are sent as base64, and the head says so."""
        self.fixture.put("b", "application/octet-stream", b"\x00\xff")
        self.follow("b")
        (answer,) = self.client.answers()
        self.assertEqual(answer.header["stream-sse-data-encoding"], "base64")
        self.assertEqual(self.events()[0], ("data", "AP8="))

    def test_follows(self) -> None:
        """Stored bytes, then new ones, each followed by a control event."""
        self.follow()
        self.fixture.post("a", b" new")
        self.fixture.turn()
        kinds = [kind for kind, _ in self.events()]
        self.assertEqual(kinds, ["data", "control", "data", "control"])
        self.assertEqual([data for kind, data in self.events() if kind == "data"], ["old", " new"])

    def test_an_event_and_its_control_share_a_chunk(self) -> None:
        """A data event and its control event share a chunk, so a client that stops between chunks
        knows its offset.
        """
        self.follow()
        wire = self.client.transport.value().partition(b"\r\n\r\n")[2]
        size, _, rest = wire.partition(b"\r\n")
        chunk = rest[: int(size, 16)]
        self.assertEqual([event.type for event in parse_events(chunk)], ["data", "control"])

    def test_close(self) -> None:
        """Closing the stream ends the response as complete after a last control event."""
        self.follow()
        self.fixture.ask("POST", "a", {"Stream-Closed": "true", "Content-Type": "text/plain"}, b"!")
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertTrue(answer.complete)
        self.assertEqual(self.events()[-2], ("data", "!"))
        self.assertTrue(json.loads(self.events()[-1][1])["streamClosed"])
        self.assertFalse(self.client.transport.disconnecting)
        self.assertEqual(self.client.ask("HEAD", f"{ROOT}a").status, 200)

    def test_closed_before(self) -> None:
        """For a closed stream the head says so (§8)."""
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.follow(offset="now")
        (answer,) = self.client.answers()
        self.assertTrue(answer.complete)
        self.assertEqual(answer.header["stream-closed"], "true")
        self.assertEqual(answer.header["stream-up-to-date"], "true")
        ((kind, data),) = self.events()
        self.assertEqual(kind, "control")
        self.assertTrue(json.loads(data)["streamClosed"])

    def resume(self, last: str, offset: str = "-1", path: str = "a") -> Client:
        """Reconnect as a browser's EventSource does."""
        client = self.fixture.connect()
        target = f"{ROOT}{path}?offset={offset}&live=sse"
        client.request("GET", target, {"Last-Event-ID": last})
        self.fixture.turn()
        return client

    def test_event_source_resumes_anywhere(self) -> None:
        """Wherever the connection is cut, dispatched messages are neither lost nor repeated."""
        self.fixture.put("j", "application/json", b'["first"]')
        self.follow("j")
        for message in (b'"second"', b'["third","fourth"]'):
            self.fixture.post("j", message, "application/json")
            self.fixture.turn()
        self.fixture.ask("POST", "j", {"Stream-Closed": "true"}, b"")
        self.fixture.turn()
        (answer,) = self.client.answers()
        body = answer.body
        for cut in range(len(body) + 1):
            parser = Parser()
            seen = parser.feed(body[:cut])
            if not parser.last_event_id:
                self.assertEqual(seen, [])
                continue
            client = self.resume(parser.last_event_id, path="j")
            (answer,) = client.answers()
            rest = parse_events(answer.body)
            found = [
                message
                for event in [*seen, *rest]
                if event.type == "data"
                for message in json.loads(event.data)
            ]
            self.assertEqual(found, ["first", "second", "third", "fourth"])
            client.leave()

    def test_event_source_at_now(self) -> None:
        """The first control event has the offset of ``now``: nothing is lost across a reconnect."""
        self.follow(offset="now")
        (answer,) = self.client.answers()
        parser = Parser()
        parser.feed(answer.body)
        self.client.leave()
        self.fixture.post("a", b"new")
        client = self.resume(parser.last_event_id, "now")
        (answer,) = client.answers()
        self.assertEqual(parse_events(answer.body)[0].data, "new")
        client.leave()

    def test_event_source_at_the_end(self) -> None:
        """At the end of a closed stream an EventSource gets 204; other clients get the
        last event.
        """
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.follow()
        (answer,) = self.client.answers()
        parser = Parser()
        self.assertEqual(len(parser.feed(answer.body)), 2)
        client = self.resume(parser.last_event_id)
        (answer,) = client.answers()
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.header["stream-closed"], "true")
        self.assertEqual(answer.header["stream-next-offset"], parser.last_event_id)
        self.assertEqual(answer.header["cache-control"], "no-store")
        client.leave()
        client = self.resume(START)
        (answer,) = client.answers()
        self.assertEqual((answer.status, parse_events(answer.body)[0].data), (200, "old"))
        client.leave()
        self.follow(offset=parser.last_event_id)
        self.assertEqual([kind for kind, _ in self.events()], ["control"])

    def test_event_source_with_a_bad_id(self) -> None:
        """An invalid Last-Event-ID is refused, which stops an EventSource; an empty one
        is ignored.
        """
        for last, status in (("7", 400), ("0_99999", 400), ("é", 400), ("", 200)):
            client = self.resume(last)
            (answer,) = client.answers()
            self.assertEqual(answer.status, status)
            client.leave()

    def test_missing_stream(self) -> None:
        """A missing stream is 404."""
        self.follow("missing")
        (answer,) = self.client.answers()
        self.assertEqual(answer.status, 404)
        self.assertEqual(answer.header["content-type"], "application/problem+json")

    def test_reconnect_interval(self) -> None:
        """The response ends as complete after the reconnect interval, so that caches can collapse
        readers.
        """
        self.follow()
        self.fixture.clock.advance(limits.SSE_RECONNECT_INTERVAL + 2)
        (answer,) = self.client.answers()
        self.assertTrue(answer.complete)

    def test_http_1_0(self) -> None:
        """For HTTP/1.0 the body ends with the connection."""
        self.client.send(f"GET {ROOT}a?offset=-1&live=sse HTTP/1.0\r\n\r\n".encode())
        self.fixture.turn()
        (answer,) = self.client.answers()
        self.assertNotIn("transfer-encoding", answer.header)
        self.assertEqual([event.type for event in parse_events(answer.body)], ["data", "control"])
        self.assertFalse(self.client.transport.disconnecting)
        self.fixture.ask("POST", "a", {"Stream-Closed": "true"}, b"")
        self.fixture.turn()
        self.assertTrue(self.client.transport.disconnecting)

    def test_client_disconnects(self) -> None:
        """A client that disconnects leaves no state."""
        self.follow()
        self.assertEqual(self.fixture.streams._broadcaster.count, 1)
        self.client.leave()
        self.assertEqual(self.fixture.streams._broadcaster.count, 0)

    def test_disconnect_before_the_request(self) -> None:
        """A lost connection leaves no state even if its producer is not stopped."""
        self.follow()
        self.client.transport.unregisterProducer()
        self.client.leave()
        self.assertEqual(self.fixture.streams._broadcaster.count, 0)

    def test_slow_reader(self) -> None:
        """A full transport gets no bytes, and later all of them."""
        self.follow()
        producer: Any = self.client.transport.producer
        producer.pauseProducing()
        before = len(self.client.transport.value())
        for number in range(50):
            self.fixture.post("a", b"%d;" % number)
            self.fixture.turn()
        self.assertEqual(len(self.client.transport.value()), before)
        producer.resumeProducing()
        self.fixture.turn()
        got = "".join(data for kind, data in self.events() if kind == "data")
        self.assertEqual(got, "old" + "".join(f"{number};" for number in range(50)))

    def test_full_from_the_first_write(self) -> None:
        """A transport that is full from its first write pauses the reader."""
        fixture = self.fixture
        fixture.put("big", "application/octet-stream", b"x" * 1_000_000)
        transport: Any = self.client.transport
        write = transport.writeSequence

        def full(data: list[bytes]) -> None:
            write(data)
            transport.producer.pauseProducing()

        transport.writeSequence = full
        self.follow("big")
        size = len(transport.value())
        self.assertLess(size, 2 * limits.READ_PIECE)
        fixture.turn()
        self.assertEqual(len(transport.value()), size)

    def test_service_stops(self) -> None:
        """When the service stops, the response ends as complete after a last control event."""
        self.follow()
        self.successResultOf(self.fixture.streams.stopService())
        (answer,) = self.client.answers()
        self.assertTrue(answer.complete)
        self.assertEqual(self.events()[-1][0], "control")

    def test_unreadable(self) -> None:
        """An error of the store aborts the connection."""

        class Breaking(MemoryStore):
            broken = False

            def read(self, *args: object, **kwargs: object) -> Deferred[object]:  # type: ignore[override]
                if self.broken:
                    raise RuntimeError("the disk is gone")
                return super().read(*args, **kwargs)  # type: ignore[arg-type,return-value]

        store = Breaking(lambda: int(MORNING * 1000))
        fixture = ServerFixture(store=store)
        fixture.put("big", "text/plain", b"x" * 1_000_000)
        client = fixture.connect()
        client.request("GET", f"{ROOT}big?offset=-1&live=sse")
        store.broken = True
        fixture.turn()
        (answer,) = client.answers()
        self.assertFalse(answer.complete)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        client.leave()
        self.assertEqual(fixture.streams._broadcaster.count, 0)


class DelayedCommits(MemoryStore):
    """Store whose commits wait for `commit`."""

    def __init__(self) -> None:
        super().__init__(lambda: int(MORNING * 1000))
        self.waiting: list[tuple[Command, Callable[[Outcome], object]]] = []

    def execute(self, command: Command, told: Callable[[Outcome], object]) -> None:
        """Queue appends."""
        if isinstance(command, Append):
            self.waiting.append((command, told))
        else:
            super().execute(command, told)

    def commit(self) -> None:
        """Carry out the queued appends."""
        waiting, self.waiting = self.waiting, []
        for command, told in waiting:
            super().execute(command, told)


class LeavingWriterTests(SynchronousTestCase):
    """A complete append is executed even if its client disconnects."""

    def test_append_survives(self) -> None:
        """The append is executed although Klein cancels its Deferred."""
        store = DelayedCommits()
        fixture = ServerFixture(store=store)
        fixture.put("a")
        client = fixture.connect()
        client.request("POST", f"{ROOT}a", {"Content-Type": "text/plain"}, b"kept")
        self.assertEqual(client.answers(), [])
        client.leave()
        store.commit()
        self.assertEqual(fixture.ask("GET", "a").body, b"kept")

    def test_half_an_append(self) -> None:
        """An incomplete append is not executed."""
        fixture = ServerFixture()
        fixture.put("a")
        client: Client = fixture.connect()
        client.send(
            f"POST {ROOT}a HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
            "Content-Length: 100\r\n\r\nhalf".encode()
        )
        client.leave()
        self.assertEqual(fixture.ask("GET", "a").body, b"")
        self.assertEqual(fixture.site.bodies.held, 0)
