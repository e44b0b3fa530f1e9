"""Limits and timeouts of HTTP/2 connections."""

from __future__ import annotations

import struct
from typing import Any

from durable_streams_tw.http import limits
from durable_streams_tw.http.http2 import frames as frames
from durable_streams_tw.http.http2.frames import Code
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.live.limits import READ_PIECE
from tests.http.http2.client import FramesTestCase, block, frame, resets
from tests.http.server_fixture import ROOT

HEADERS, DATA, CONTINUATION = frames.HEADERS, frames.DATA, frames.CONTINUATION
WHOLE = frames.END_HEADERS | frames.END_STREAM
OPEN = frames.END_HEADERS

POST = block("POST", ROOT + "a", ("content-type", "text/plain"))
LONG_POLL = block("GET", ROOT + "a?offset=now&live=long-poll")


def window(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frames.window_update(stream, increment)


class TimeoutTests(FramesTestCase):
    """Timeouts."""

    def test_idle(self) -> None:
        """A connection without requests times out, with or without pings."""
        for _ in range(58):
            self.assertIsNone(self.goaway_code(self.wait(1)))
            self.send(frame(frames.PING, 0, 0, bytes(8)))
        self.assertEqual(self.goaway_code(self.wait(3)), Code.NO_ERROR)

    def test_waiting(self) -> None:
        """A connection with a pending request is not idle."""
        self.send(frame(HEADERS, WHOLE, 1, LONG_POLL))
        found = self.wait(29) + self.wait(3)
        self.assertEqual(self.status(found, 1), 204)
        self.assertIsNone(self.goaway_code(self.wait(50)))
        self.assertEqual(self.goaway_code(self.wait(15)), Code.NO_ERROR)

    def test_no_preface(self) -> None:
        """A client without a complete preface has the time of a head."""
        for said in (b"", frames.PREFACE[:10], frames.PREFACE, frames.PREFACE + b"\0\0"):
            self.connect(self.fixture)
            self.server.dataReceived(b"P")
            self.server.dataReceived(said[1:])
            self.assertIsNone(self.goaway_code(self.wait(9)))
            self.assertEqual(self.goaway_code(self.wait(3)), Code.NO_ERROR, said)

    def test_half_a_head(self) -> None:
        """An incomplete head ends the connection, even if bytes keep arriving."""
        for start in (
            frame(HEADERS, 0, 1, POST),
            frame(HEADERS, WHOLE, 1, POST)[:-1],
            frame(frames.PING, 0, 0, bytes(8))[:5],
        ):
            self.begin()
            self.send(start)
            self.assertIsNone(self.goaway_code(self.wait(8)))
            self.assertEqual(self.goaway_code(self.wait(4)), Code.NO_ERROR)

    def test_half_a_body(self) -> None:
        """A pausing body is refused; the connection and other requests go on."""
        self.send(frame(HEADERS, OPEN, 1, POST), frame(DATA, 0, 1, b"some"))
        self.assertEqual(self.fixture.site.bodies.held, 4)
        self.assertEqual(resets(self.wait(limits.BODY_TIMEOUT - 2)), {})
        found = self.wait(4)
        self.assertEqual((self.status(found, 1), resets(found)), (408, {1: Code.NO_ERROR}))
        self.assertEqual(self.fixture.site.bodies.held, 0)
        found = self.send(frame(DATA, 0, 1, b"late"), frame(HEADERS, WHOLE, 3, block()))
        self.assertEqual(self.status(found, 3), 200)

    def test_slow_body(self) -> None:
        """A body may pause several times, between its frames or within one."""
        self.send(frame(HEADERS, OPEN, 1, POST))
        for _ in range(3):
            data = frame(DATA, 0, 1, b"x" * 300)
            self.send(data[:20])
            self.assertEqual(self.wait(limits.BODY_TIMEOUT - 20), [])
            self.send(data[20:])
            self.assertEqual(self.wait(limits.BODY_TIMEOUT - 20), [])
        self.assertEqual(self.status(self.send(frame(DATA, 1, 1)), 1), 204)

    def test_unread(self) -> None:
        """A response that the client does not read is reset, and its bytes freed."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 0))
        self.fixture.post("a", b"x" * 100_000)
        self.send(frame(HEADERS, WHOLE, 1, block()))
        self.assertEqual(self.connection._unsent, 100_000)
        self.assertEqual(resets(self.wait(limits.SEND_TIMEOUT - 2)), {})
        self.assertEqual(resets(self.wait(4)), {1: Code.CANCEL})
        self.assertEqual(self.connection._unsent, 0)

    def test_full_transport(self) -> None:
        """A client that reads nothing is reset, and not read from until then."""
        producer: Any = self.transport.producer
        self.send(frame(HEADERS, WHOLE, 1, LONG_POLL))
        producer.pauseProducing()
        self.assertEqual(self.transport.producerState, "paused")
        self.wait(limits.SEND_TIMEOUT - 2)
        self.assertFalse(self.transport.disconnected)
        self.wait(4)
        self.assertTrue(self.transport.disconnected)

    def test_never_closes(self) -> None:
        """A client that does not close is reset."""
        self.assertEqual(self.goaway_code(self.send(frame(DATA, 0, 0, b"x"))), Code.PROTOCOL_ERROR)
        # Further bytes of the client are not read.
        self.assertEqual(self.transport.producerState, "paused")
        self.assertFalse(self.transport.disconnected)
        self.send(frame(HEADERS, WHOLE, 1, block()))
        self.wait(limits.LINGER + 2)
        self.assertTrue(self.transport.disconnected)


class MemoryTests(FramesTestCase):
    """Memory that silent clients can hold."""

    settings = Settings(max_chunk=200_000)

    def test_shut_windows(self) -> None:
        """A hundred responses that cannot be sent are not all made."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 0))
        self.fixture.post("a", b"x" * 200_000)
        requests = [frame(HEADERS, WHOLE, 2 * n + 1, block()) for n in range(100)]
        found = self.send(*requests)
        self.assertLess(self.connection._unsent, limits.MAX_UNSENT + 200_000)
        begun = sum(one.kind == HEADERS for one in found)
        self.assertLess(begun, 25)
        # When bytes are acknowledged, the other requests get their responses in order.
        answered = begun
        for number in range(1, 201, 2):
            found = self.send(window(number, 300_000), window(0, 300_000))
            answered += sum(one.kind == HEADERS for one in found)
        self.assertEqual((answered, len(self.connection.streams)), (100, 0))

    def test_writes_do_not_wait(self) -> None:
        """Requests with small responses do not wait for a stalled reader."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 0))
        self.fixture.post("a", b"x" * 200_000)
        self.send(*[frame(HEADERS, WHOLE, 2 * n + 1, block()) for n in range(50)])
        found = self.send(frame(HEADERS, OPEN, 101, POST), frame(DATA, 1, 101, b"more"))
        self.assertEqual(self.status(found, 101), 204)

    def test_streams(self) -> None:
        """Requests above MAX_CONCURRENT_STREAMS are refused."""
        requests = [frame(HEADERS, WHOLE, 2 * n + 1, LONG_POLL) for n in range(102)]
        self.assertEqual(
            resets(self.send(*requests)), {201: Code.REFUSED_STREAM, 203: Code.REFUSED_STREAM}
        )
        self.assertEqual(self.fixture.streams._long_polls.count, limits.MAX_STREAMS)

    def test_bodies(self) -> None:
        """Bodies of all connections share a limit, and are freed with their connection."""
        self.fixture.site.bodies.limit = 10_000
        self.send(frame(HEADERS, OPEN, 1, POST), frame(DATA, 0, 1, b"x" * 9_000))
        found = self.send(frame(HEADERS, OPEN, 3, POST), frame(DATA, 0, 3, b"x" * 9_000))
        self.assertEqual(self.status(found, 3), 503)
        self.assertEqual(self.fixture.site.bodies.held, 9_000)

    def test_window_of_the_server(self) -> None:
        """A client that exceeds a window is stopped."""
        data = [frame(DATA, 0, 1, bytes(frames.MAX_FRAME)) for _ in range(40)]
        self.send(frame(HEADERS, OPEN, 1, POST))
        # A long body passes if the client may refill its windows.
        found = self.send(*data) + self.send(*data) + self.send(*data)
        self.assertEqual(self.goaway_code(found), None)
        self.assertGreater(sum(one.kind == frames.WINDOW_UPDATE for one in found), 4)

    def test_slow_events(self) -> None:
        """A live reader with an exhausted window is paused: its bytes stay in the store."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 100))
        self.send(frame(HEADERS, WHOLE, 1, block("GET", ROOT + "a?offset=now&live=sse")))
        for _ in range(50):
            self.fixture.post("a", b"x" * 50_000)
            self.received()
        self.assertLess(self.connection._unsent, 3 * READ_PIECE)


class FloodTests(FramesTestCase):
    """Limits on frames that cost the server more than the client."""

    def flood(self, one: bytes, count: int) -> Code | None:
        """Send a frame ``count`` times; return the error code if the server ends the connection."""
        found = []
        for _ in range(0, count, 100):
            found += self.send(one * 100)
            if self.transport.disconnecting:
                break
        return self.goaway_code(found)

    def test_idle_frames(self) -> None:
        """Frames without effect, of every kind."""
        for one in (
            frame(frames.PING, 0, 0, bytes(8)),
            frame(frames.PING, 1, 0, bytes(8)),
            frame(frames.SETTINGS, 0, 0),
            frame(frames.SETTINGS, 0, 0, b"\0\x04\0\0\0\x01"),
            frame(frames.SETTINGS, 1, 0),
            frame(frames.PRIORITY, 0, 1, b"\0\0\0\x05\x10"),
            frame(0x10, 0, 0, b"whatever"),
            frame(frames.GOAWAY, 0, 0, bytes(8)),
        ):
            self.begin()
            self.assertIsNone(self.flood(one, 900))
            self.assertEqual(self.flood(one, 300), Code.ENHANCE_YOUR_CALM)

    def test_empty_data(self) -> None:
        """Empty DATA frames, padded or not."""
        for one in (frame(DATA, 0, 1), frame(DATA, frames.PADDED, 1, b"\xff" + bytes(255))):
            self.begin()
            self.send(frame(HEADERS, OPEN, 1, POST))
            self.assertIsNone(self.flood(one, 900))
            self.assertEqual(self.flood(one, 300), Code.ENHANCE_YOUR_CALM)
            self.assertEqual(self.fixture.site.bodies.held, 0)

    def test_rapid_reset(self) -> None:
        """Requests that are reset at once (CVE-2023-44487)."""
        cancel = struct.pack(">L", Code.CANCEL)
        last = 0
        for number in range(1, 4_001, 2):
            found = self.send(
                frame(HEADERS, WHOLE, number, LONG_POLL),
                frame(frames.RST_STREAM, 0, number, cancel),
            )
            last = number
            if self.transport.disconnecting:
                break
        self.assertEqual(self.goaway_code(found), Code.ENHANCE_YOUR_CALM)
        self.assertEqual(last, 2 * limits.RESET_BURST + 1)
        self.assertEqual(self.connection.streams, {})

    def test_resets_at_leisure(self) -> None:
        """Occasional resets are never limited."""
        cancel = struct.pack(">L", Code.CANCEL)
        for number in range(1, 6_001, 2):
            self.send(
                frame(HEADERS, WHOLE, number, LONG_POLL),
                frame(frames.RST_STREAM, 0, number, cancel),
            )
            if not number % 25:
                self.wait(1)
        self.assertFalse(self.transport.disconnecting)

    def test_refused_streams(self) -> None:
        """Requests above the number that was offered."""
        self.send(*[frame(HEADERS, WHOLE, 2 * n + 1, LONG_POLL) for n in range(100)])
        found = []
        for number in range(201, 2_401, 2):
            found += self.send(frame(HEADERS, WHOLE, number, LONG_POLL))
            if self.transport.disconnecting:
                break
        self.assertEqual(self.goaway_code(found), Code.ENHANCE_YOUR_CALM)

    def test_malformed_requests(self) -> None:
        """Requests that are stream errors."""
        found = []
        for number in range(1, 2_401, 2):
            found += self.send(frame(HEADERS, WHOLE, number, block("GET", "x")))
            if self.transport.disconnecting:
                break
        self.assertEqual(self.goaway_code(found), Code.ENHANCE_YOUR_CALM)

    def test_continuations(self) -> None:
        """Field blocks without an end, in large pieces, small ones or none."""
        for piece in (bytes(frames.MAX_FRAME), b"x", b""):
            self.begin()
            found = self.send(frame(HEADERS, 0, 1, block()), frame(CONTINUATION, 0, 1, piece) * 50)
            self.assertEqual(self.goaway_code(found), Code.ENHANCE_YOUR_CALM)

    def test_windows_byte_by_byte(self) -> None:
        """Responses cannot be requested byte by byte."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 0))
        self.fixture.post("a", b"x" * 100_000)
        self.send(frame(HEADERS, WHOLE, 1, block()))
        found = []
        for _ in range(2_000):
            found += self.send(window(1, 1))
            if self.transport.disconnecting:
                break
        self.assertEqual(self.goaway_code(found), Code.ENHANCE_YOUR_CALM)
        self.assertLess(sum(one.kind == DATA for one in found), 1_100)

    def test_slow_windows(self) -> None:
        """A response that progresses too slowly is reset."""
        self.begin((frames.INITIAL_WINDOW_SIZE, 0))
        self.fixture.post("a", b"x" * 100_000)
        self.send(frame(HEADERS, WHOLE, 1, block()))
        found = []
        for _ in range(125):
            found += self.send(window(1, 20)) + self.wait(1)
        self.assertEqual(resets(found), {1: Code.CANCEL})

    def test_small_answers(self) -> None:
        """A client that opens its windows by the bytes it has read stays connected."""
        self.send(frame(HEADERS, WHOLE, 1, block("GET", ROOT + "a?offset=now&live=sse")))
        for _ in range(1_500):
            self.fixture.post("a", b"x")
            size = sum(len(one.payload) for one in self.received() if one.kind == DATA)
            self.send(window(1, size), window(0, size))
        self.assertFalse(self.transport.disconnecting)

    def test_turns(self) -> None:
        """One connection's frames do not use up a turn of the reactor."""
        requests = [frame(HEADERS, WHOLE, 2 * n + 1, block("HEAD")) for n in range(600)]
        self.server.dataReceived(b"".join(requests))
        begun = -(-limits.FRAMES_PER_TURN // limits.REQUEST_COST)
        self.assertEqual(self.connection._last, 2 * begun - 1)
        self.assertEqual(self.transport.producerState, "paused")
        found = self.received()
        self.assertEqual(self.connection._last, 1_199)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(sum(one.kind == HEADERS for one in found), 600)


class ErrorTests(FramesTestCase):
    """Violations of the protocol."""

    def test_connection_errors(self) -> None:
        """Violations that end the connection, without a traceback."""
        opened = frame(HEADERS, OPEN, 1, POST)
        for code, data in (
            (Code.PROTOCOL_ERROR, frame(HEADERS, WHOLE, 2, block())),
            (Code.PROTOCOL_ERROR, frame(HEADERS, WHOLE, 0, block())),
            (Code.PROTOCOL_ERROR, frame(DATA, 0, 1, b"x")),
            (Code.PROTOCOL_ERROR, frame(frames.RST_STREAM, 0, 1, bytes(4))),
            (Code.PROTOCOL_ERROR, window(1, 1)),
            (Code.PROTOCOL_ERROR, window(0, 0)),
            (Code.PROTOCOL_ERROR, frame(CONTINUATION, 0, 1, b"")),
            (Code.PROTOCOL_ERROR, frame(frames.PUSH_PROMISE, 4, 1, bytes(4))),
            (Code.PROTOCOL_ERROR, frame(frames.PING, 0, 1, bytes(8))),
            (Code.PROTOCOL_ERROR, frame(frames.SETTINGS, 0, 1)),
            (Code.PROTOCOL_ERROR, frame(frames.PRIORITY, 0, 0, bytes(5))),
            (Code.PROTOCOL_ERROR, frame(frames.GOAWAY, 0, 1, bytes(8))),
            (Code.PROTOCOL_ERROR, frame(HEADERS, 0, 1, POST) + frame(DATA, 0, 1)),
            (Code.PROTOCOL_ERROR, frame(HEADERS, 0, 1, POST) + frame(CONTINUATION, 4, 3)),
            (Code.FRAME_SIZE_ERROR, frame(frames.PING, 0, 0, bytes(7))),
            (Code.FRAME_SIZE_ERROR, frame(frames.PRIORITY, 0, 1, bytes(4))),
            (Code.FRAME_SIZE_ERROR, frame(frames.WINDOW_UPDATE, 0, 0, bytes(3))),
            (Code.FRAME_SIZE_ERROR, frame(frames.SETTINGS, 1, 0, bytes(6))),
            (Code.FLOW_CONTROL_ERROR, window(0, 2**31 - 1)),
            (Code.COMPRESSION_ERROR, frame(HEADERS, WHOLE, 1, b"\xff\xff\xff\xff\xff")),
            (Code.STREAM_CLOSED, frame(HEADERS, WHOLE, 1, block()) * 2),
            (Code.ENHANCE_YOUR_CALM, frame(frames.SETTINGS, 0, 0, b"\0\x09\0\0\0\0" * 100)),
            (
                Code.FLOW_CONTROL_ERROR,
                opened + window(1, 2**31 - 65_536) + frames.settings((4, 2**31 - 1)),
            ),
        ):
            self.begin()
            self.assertEqual(self.goaway_code(self.send(data)), code, data)

    def test_stream_errors(self) -> None:
        """Violations that end their stream alone."""
        opened = frame(HEADERS, OPEN, 1, POST)
        waiting = frame(HEADERS, WHOLE, 1, LONG_POLL)
        for code, data in (
            (Code.PROTOCOL_ERROR, opened + window(1, 0)),
            (Code.FLOW_CONTROL_ERROR, opened + window(1, 2**31 - 1)),
            (Code.STREAM_CLOSED, waiting + frame(DATA, 0, 1, b"x")),
            (Code.STREAM_CLOSED, waiting + frame(HEADERS, WHOLE, 1, block())),
            (Code.PROTOCOL_ERROR, opened + frame(HEADERS, OPEN, 1, b"")),
            (Code.PROTOCOL_ERROR, opened + frame(HEADERS, WHOLE, 1, block())),
        ):
            self.begin()
            self.assertEqual(resets(self.send(data)).get(1), code, data)
            self.assertEqual(self.status(self.send(frame(HEADERS, WHOLE, 3, block())), 3), 200)

    def test_connect(self) -> None:
        """CONNECT is refused like other malformed requests."""
        connect = b"\x02\x07CONNECT\x01\x03a:1"
        for number, flags in ((1, WHOLE), (3, OPEN)):
            found = self.send(frame(HEADERS, flags, number, connect))
            self.assertEqual(self.status(found, number), 400)
            self.assertEqual(resets(found)[number], Code.PROTOCOL_ERROR)

    def test_trailers(self) -> None:
        """Trailers end a body and are ignored."""
        found = self.send(
            frame(HEADERS, OPEN, 1, POST),
            frame(DATA, 0, 1, b"x"),
            frame(HEADERS, WHOLE, 1, b"\x00\x01x\x01y"),
        )
        self.assertEqual(self.status(found, 1), 204)

    def test_priorities(self) -> None:
        """Priorities are ignored."""
        found = self.send(
            frame(frames.PRIORITY, 0, 1, b"\0\0\0\x05\x10"),
            frame(frames.PRIORITY, 0, 99, b"\0\0\0\x05\x10"),
            frame(HEADERS, WHOLE | frames.WITH_PRIORITY, 1, b"\0\0\0\0\x10" + block()),
        )
        self.assertEqual(self.status(found, 1), 200)

    def test_settings_are_obeyed(self) -> None:
        """A window that a setting made negative has to be opened above zero."""
        self.fixture.post("a", b"x" * 100_000)
        found = self.send(frame(HEADERS, WHOLE, 1, block()))
        self.assertEqual(sum(len(one.payload) for one in found if one.kind == DATA), 65_535)
        self.send(window(0, 1_000_000), frames.settings((4, 0), (5, 20_000)))
        self.assertEqual(self.send(window(1, 65_535))[0:], [])
        found = self.send(window(1, 30_000))
        self.assertEqual([len(one.payload) for one in found], [20_000, 10_000])

    def test_drain(self) -> None:
        """A server that stops completes running requests and refuses others."""
        self.send(frame(HEADERS, WHOLE, 1, LONG_POLL))
        drained = self.fixture.site.drain()
        found = self.received()
        self.assertEqual([one.kind for one in found], [frames.GOAWAY])
        self.assertFalse(self.transport.disconnecting)
        found = self.send(frame(HEADERS, WHOLE, 3, block()))
        self.assertEqual(resets(found), {3: Code.REFUSED_STREAM})
        self.fixture.post("a", b"news")
        self.assertEqual(self.status(self.received(), 1), 200)
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(drained)
        self.leave()
        self.fixture.clock.advance(1)
        self.successResultOf(drained)
