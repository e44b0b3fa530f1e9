"""Cases of bytes that a client may send, and the four servers that parse them.

A case has the result of the HTTP/1.1 engine: the statuses of its responses, the number of executed
requests, and whether the connection stays open. The same bytes are sent to the twisted.web site and
to h11; if one of them executes another number of requests, the case has the number and the reason.
Cases that HTTP/2 can express are also sent to an HTTP/2 connection.
"""

from __future__ import annotations

import json
from typing import Any, Final

import h11
from hpack import Decoder, Encoder
from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.streams import Decision, Respond
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.http2 import frames as frames
from durable_streams_tw.http.http2.heads import RawFields
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.resource import StreamResources
from durable_streams_tw.http.twisted_web.site import StreamSite
from durable_streams_tw.protocol.errors import Refusal
from tests.http.server_fixture import parse

#: Small limits, so that short cases exceed them.
MAX_BODY = 1_000

SETTINGS = Settings(max_body=MAX_BODY)

# Headers that concern a connection or a coding of HTTP/1.1.
_OF_HTTP11: Final = {b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"te"}


class Row(Struct, frozen=True, kw_only=True):
    """Expected result of the bytes ``data``.

    ``tree`` and ``h11`` are the numbers of requests that twisted.web and h11 execute if they differ
    from ``executed``, and ``because`` is the reason. ``open`` marks bytes that end inside of a
    request.
    """

    name: str
    data: bytes
    statuses: tuple[int, ...] = ()
    executed: int = 0
    kept: bool = False
    open: bool = False
    tree: int | None = None
    h11: int | None = None
    because: str = ""


class Recorder:
    """Request handler that records requests and executes nothing."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._policies = ResponseHeaders()

    def respond(self, request: Request) -> Deferred[Response]:
        """Record a request."""
        self.requests.append(request)
        return succeed(Response(200, []))

    def responder(self, host: str | None) -> Respond:
        """Return the same responder for all clients."""
        return self.respond

    def decide(self, host: str | None, request: Request) -> Decision:
        """Accept every body."""
        return self.respond

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Refuse a request."""
        return self._policies.refusal(refusal, origin)

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """Raise the failure: no request may fail here."""
        failure.raiseException()


class Outcome(Struct):
    """Result of some bytes. ``problems`` are the types of the problem details."""

    statuses: tuple[int, ...]
    requests: list[Request]
    kept: bool
    problems: tuple[str, ...] = ()


def site_of(recorder: Recorder, clock: Clock) -> StreamSite:
    """Return a twisted.web site."""
    handler: Any = recorder
    resource = StreamResources(handler, SETTINGS, clock, handler.refuse).resource(b"v1/stream/")
    return StreamSite(resource, handler, ResponseHeaders(), SETTINGS, clock, b"/v1/stream/")


def at_http1(pieces: list[bytes]) -> Outcome:
    """Return the result of the HTTP/1.1 engine for bytes that arrive in these pieces."""
    recorder, clock = Recorder(), Clock()
    factory = Http1Factory(recorder, site_of(recorder, clock), clock, b"/v1/stream/", SETTINGS)
    return _fed(factory, recorder, clock, pieces)


def at_twisted_web(pieces: list[bytes]) -> Outcome:
    """Return the result of the twisted.web site for bytes that arrive in these pieces."""
    recorder, clock = Recorder(), Clock()
    return _fed(site_of(recorder, clock), recorder, clock, pieces)


def _fed(factory: Any, recorder: Recorder, clock: Clock, pieces: list[bytes]) -> Outcome:
    transport = StringTransport()
    protocol = factory.buildProtocol(transport.getPeer())
    protocol.makeConnection(transport)
    for piece in pieces:
        if transport.disconnecting or transport.disconnected:
            break
        protocol.dataReceived(piece)
        # Run calls that were scheduled for the next turn.
        clock.advance(0)
    for _ in range(100):
        clock.advance(0)
    # Lingering connections have closed by then, and no other timeout has fired.
    clock.advance(limits.LINGER + 0.1)
    kept = not (transport.disconnecting or transport.disconnected)
    protocol.connectionLost(Failure(ConnectionDone()))
    methods = tuple([request.method.decode("latin-1") for request in recorder.requests])
    answers = parse(transport.value(), methods)
    statuses = tuple([answer.status for answer in answers])
    problems = tuple([json.loads(answer.body)["type"] for answer in answers if answer.body])
    return Outcome(statuses, recorder.requests, kept, problems)


def at_http2(fields: RawFields, body: bytes) -> Outcome:
    """Return the result of an HTTP/2 connection for a request with these headers."""
    recorder, clock = Recorder(), Clock()
    transport = StringTransport()
    transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
    protocol: Any = site_of(recorder, clock).buildProtocol(transport.getPeer())
    protocol.makeConnection(transport)
    block = Encoder().encode(fields)
    protocol.dataReceived(frames.PREFACE + frames.settings() + frames.headers(1, block, False))
    parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)] or [b""]
    for index, part in enumerate(parts):
        last = frames.END_STREAM if index + 1 == len(parts) else 0
        protocol.dataReceived(frames.head(len(part), frames.DATA, last, 1) + part)
    kept = not (transport.disconnecting or transport.disconnected)
    protocol.connectionLost(Failure(ConnectionDone()))
    decoder = Decoder()
    statuses: list[int] = []
    answer = b""
    received = transport.value()
    while received:
        size, kind = int.from_bytes(received[:3], "big"), received[3]
        payload = received[9 : 9 + size]
        received = received[9 + size :]
        if kind == frames.HEADERS:
            statuses.append(int(dict(decoder.decode(payload, raw=True))[b":status"]))
        elif kind == frames.DATA:
            answer += payload
    problems = (json.loads(answer)["type"],) if answer else ()
    found = tuple([status for status in statuses if status != 100])
    return Outcome(found, recorder.requests, kept, problems)


def as_http2(row: Row) -> tuple[RawFields, bytes] | None:
    """Return the headers and body of a row in HTTP/2, None if it has no equivalent."""
    head, blank, rest = row.data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if not blank or row.open or len(row.statuses) != 1 or len(words) != 3:
        return None
    method, target, version = words
    if version != b"HTTP/1.1":
        return None
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            return None
        fields.append((name.lower(), value.strip(b" \t")))
    if {name for name, _ in fields} & _OF_HTTP11:
        return None
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) == 1:
        fields = [(name, value) for name, value in fields if name != b"host"]
    if row.statuses == (200,) and not target.startswith(b"/"):
        _, _, hosts[0], target = target.split(b"/", 3)
        target = b"/" + target
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":path", target)]
    pseudo += [(b":authority", host) for host in hosts if len(hosts) == 1]
    return [*pseudo, *fields], rest


def at_h11(data: bytes) -> int:
    """Return how many requests h11 would execute."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
    if data:
        # h11 takes empty data for the end of the connection.
        connection.receive_data(data)
    count = 0
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.EndOfMessage):
                count += 1
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return count
                connection.start_next_cycle()
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return count
    except h11.RemoteProtocolError:
        return count
