"""Tests of `durable_streams_tw.http.http2.connection`."""

from __future__ import annotations

import json
from typing import Any

from durable_streams_tw.http.limits import STOP_CHECK
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.live import limits
from durable_streams_tw.protocol.streams.commands import Append
from tests.http.http2.client import Http2TestCase, ReceivedResponse
from tests.http.server_fixture import MORNING, ServerFixture
from tests.http.twisted_web.test_live import DelayedCommits
from tests.sse_parser import parse as parse_events


class Http2Tests(Http2TestCase):
    """Requests and responses."""

    def test_all_of_it(self) -> None:
        """Create, append, read, describe, delete."""
        made = self.ask("PUT", "a%2Fb", content_type="text/plain")
        self.assertEqual(made.status, 201)
        self.assertEqual(made.header["location"], "http://streams.example/v1/stream/a%2Fb")
        self.assertEqual(
            self.ask("POST", "a/b", b"x" * 100_000, content_type="text/plain").status, 204
        )
        self.assertEqual(self.ask("GET", "a/b").body, b"x" * 100_000)
        head = self.ask("HEAD", "a/b")
        self.assertEqual((head.status, head.body, head.ended), (200, b"", True))
        self.assertEqual(self.ask("DELETE", "a/b").status, 204)
        self.assertEqual(self.ask("GET", "a/b").status, 404)

    def test_long_poll(self) -> None:
        """A pending request does not delay others."""
        self.fixture.put("a")
        waiting = self.ask("GET", "a?offset=now&live=long-poll")
        self.assertEqual(waiting.header, {})
        self.assertEqual(self.ask("POST", "a", b"news", content_type="text/plain").status, 204)
        self.assertEqual((waiting.status, waiting.body), (200, b"news"))

    def test_long_poll_given_up(self) -> None:
        """A reset cancels its request and keeps the connection."""
        self.fixture.put("a")
        self.ask("GET", "a?offset=now&live=long-poll")
        self.assertEqual(self.fixture.streams._long_polls.count, 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.fixture.streams._long_polls.count, 0)
        self.assertEqual(self.ask("HEAD", "a").status, 200)

    def test_append_survives(self) -> None:
        """A complete append is executed even if the client resets it."""
        store = DelayedCommits()
        self.begin(ServerFixture(store=store))
        self.fixture.put("a")
        self.ask("POST", "a", b"kept", content_type="text/plain")
        self.assertIsInstance(store.waiting[0][0], Append)
        self.wire.reset_stream(1)
        self.flush()
        store.commit()
        self.assertEqual(self.ask("GET", "a").body, b"kept")

    def test_too_large(self) -> None:
        """A body that is too large is discarded, then refused; the connection stays open."""
        self.begin(ServerFixture(Settings(max_body=10_000)))
        self.fixture.put("a")
        answer = self.ask("POST", "a", b"x" * 50_000, content_type="text/plain")
        self.assertEqual(answer.status, 413)
        self.assertIn("body-too-large", json.loads(answer.body)["type"])
        self.assertEqual(self.fixture.site.bodies.held, 0)
        announced = self.ask(
            "POST", "a", b"x" * 50_000, content_type="text/plain", content_length="50000"
        )
        self.assertEqual(announced.status, 413)
        self.assertEqual(self.ask("GET", "a").body, b"")

    def test_expect(self) -> None:
        """Expect: 100-continue gets 100."""
        self.fixture.put("a")
        self.wire.send_headers(
            1, self.head("POST", "a", content_type="text/plain", expect="100-continue")
        )
        self.got[1] = ReceivedResponse()
        self.flush()
        self.assertEqual(self.got[1].informed, 100)
        self.wire.send_data(1, b"x", end_stream=True)
        self.flush()
        self.assertEqual(self.got[1].status, 204)

    def test_refused_by_its_head(self) -> None:
        """A refused body is not awaited, and the connection stays open."""
        self.fixture.put("a")
        self.got[1] = ReceivedResponse()
        self.wire.send_headers(1, self.head("POST", "a", content_length="999999999"))
        self.flush()
        self.assertEqual(self.got[1].status, 413)
        self.assertTrue(self.got[1].ended)
        self.assertEqual((self.got[1].reset, self.got[1].code), (True, 0))
        self.assertEqual(self.ask("HEAD", "a").status, 200)

    def test_wrong_length(self) -> None:
        """A body whose length differs from Content-Length is refused."""
        self.fixture.put("a")
        for body in (b"xyz", b"x"):
            answer = self.ask("POST", "a", body, content_type="text/plain", content_length="2")
            self.assertEqual(answer.status, 400)
        self.assertEqual(self.ask("GET", "a").body, b"")

    def test_no_resource(self) -> None:
        """Requests outside the streams are handled by the site's resources."""
        answer = self.ask("GET", "", path="/elsewhere")
        self.assertEqual((answer.status, answer.ended), (404, True))
        self.assertEqual(self.ask("HEAD", "", path="/elsewhere").body, b"")
        self.assertEqual(self.ask("OPTIONS", "", path="*").status, 204)

    def test_many_at_once(self) -> None:
        """All requests of one turn get responses, queued GETs too."""
        self.fixture.put("a", body=b"x" * 50_000)
        self.wire.increment_flow_control_window(2**30)
        for number in range(1, 199, 2):
            self.got[number] = ReceivedResponse()
            self.wire.send_headers(number, self.head("GET", "a"), end_stream=True)
        self.flush()
        self.assertEqual({len(got.body) for got in self.got.values()}, {50_000})
        self.assertEqual(self.connection._catch_ups, 0)

    def test_large_blocks(self) -> None:
        """Heads of several frames are read, and heads above the limit refused."""
        self.fixture.put("a")
        self.assertEqual(self.ask("GET", "a", x="y" * 16_000).status, 200)
        self.assertEqual(self.ask("GET", "a", x="y" * 20_000).status, 431)
        self.assertEqual(self.ask("GET", "a?" + "y" * 20_000).status, 414)
        self.assertEqual(self.ask("GET", "a").status, 200)

    def test_failure(self) -> None:
        """An internal error is 500, and the connection stays open."""
        from durable_streams_tw.storage.memory.store import MemoryStore

        class Breaking(MemoryStore):
            def get_state(self, *args: Any, **kwargs: Any) -> Any:
                raise RuntimeError("a bug")

        self.begin(ServerFixture(store=Breaking(lambda: int(MORNING * 1000))))
        self.fixture.put("a")
        self.assertEqual(self.ask("HEAD", "a").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.ask("GET", "a").status, 200)


class LongAnswerTests(Http2TestCase):
    """Responses longer than a piece."""

    BODY = b"0123456789abcde\n" * (limits.READ_PIECE // 5)

    def setUp(self) -> None:
        super().setUp()
        self.fixture.put("a", body=self.BODY)

    def test_whole(self) -> None:
        """The body has everything up to the tail, its length, and a clean end."""
        answer = self.ask("GET", "a?offset=-1")
        self.flush()
        self.assertTrue(answer.body == self.BODY)
        self.assertTrue(answer.ended)
        self.assertEqual(answer.header["content-length"], str(len(self.BODY)))
        self.assertEqual(answer.header["stream-up-to-date"], "true")

    def test_reader_that_does_not_read(self) -> None:
        """Bytes that the window does not allow stay in the store."""
        answer = self.ask("GET", "a", credit=False)
        self.assertLessEqual(self.connection._unsent, limits.READ_PIECE)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(answer.ended and answer.body == self.BODY)

    def test_stream_deleted_midway(self) -> None:
        """The stream is reset: no clean end."""
        answer = self.ask("GET", "a", credit=False)
        self.assertEqual(self.ask("DELETE", "a").status, 204)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(answer.reset)
        self.assertFalse(answer.ended)
        self.assertEqual(self.fixture.streams._transfers.running, set())

    def test_client_disconnects(self) -> None:
        """A reset frees held bytes."""
        self.ask("GET", "a", credit=False)
        self.assertEqual(len(self.fixture.streams._transfers.running), 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.fixture.streams._transfers.running, set())


class EventStreamTests(Http2TestCase):
    """Streamed bodies."""

    def test_follows(self) -> None:
        """Events arrive, the end is clean, other requests are executed."""
        self.fixture.put("a", body=b"old")
        events = self.ask("GET", "a?offset=-1&live=sse")
        self.assertEqual(events.header["content-type"], "text/event-stream")
        self.ask("POST", "a", b"new", content_type="text/plain", stream_closed="true")
        self.assertTrue(events.ended)
        data = [event.data for event in parse_events(events.body) if event.type == "data"]
        self.assertEqual(data, ["old", "new"])

    def test_idle(self) -> None:
        """A silent event stream keeps its connection open."""
        fixture = ServerFixture(Settings(sse_reconnect_interval=600.0))
        self.begin(fixture)
        fixture.put("a")
        events = self.ask("GET", "a?offset=-1&live=sse")
        for _ in range(30):
            fixture.clock.advance(10)
            self.flush()
        self.assertFalse(events.ended or events.reset or self.transport.disconnecting)
        self.assertIn(b": keep-alive", events.body)

    def test_reader_that_does_not_read(self) -> None:
        """Bytes that the window does not allow stay in the store."""
        self.fixture.put("a", body=b"x" * 2_000_000)
        self.ask("GET", "a?offset=-1&live=sse", credit=False)
        (stream,) = self.connection.streams.values()
        self.assertLess(stream.unsent, 3 * limits.READ_PIECE)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        text = "".join(
            event.data for event in parse_events(self.got[1].body) if event.type == "data"
        )
        self.assertEqual(text, "x" * 2_000_000)

    def test_unreadable(self) -> None:
        """An error of the store resets the stream: no clean end."""
        from durable_streams_tw.storage.memory.store import MemoryStore

        class Breaking(MemoryStore):
            broken = False

            def read(self, *args: Any, **kwargs: Any) -> Any:
                if self.broken:
                    raise RuntimeError("the disk is gone")
                return super().read(*args, **kwargs)

        store = Breaking(lambda: int(MORNING * 1000))
        self.begin(ServerFixture(store=store))
        self.fixture.put("a", body=b"x" * 2_000_000)
        events = self.ask("GET", "a?offset=-1&live=sse", credit=False)
        store.broken = True
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(events.reset)
        self.assertFalse(events.ended)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.fixture.streams._broadcaster.count, 0)
        store.broken = False
        self.assertEqual(self.ask("HEAD", "a").status, 200)

    def test_client_disconnects(self) -> None:
        """A reset stops the reader."""
        self.fixture.put("a")
        self.ask("GET", "a?offset=-1&live=sse")
        self.assertEqual(self.fixture.streams._broadcaster.count, 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.fixture.streams._broadcaster.count, 0)

    def test_drain(self) -> None:
        """A server that stops ends its event streams, then the connection."""
        self.fixture.put("a")
        events = self.ask("GET", "a?offset=-1&live=sse")
        self.successResultOf(self.fixture.streams.release())
        drained = self.fixture.site.drain()
        self.flush()
        self.fixture.clock.advance(STOP_CHECK)
        self.assertTrue(events.ended)
        self.assertTrue(self.gone_away)
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(drained)
