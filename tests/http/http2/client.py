"""Clients of HTTP/2 for tests: h2 over a transport in memory, and frames made by hand."""

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


class Got:
    """What one request has been answered."""

    def __init__(self) -> None:
        self.header: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset = False
        self.code: int | None = None
        self.informed = 0

    @property
    def status(self) -> int:
        """The status."""
        return int(self.header[":status"])


class ConnectionTestCase(SynchronousTestCase):
    """One HTTP/2 connection to a server."""

    fixture: Any = None
    left = False

    def connect(self, fixture: ServerFixture) -> None:
        """Connect to a fixture, in place of the one before."""
        self.leave()
        self.fixture = fixture
        self.left = False
        self.transport = StringTransport()
        self.transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        self.server: Any = fixture.site.buildProtocol(self.transport.getPeer())
        self.server.makeConnection(self.transport)

    def leave(self) -> None:
        """The connection ends, and all that it held is free."""
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
        """Nothing is left, and nothing was logged as a failure."""
        self.leave()
        self.assertEqual(self.flushLoggedErrors(), [])

    @property
    def connection(self) -> Http2Connection:
        """The server's side."""
        connection: Http2Connection = self.server._channel
        return connection


class Http2TestCase(ConnectionTestCase):
    """A client that keeps the rules."""

    def setUp(self) -> None:
        self.begin(ServerFixture())

    def begin(self, fixture: ServerFixture) -> None:
        """Connect to a server."""
        self.connect(fixture)
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
            self.fixture.clock.advance(0)
            received = self.transport.value()
            self.transport.clear()
            if not received and not sent:
                break
            for event in self.wire.receive_data(received):
                self.take(event, credit)

    def take(self, event: Any, credit: bool) -> None:
        """One event of the client's side."""
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
        """The fields of a request."""
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
    ) -> Got:
        """Send a request, and what has come of it so far."""
        stream = self.wire.get_next_available_stream_id()
        self.got[stream] = Got()
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
    """A client that sends frame by frame what no client would."""

    settings = Settings()

    def setUp(self) -> None:
        self.begin()

    def begin(self, *values: tuple[int, int]) -> None:
        """Connect to a fixture, with the client's settings."""
        fixture = ServerFixture(self.settings)
        fixture.put("a")
        self.decoder = hpack.Decoder()
        self.statuses: dict[int, int] = {}
        self.connect(fixture)
        self.say(frames.PREFACE, frames.settings(*values))

    def say(self, *data: bytes) -> list[Frame]:
        """Send bytes; return the frames that come back."""
        self.server.dataReceived(b"".join(data))
        return self.heard()

    def heard(self) -> list[Frame]:
        """The frames that have come since the last ones were taken."""
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
        """Let time pass, second by second; return the frames that come back."""
        for _ in range(int(seconds)):
            self.fixture.clock.advance(1)
        return self.heard()

    def ended(self, found: list[Frame]) -> Code | None:
        """The code of the GOAWAY frame among these, after which the connection ends."""
        for one in found:
            if one.kind == frames.GOAWAY:
                self.assertTrue(self.transport.disconnecting or self.transport.disconnected)
                return Code(int.from_bytes(one.payload[4:8], "big"))
        return None

    def status(self, found: list[Frame], stream: int) -> int | None:
        """The status of a stream's answer, if it is among these frames."""
        if any(one.kind == frames.HEADERS and one.stream == stream for one in found):
            return self.statuses[stream]
        return None


def resets(found: list[Frame]) -> dict[int, Code]:
    """The streams that are reset by these frames."""
    return {
        one.stream: Code(int.from_bytes(one.payload, "big"))
        for one in found
        if one.kind == frames.RST_STREAM
    }


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return struct.pack(">HBBBL", size >> 8, size & 255, kind, flags, stream) + payload


def block(method: str = "GET", path: str = ROOT + "a", *fields: tuple[str, str]) -> bytes:
    """The field block of a request, which leaves the decoder's table as it is."""
    head = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", path)]
    return literals([(name.encode(), value.encode("latin-1")) for name, value in [*head, *fields]])


def literals(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A field block in which every field is written as it is."""
    return b"".join([b"\x00" + _string(name) + _string(value) for name, value in fields])


def _string(value: bytes) -> bytes:
    length = hpack.hpack.encode_integer(len(value), 7)
    return bytes(length) + value
