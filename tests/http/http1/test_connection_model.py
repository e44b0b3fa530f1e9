"""Model test of HTTP/1.1 connections: any order of packets, responses and full transports."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed

from durable_streams_tw.http.http1.connection import BLOCKED, IDLE
from durable_streams_tw.http.messages import Request, Response
from tests.http.http1.connection_case import FactoryClient, Http1TestCase, ok


@dataclass
class Events:
    """Requests of one connection, as packets, and what happens between the packets.

    ``immediate`` says of each request whether it is answered at once.
    """

    bodies: list[bytes]
    packets: list[bytes]
    actions: list[list[str]]
    immediate: list[bool] = field(default_factory=list)


def encode(body: bytes, chunked: bool) -> bytes:
    """Return an append with a body."""
    head = b"POST /v1/stream/s HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@st.composite
def events(draw: st.DrawFn) -> Events:
    """Draw requests, their packets, and actions between the packets."""
    count = draw(st.integers(1, 6))
    bodies = [b"%d" % number * draw(st.integers(1, 40)) for number in range(count)]
    requests = [encode(body, draw(st.integers(0, 5)) == 0) for body in bodies]
    data = b"".join(requests)
    # Most clients send a request in one packet, so most cuts are between requests.
    ends = [sum(map(len, requests[: number + 1])) for number in range(count)]
    cuts = {end for end in ends if draw(st.booleans())}
    cuts |= set(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    places = sorted({0, *cuts, len(data)})
    packets = [data[one:other] for one, other in pairwise(places)]
    action = st.sampled_from(["respond", "fill", "fill next", "drain", "turn"])
    actions = [draw(st.lists(action, max_size=4)) for _ in packets]
    immediate = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return Events(bodies, packets, actions, immediate)


class ConnectionModelTests(Http1TestCase):
    """Responses echo the bodies of their requests."""

    def setUp(self) -> None:
        """Make the handler echo."""
        Http1TestCase.setUp(self)
        self.waiting: list[tuple[Deferred[Response], bytes]] = []
        self.immediate: list[bool] = []
        # Whether the transport is full, and whether the next write fills it.
        self.full = self.filling = False
        self.handler.respond = self._echo  # type: ignore[method-assign]

    def _echo(self, request: Request) -> Deferred[Response]:
        if self.immediate.pop(0):
            return succeed(ok(request.body))
        pending: Deferred[Response] = Deferred()
        self.waiting.append((pending, request.body))
        return pending

    def _connect(self) -> FactoryClient:
        caller = self.connect()
        transport: Any = caller.transport
        write = transport.write

        def fill(data: bytes) -> None:
            write(data)
            if self.filling:
                self._act(caller, "fill")

        transport.write = fill
        return caller

    def _act(self, caller: FactoryClient, action: str) -> None:
        if action == "respond" and self.waiting:
            pending, body = self.waiting.pop(0)
            pending.callback(ok(body))
        elif action == "turn":
            self.clock.advance(0)
        elif action == "fill next":
            self.filling = True
        elif action == "fill" and not self.full:
            self.filling = False
            self.full = True
            caller.is_full()
        elif action == "drain" and self.full:
            self.full = False
            caller.is_empty()

    @given(events())
    def test_any_order(self, drawn: Events) -> None:
        """All requests are answered in order, one at a time, and the connection is idle then."""
        self.waiting.clear()
        self.immediate[:] = drawn.immediate
        self.full = self.filling = False
        caller = self._connect()
        connection = next(iter(self.factory.connections))
        for packet, actions in zip(drawn.packets, drawn.actions, strict=True):
            # A paused transport delivers nothing.
            for action in ("drain", "respond", "turn"):
                if caller.transport.paused:
                    self._act(caller, action)
            caller.send(packet)
            for action in ("", *actions):
                self._act(caller, action)
                self.assertLessEqual(len(self.waiting), 1)
                self.assertEqual(connection.phase is BLOCKED, self.full)
        self.filling = False
        self._act(caller, "drain")
        for _ in drawn.bodies:
            self._act(caller, "turn")
            self._act(caller, "respond")
        self._act(caller, "turn")
        self.assertEqual(caller.bodies(), drawn.bodies)
        self.assertIs(connection.phase, IDLE)
        self.assertEqual(connection.held, 0)
        caller.leave()
        self.callers.remove(caller)
