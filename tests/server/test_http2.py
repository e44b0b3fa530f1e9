"""The same streams over HTTP/2, where twisted.web can."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.http import H2_ENABLED

from durable_streams_tw.protocol import limits
from durable_streams_tw.protocol.requests import Append
from durable_streams_tw.server.settings import Settings
from tests.server.house import MORNING, ROOT, House
from tests.server.test_live import Slow
from tests.sse_parser import parse as parse_events

if H2_ENABLED:
    import h2.config
    import h2.connection
    import h2.events


class Got:
    """What one request has been answered."""

    def __init__(self) -> None:
        self.header: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset = False

    @property
    def status(self) -> int:
        """The status."""
        return int(self.header[":status"])


class Http2TestCase(SynchronousTestCase):
    """One HTTP/2 connection to a house."""

    def setUp(self) -> None:
        if not H2_ENABLED:
            raise SkipTest("h2 and priority are not installed")
        self.begin(House())

    def begin(self, house: House) -> None:
        """Connect to a house."""
        self.house = house
        self.transport = StringTransport()
        self.transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        self.server: Any = house.site.buildProtocol(self.transport.getPeer())
        self.server.makeConnection(self.transport)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.wire = h2.connection.H2Connection(config)
        self.wire.initiate_connection()
        self.got: dict[int, Got] = {}
        self.gone_away = False
        self.flush()

    def flush(self, credit: bool = True) -> None:
        """Let both sides talk until neither has anything to say.

        Without ``credit`` the client does not make room for what it has received.
        """
        for _ in range(50):
            sent = self.wire.data_to_send()
            if sent:
                self.server.dataReceived(sent)
            self.house.clock.advance(0)
            received = self.transport.value()
            self.transport.clear()
            if not received and not sent:
                break
            for event in self.wire.receive_data(received):
                self.take(event, credit)

    def take(self, event: Any, credit: bool) -> None:
        """One event of the client's side."""
        got = self.got.get(getattr(event, "stream_id", 0))
        if isinstance(event, h2.events.ResponseReceived):
            assert got is not None
            got.header = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            assert got is not None
            got.body += event.data
            if credit:
                self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            assert got is not None
            got.ended = True
        elif isinstance(event, h2.events.StreamReset):
            assert got is not None
            got.reset = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.gone_away = True

    def ask(
        self, method: str, target: str, body: bytes = b"", credit: bool = True, **header: str
    ) -> Got:
        """Send a request, and what has come of it so far."""
        stream = self.wire.get_next_available_stream_id()
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "streams.example"),
            (":path", ROOT + target),
        ]
        head += [(name.lower().replace("_", "-"), value) for name, value in header.items()]
        self.got[stream] = Got()
        self.wire.send_headers(stream, head, end_stream=not body)
        while body:
            self.flush(credit)
            room = min(self.wire.local_flow_control_window(stream), 16_384)
            if self.got[stream].ended or self.got[stream].reset or not room:
                break
            self.wire.send_data(stream, body[:room], end_stream=len(body) <= room)
            body = body[room:]
        self.flush(credit)
        return self.got[stream]


class Http2Tests(Http2TestCase):
    """Requests and answers."""

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
        """A request that waits does not hold the others up."""
        self.house.put("a")
        waiting = self.ask("GET", "a?offset=now&live=long-poll")
        self.assertEqual(waiting.header, {})
        self.assertEqual(self.ask("POST", "a", b"news", content_type="text/plain").status, 204)
        self.assertEqual((waiting.status, waiting.body), (200, b"news"))

    def test_long_poll_given_up(self) -> None:
        """A reset frees what waits for it, and leaves the connection."""
        self.house.put("a")
        self.ask("GET", "a?offset=now&live=long-poll")
        self.assertEqual(self.house.streams._long_polls.count, 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.house.streams._long_polls.count, 0)
        self.assertEqual(self.ask("HEAD", "a").status, 200)

    def test_append_survives(self) -> None:
        """An append that has come whole is carried out for a client that gives up."""
        store = Slow()
        self.begin(House(store=store))
        self.house.put("a")
        self.ask("POST", "a", b"kept", content_type="text/plain")
        self.assertIsInstance(store.waiting[0][0], Append)
        self.wire.reset_stream(1)
        self.flush()
        store.commit()
        self.assertEqual(self.ask("GET", "a").body, b"kept")

    def test_too_large(self) -> None:
        """The body is dropped as it comes, then refused; the connection goes on."""
        self.begin(House(Settings(max_body=10_000)))
        self.house.put("a")
        answer = self.ask("POST", "a", b"x" * 50_000, content_type="text/plain")
        self.assertEqual(answer.status, 413)
        self.assertIn("body-too-large", json.loads(answer.body)["type"])
        self.assertEqual(self.house.site.bodies.held, 0)
        announced = self.ask(
            "POST", "a", b"x" * 50_000, content_type="text/plain", content_length="50000"
        )
        self.assertEqual(announced.status, 413)
        self.assertEqual(self.ask("GET", "a").body, b"")


class LongAnswerTests(Http2TestCase):
    """Answers that are longer than a piece."""

    BODY = b"0123456789abcde\n" * (limits.READ_PIECE // 5)

    def setUp(self) -> None:
        super().setUp()
        self.house.put("a", body=self.BODY)

    def test_whole(self) -> None:
        """Everything up to the tail, with its length, and a clean end."""
        answer = self.ask("GET", "a?offset=-1")
        self.flush()
        self.assertTrue(answer.body == self.BODY)
        self.assertTrue(answer.ended)
        self.assertEqual(answer.header["content-length"], str(len(self.BODY)))
        self.assertEqual(answer.header["stream-up-to-date"], "true")

    def test_reader_that_does_not_read(self) -> None:
        """What a window does not let through stays in the store."""
        answer = self.ask("GET", "a", credit=False)
        queued = sum(len(part) for part in self.server._channel._outboundStreamQueues[1])
        self.assertLessEqual(queued, limits.READ_PIECE)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(answer.ended and answer.body == self.BODY)

    def test_stream_deleted_midway(self) -> None:
        """The HTTP/2 stream is reset: no clean end."""
        answer = self.ask("GET", "a", credit=False)
        self.assertEqual(self.ask("DELETE", "a").status, 204)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(answer.reset)
        self.assertFalse(answer.ended)
        self.assertEqual(self.house.streams._transfers.running, set())

    def test_client_leaves(self) -> None:
        """A reset frees what was held."""
        self.ask("GET", "a", credit=False)
        self.assertEqual(len(self.house.streams._transfers.running), 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.house.streams._transfers.running, set())


class EventStreamTests(Http2TestCase):
    """Live bodies."""

    def test_follows(self) -> None:
        """Events come, the end is an end, other requests go on."""
        self.house.put("a", body=b"old")
        events = self.ask("GET", "a?offset=-1&live=sse")
        self.assertEqual(events.header["content-type"], "text/event-stream")
        self.ask("POST", "a", b"new", content_type="text/plain", stream_closed="true")
        self.assertTrue(events.ended)
        data = [event.data for event in parse_events(events.body) if event.type == "data"]
        self.assertEqual(data, ["old", "new"])

    def test_idle(self) -> None:
        """An event stream that only hears comments keeps its connection."""
        house = House(Settings(sse_reconnect_interval=600.0))
        self.begin(house)
        house.put("a")
        events = self.ask("GET", "a?offset=-1&live=sse")
        for _ in range(30):
            house.clock.advance(10)
            self.flush()
        self.assertFalse(events.ended or events.reset or self.transport.disconnecting)
        self.assertIn(b": keep-alive", events.body)

    def test_reader_that_does_not_read(self) -> None:
        """What a window does not let through stays in the store."""
        self.house.put("a", body=b"x" * 2_000_000)
        self.ask("GET", "a?offset=-1&live=sse", credit=False)
        queued = sum(len(part) for part in self.server._channel._outboundStreamQueues[1])
        self.assertLess(queued, 3 * limits.READ_PIECE)
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        text = "".join(
            event.data for event in parse_events(self.got[1].body) if event.type == "data"
        )
        self.assertEqual(text, "x" * 2_000_000)

    def test_unreadable(self) -> None:
        """Where the store fails midway the stream is reset: no clean end."""
        from durable_streams_tw.storage.memory import MemoryStore

        class Breaking(MemoryStore):
            broken = False

            def read(self, *args: Any, **kwargs: Any) -> Any:
                if self.broken:
                    raise RuntimeError("the disk is gone")
                return super().read(*args, **kwargs)

        store = Breaking(lambda: int(MORNING * 1000))
        self.begin(House(store=store))
        self.house.put("a", body=b"x" * 2_000_000)
        events = self.ask("GET", "a?offset=-1&live=sse", credit=False)
        store.broken = True
        self.wire.increment_flow_control_window(4_000_000)
        self.wire.increment_flow_control_window(4_000_000, 1)
        self.flush()
        self.assertTrue(events.reset)
        self.assertFalse(events.ended)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.house.streams._fanout.count, 0)
        store.broken = False
        self.assertEqual(self.ask("HEAD", "a").status, 200)

    def test_client_leaves(self) -> None:
        """A reset frees the reader."""
        self.house.put("a")
        self.ask("GET", "a?offset=-1&live=sse")
        self.assertEqual(self.house.streams._fanout.count, 1)
        self.wire.reset_stream(1)
        self.flush()
        self.assertEqual(self.house.streams._fanout.count, 0)

    def test_drain(self) -> None:
        """A server that stops ends its event streams, then the connection."""
        self.house.put("a")
        events = self.ask("GET", "a?offset=-1&live=sse")
        self.successResultOf(self.house.streams.release())
        drained = self.house.site.drain()
        self.flush()
        self.house.clock.advance(limits.STOP_CHECK)
        self.assertTrue(events.ended)
        self.assertTrue(self.gone_away)
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(drained)
