"""Rows of bytes that a client may send, and the three that judge them.

A row says what the fast channel does with its bytes: the statuses that it answers, how many
requests it carries out, and whether the connection is kept. The same bytes are shown to the
twisted.web door and to h11; where one of them carries out another number of requests, the row
says which and why.
"""

from __future__ import annotations

from typing import Any

import h11
from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from durable_streams_tw.protocol import limits
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.server.channel_door import FastDoor
from durable_streams_tw.server.messages import Request, Response
from durable_streams_tw.server.policies import Policies
from durable_streams_tw.server.settings import Settings
from durable_streams_tw.server.site import StreamSite
from durable_streams_tw.server.streams import Decision, Respond
from durable_streams_tw.server.tree import StreamTree
from tests.server.house import parse

#: Small, so that rows which go beyond it are.
MAX_BODY = 1_000

SETTINGS = Settings(max_body=MAX_BODY)


class Row(Struct, frozen=True, kw_only=True):
    """What the bytes ``data`` lead to.

    ``tree`` and ``h11`` are how many requests these carry out where that is another number
    than ``executed``, and ``because`` says why. ``open`` marks bytes that end within a
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
    """Operations that carry nothing out but remember what they were asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._policies = Policies()

    def respond(self, request: Request) -> Deferred[Response]:
        """Remember a request."""
        self.requests.append(request)
        return succeed(Response(200, []))

    def serving(self, host: str | None) -> Respond:
        """Answer everybody alike."""
        return self.respond

    def decide(self, host: str | None, request: Request) -> Decision:
        """Let every body come."""
        return self.respond

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Say no."""
        return self._policies.refusal(refusal, origin)

    def failure(self, failure: Failure, origin: bytes | None) -> Response:
        """Nothing here may fail."""
        failure.raiseException()


class Outcome(Struct):
    """What came of some bytes."""

    statuses: tuple[int, ...]
    requests: list[Request]
    kept: bool


def site_of(recorder: Recorder, clock: Clock) -> StreamSite:
    """The twisted.web door."""
    operations: Any = recorder
    resource = StreamTree(operations, SETTINGS, clock).resource(b"v1/stream/")
    return StreamSite(resource, operations, Policies(), SETTINGS, clock, b"/v1/stream/")


def at_fast_channel(pieces: list[bytes]) -> Outcome:
    """What the fast channel makes of bytes that come in these pieces."""
    recorder, clock = Recorder(), Clock()
    door = FastDoor(recorder, site_of(recorder, clock), clock, b"/v1/stream/", SETTINGS)
    return _fed(door, recorder, clock, pieces)


def at_tree(pieces: list[bytes]) -> Outcome:
    """What the twisted.web door makes of them."""
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
        # Whatever asked for another turn of the reactor gets it.
        clock.advance(0)
    for _ in range(100):
        clock.advance(0)
    # Who lingers has gone by then, and nobody else has lost patience.
    clock.advance(limits.LINGER + 0.1)
    kept = not (transport.disconnecting or transport.disconnected)
    protocol.connectionLost(Failure(ConnectionDone()))
    methods = tuple([request.method.decode("latin-1") for request in recorder.requests])
    statuses = tuple([answer.status for answer in parse(transport.value(), methods)])
    return Outcome(statuses, recorder.requests, kept)


def at_h11(data: bytes) -> int:
    """How many requests h11 would carry out."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
    if data:
        # No data would be the end of the connection.
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
