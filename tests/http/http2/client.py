"""HTTP/2 clients for tests: h2 over an in-memory transport, and frames built by hand."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.http2 import frames as frames
from durable_streams_tw.http.http2.connection import Http2Connection
from durable_streams_tw.http.http2.frames import Code, Frame
from durable_streams_tw.http.settings import Settings
from tests.http.server_fixture import ROOT, ServerFixture


class ReceivedResponse:
    """Response as far as it was received."""

    def __init__(self) -> None:
        self.header: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset = False
        self.code: int | None = None
        self.informed = 0

    @property
    def status(self) -> int:
        """Return the status."""
        return int(self.header[":status"])


class ConnectionTestCase(SynchronousTestCase):
    """Test case with one HTTP/2 connection to a server."""

    fixture: Any = None
    left = False

    def connect(self, fixture: ServerFixture) -> None:
        """Connect to a fixture, replacing the previous connection."""
        self.leave()
        self.fixture = fixture
        self.left = False
        self.transport = StringTransport()
        self.transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        self.server: Any = fixture.site.buildProtocol(self.transport.getPeer())
        self.server.makeConnection(self.transport)

    def leave(self) -> None:
        """Lose the connection and check that the server holds nothing for it."""
        if self.fixture is None or self.left:
            return
        self.left = True
        self.server.connectionLost(Failure(ConnectionDone()))
        site = self.fixture.site
        self.assertEqual((len(site.http2.connections), site.bodies.held), (0, 0))
        self.assertEqual(site.http2.wheel._count, 0)
        self.assertEqual(self.fixture.streams._long_polls.count, 0)
        self.assertEqual(self.fixture.streams._broadcaster.count, 0)

    def tearDown(self) -> None:
        """Check that nothing is held and no error was logged."""
        self.leave()
        self.assertEqual(self.flushLoggedErrors(), [])

    @property
    def connection(self) -> Http2Connection:
        """Return the server's connection."""
        connection: Http2Connection = self.server._channel
        return connection


class Http2TestCase(ConnectionTestCase):
    """Test case with a conforming client."""

    def setUp(self) -> None:
        self.begin(ServerFixture())

    def begin(self, fixture: ServerFixture) -> None:
        """Connect to a server."""
        self.connect(fixture)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.wire = h2.connection.H2Connection(config)
        self.wire.initiate_connection()
        self.got: dict[int, ReceivedResponse] = {}
        self.gone_away = False
        self.flush()

    def flush(self, credit: bool = True) -> None:
        """Exchange bytes until both sides have sent all.

        Without ``credit`` the client does not open its windows for the bytes that it has received.
        """
        for _ in range(50):
            sent = self.wire.data_to_send()
            if sent:
                self.server.dataReceived(sent)
            self.fixture.clock.advance(0)
            received = self.transport.value()
            self.transport.clear()
            if not received and not sent:
                break
            for event in self.wire.receive_data(received):
                self.handle_event(event, credit)

    def handle_event(self, event: Any, credit: bool) -> None:
        """Handle one event of the client's h2 connection."""
        if isinstance(event, h2.events.ConnectionTerminated):
            self.gone_away = True
        got = self.got.get(getattr(event, "stream_id", 0))
        if got is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            got.header = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.InformationalResponseReceived):
            got.informed = int(event.headers[0][1])
        elif isinstance(event, h2.events.DataReceived):
            got.body += event.data
            if credit:
                self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            got.ended = True
        elif isinstance(event, h2.events.StreamReset):
            got.reset = True
            got.code = int(event.error_code)

    def head(
        self, method: str, target: str, path: str | None = None, **header: str
    ) -> list[tuple[str, str]]:
        """Return the headers of a request."""
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "streams.example"),
            (":path", path or ROOT + target),
        ]
        return head + [(name.lower().replace("_", "-"), value) for name, value in header.items()]

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        credit: bool = True,
        path: str | None = None,
        **header: str,
    ) -> ReceivedResponse:
        """Send a request and return its response so far."""
        stream = self.wire.get_next_available_stream_id()
        self.got[stream] = ReceivedResponse()
        head = self.head(method, target, path, **header)
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


class FramesTestCase(ConnectionTestCase):
    """Test case with a client that sends arbitrary frames."""

    settings = Settings()

    def setUp(self) -> None:
        self.begin()

    def begin(self, *values: tuple[int, int]) -> None:
        """Connect to a new fixture, with the client's settings."""
        fixture = ServerFixture(self.settings)
        fixture.put("a")
        self.decoder = hpack.Decoder()
        self.statuses: dict[int, int] = {}
        self.connect(fixture)
        self.send(frames.PREFACE, frames.settings(*values))

    def send(self, *data: bytes) -> list[Frame]:
        """Send bytes and return the received frames."""
        self.server.dataReceived(b"".join(data))
        return self.received()

    def received(self) -> list[Frame]:
        """Return the frames received since the last call."""
        for _ in range(3):
            self.fixture.clock.advance(0)
        found = []
        data = self.transport.value()
        self.transport.clear()
        while data:
            size = int.from_bytes(data[:3], "big")
            stream = int.from_bytes(data[5:9], "big")
            found.append(Frame(data[3], data[4], stream, data[9 : 9 + size]))
            data = data[9 + size :]
            if found[-1].kind == frames.HEADERS:
                fields = dict(self.decoder.decode(found[-1].payload, raw=True))
                self.statuses[stream] = int(fields[b":status"])
        return found

    def wait(self, seconds: float) -> list[Frame]:
        """Advance the clock in steps of one second; return the received frames."""
        for _ in range(int(seconds)):
            self.fixture.clock.advance(1)
        return self.received()

    def goaway_code(self, found: list[Frame]) -> Code | None:
        """Return the code of the GOAWAY frame among these, and check that the connection ends."""
        for one in found:
            if one.kind == frames.GOAWAY:
                self.assertTrue(self.transport.disconnecting or self.transport.disconnected)
                return Code(int.from_bytes(one.payload[4:8], "big"))
        return None

    def status(self, found: list[Frame], stream: int) -> int | None:
        """Return the status of a stream's response if it is among these frames, else None."""
        if any(one.kind == frames.HEADERS and one.stream == stream for one in found):
            return self.statuses[stream]
        return None


def resets(found: list[Frame]) -> dict[int, Code]:
    """Return the error codes of the reset streams by number."""
    return {
        one.stream: Code(int.from_bytes(one.payload, "big"))
        for one in found
        if one.kind == frames.RST_STREAM
    }


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    size = len(payload)
    return struct.pack(">HBBBL", size >> 8, size & 255, kind, flags, stream) + payload


def block(method: str = "GET", path: str = ROOT + "a", *fields: tuple[str, str]) -> bytes:
    """Return the field block of a request without changes to the decoder's table."""
    head = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", path)]
    return literals([(name.encode(), value.encode("latin-1")) for name, value in [*head, *fields]])


def literals(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return a field block of literals without Huffman coding."""
    return b"".join([b"\x00" + _string(name) + _string(value) for name, value in fields])


def _string(value: bytes) -> bytes:
    length = hpack.hpack.encode_integer(len(value), 7)
    return bytes(length) + value
