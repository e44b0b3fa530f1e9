"""Tests of `durable_streams_tw.http.http1.streaming`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from durable_streams_tw.http import limits
from durable_streams_tw.http.messages import Response
from durable_streams_tw.live.body_output import BodySink
from tests.http.http1.connection_case import FactoryClient, Http1TestCase, ok
from tests.http.malformed.builders import HOST, get

OLD = b"GET /v1/stream/s HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n"


@implementer(IPushProducer)
class Follower:
    """Producer that records its calls."""

    def __init__(self, sink: BodySink) -> None:
        self.sink = sink
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        """Record a pause."""
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        """Record a resume."""
        self.calls.append("resume")

    def stopProducing(self) -> None:
        """Record a stop."""
        self.calls.append("stop")


class LiveTestCase(Http1TestCase):
    """Handler that responds with a streamed body."""

    def setUp(self) -> None:
        Http1TestCase.setUp(self)
        self.followers: list[Follower] = []
        self.begin: Callable[[BodySink], object] = lambda sink: None
        self.handler.at_once = Response(200, [(b"X", b"y")], self.follow)

    def follow(self, sink: BodySink) -> Any:
        """Start a producer."""
        follower = Follower(sink)
        self.followers.append(follower)
        self.begin(sink)
        return follower

    def listen(self, request: bytes | None = None) -> tuple[FactoryClient, Follower]:
        """Open a connection with a streamed response."""
        client = self.connect()
        client.send(request or get())
        return client, self.followers[-1]


class BodyTests(LiveTestCase):
    """Bytes of streamed bodies."""

    def test_chunks(self) -> None:
        """Each write is a chunk after a head with Transfer-Encoding."""
        client, follower = self.listen()
        head = client.transport.value()
        self.assertTrue(head.endswith(b"\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"), head)
        follower.sink.write(b"hello")
        follower.sink.write(b"x" * 20)
        expected = b"5\r\nhello\r\n14\r\n" + b"x" * 20 + b"\r\n"
        self.assertEqual(client.transport.value(), head + expected)
        follower.sink.finish()
        self.assertEqual(client.transport.value(), head + expected + b"0\r\n\r\n")
        self.assertFalse(client.transport.disconnecting)

    def test_no_bytes(self) -> None:
        """An empty write sends no chunk, since that would end the body."""
        client, follower = self.listen()
        size = len(client.transport.value())
        follower.sink.write(b"")
        self.assertEqual(len(client.transport.value()), size)

    def test_next_request(self) -> None:
        """After the end the connection stays open and queued requests are executed."""
        client, follower = self.listen(get() + get())
        follower.sink.write(b"a")
        self.assertEqual(len(self.followers), 1)
        self.handler.at_once = ok(b"next")
        follower.sink.finish()
        client.send(get())
        self.assertEqual(client.bodies(), [b"a", b"next", b"next"])

    def test_invalid_header(self) -> None:
        """A streamed response whose header has a line break becomes a 500, and does not start."""
        self.handler.at_once = Response(200, [(b"X", b"a\r\nb")], self.follow)
        client = self.connect()
        client.send(get())
        self.handler.at_once = ok(b"fine")
        client.send(get())
        self.assertEqual(client.statuses(), [500, 200])
        self.assertEqual(self.followers, [])

    def test_last(self) -> None:
        """A connection that must close does so after the last chunk."""
        client, follower = self.listen(get(b"Connection: close"))
        follower.sink.write(b"a")
        follower.sink.finish()
        (answer,) = client.answers()
        self.assertEqual((answer.body, answer.complete), (b"a", True))
        self.assertEqual(answer.header["connection"], "close")
        self.assertTrue(client.transport.disconnecting)

    def test_old(self) -> None:
        """HTTP/1.0 gets plain bytes, and the body ends with the connection."""
        client, follower = self.listen(OLD)
        follower.sink.write(b"hello")
        (answer,) = client.answers()
        self.assertEqual(answer.header["connection"], "close")
        self.assertNotIn("transfer-encoding", answer.header)
        self.assertEqual(answer.body, b"hello")
        self.assertFalse(client.transport.disconnecting)
        follower.sink.finish()
        self.assertEqual(client.bodies(), [b"hello"])
        self.assertTrue(client.transport.disconnecting)

    def test_cut(self) -> None:
        """An aborted body resets the connection and is not ended."""
        client, follower = self.listen()
        follower.sink.write(b"a")
        follower.sink.abort()
        self.assertTrue(client.transport.disconnected)
        self.assertFalse(client.answers()[0].complete)

    def test_calls_after_the_end(self) -> None:
        """A finished body ignores further calls."""
        for end in ("finish", "abort"):
            client, follower = self.listen()
            getattr(follower.sink, end)()
            size = len(client.transport.value())
            follower.sink.write(b"late")
            follower.sink.finish()
            follower.sink.abort()
            self.assertEqual(len(client.transport.value()), size)
            client.leave()
            self.assertEqual(follower.calls, [])

    def test_at_once(self) -> None:
        """A producer may write and finish while it starts."""

        def begin(sink: BodySink) -> None:
            sink.write(b"all of it")
            sink.finish()

        self.begin = begin
        client = self.connect()
        client.send(get() * 3)
        self.assertEqual(client.bodies(), [b"all of it"] * 3)
        self.assertTrue(all(answer.complete for answer in client.answers()))
        self.assertLessEqual(len(client.transport.writes), 4)

    def test_one_frame_for_all(self) -> None:
        """Bytes of several connections are encoded as a chunk once."""
        listeners = [self.listen() for _ in range(3)]
        event = b"data: x\n\n"
        for _, follower in listeners:
            follower.sink.write(event)
        frames = {id(client.transport.writes[-1]) for client, _ in listeners}
        self.assertEqual(len(frames), 1)
        for _, follower in listeners:
            follower.sink.write(b"data: y\n\n")
        self.assertEqual(
            {client.transport.writes[-1] for client, _ in listeners}, {b"9\r\ndata: y\n\n\r\n"}
        )


class PressureTests(LiveTestCase):
    """Clients that do not read or that disconnect."""

    def test_pauses(self) -> None:
        """Pauses of the transport reach the producer."""
        client, follower = self.listen()
        client.is_full()
        client.is_empty()
        client.is_full()
        self.assertEqual(follower.calls, ["pause", "resume", "pause"])
        self.assertTrue(client.transport.paused)

    def test_full_while_it_begins(self) -> None:
        """A pause before there is a producer reaches it when it starts."""
        client = self.connect()
        self.begin = lambda sink: client.is_full()
        client.send(get())
        (follower,) = self.followers
        self.assertEqual(follower.calls, ["pause"])
        client.is_empty()
        self.assertEqual(follower.calls, ["pause", "resume"])

    def test_disconnect(self) -> None:
        """A disconnect stops the producer once."""
        client, follower = self.listen()
        client.leave()
        self.assertEqual(follower.calls, ["stop"])

    def test_half_closed(self) -> None:
        """A half-closed client of a live response is disconnected."""
        client, follower = self.listen()
        client.protocol.readConnectionLost()
        self.assertTrue(client.transport.disconnected)
        client.leave()
        self.assertEqual(follower.calls, ["stop"])

    def test_patience(self) -> None:
        """A live body may be silent without a limit, a client that does not read may not."""
        client, follower = self.listen()
        self.wait(10_000)
        self.assertFalse(client.transport.disconnected)
        client.is_full()
        self.wait(limits.SEND_TIMEOUT + 1)
        self.assertTrue(client.transport.disconnected)
        client.leave()
        self.assertEqual(follower.calls, ["pause", "stop"])

    def test_more_requests(self) -> None:
        """Requests during a live response are queued up to a limit."""
        client, follower = self.listen()
        client.send(get() * limits.MAX_PIPELINE)
        self.assertFalse(client.transport.paused)
        client.send(get())
        self.assertTrue(client.transport.paused)
        self.handler.at_once = ok()
        follower.sink.finish()
        self.clock.advance(0)
        self.assertFalse(client.transport.paused)
        self.assertEqual(len(client.answers()), 2 + limits.MAX_PIPELINE)
