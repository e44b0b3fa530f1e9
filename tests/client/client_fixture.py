"""Client and server in one process, with connections between them that a test can cut anywhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from durable_streams_tw.client import RetryEvent, RetryPolicy, Stream, StreamClient
from tests.http.server_fixture import ServerFixture

T = TypeVar("T")

HOST = "http://streams.example/v1/stream/"


class End(StringTransport):
    """End of a connection in memory."""

    connected = True

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        data: bytes = self.value()
        self.clear()
        return data

    def abortConnection(self) -> None:
        self.connected = False


class Link:
    """Connection whose bytes reach the other end when `carry` is called."""

    def __init__(self, client: Any, server: Any, room: int | None) -> None:
        self.client, self.server = client, server
        self.near, self.far = End(), End()
        self.room = room
        self.alive = True
        server.makeConnection(self.far)
        client.makeConnection(self.near)

    def carry(self) -> bool:
        """Deliver the written bytes; return whether there were any."""
        if not self.alive:
            return False
        moved = False
        if asked := self.near.take():
            self.server.dataReceived(asked)
            moved = True
        if self.near.producerState != "paused" and (answered := self.far.take()):
            if self.room is not None and len(answered) >= self.room:
                answered = answered[: self.room]
                if answered:
                    self.client.dataReceived(answered)
                self.cut()
                return True
            self.room = None if self.room is None else self.room - len(answered)
            self.client.dataReceived(answered)
            moved = True
        if self.far.disconnecting or not self.far.connected:
            self._end(ConnectionDone())
            return True
        if self.near.disconnecting or not self.near.connected:
            self._end(ConnectionLost())
            return True
        return moved

    def cut(self) -> None:
        """Lose the connection at both ends."""
        self._end(ConnectionLost())

    def _end(self, reason: Exception) -> None:
        if self.alive:
            self.alive = False
            self.client.connectionLost(Failure(reason))
            producer: Any = self.far.producer
            if producer is not None:
                producer.stopProducing()
            self.server.connectionLost(Failure(reason))


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Network:
    """Leads every request to one site.

    ``cuts`` are after how many bytes of answers each next connection is lost, None for never;
    beyond the list none is. ``down`` refuses connections.
    """

    def __init__(self, build: Callable[[], Any], cuts: list[int | None]) -> None:
        self.build = build
        self.cuts = cuts
        self.links: list[Link] = []
        self.down = False
        self.connects = 0

    def endpointForURI(self, uri: object) -> Network:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        self.connects += 1
        if self.down:
            return fail(ConnectionRefusedError())
        client = factory.buildProtocol(None)
        room = self.cuts.pop(0) if self.cuts else None
        self.links.append(Link(client, self.build(), room))
        return succeed(client)

    def carry(self) -> bool:
        """Deliver the written bytes of all connections, once."""
        moved = [link.carry() for link in list(self.links)]
        return any(moved)


class ClientFixture:
    """A client and the streams it talks to.

    ``build`` makes the server's side of a connection in place of `ServerFixture`. ``tokens`` are
    what the source of tokens gives, one after the other, the last one for ever.
    """

    def __init__(
        self,
        build: Callable[[], Any] | None = None,
        cuts: list[int | None] | None = None,
        endure: float | None = 60.0,
        header: dict[str, str] | None = None,
        settings: Any = None,
        tokens: list[str] | None = None,
        headers_fail: bool = False,
        **options: Any,
    ) -> None:
        self.fixture = ServerFixture(settings)
        self.clock = self.fixture.clock
        at = End().getPeer()
        self.network = Network(build or (lambda: self.fixture.site.buildProtocol(at)), cuts or [])
        pool = HTTPConnectionPool(self.clock, persistent=False)
        network: Any = self.network
        agent = Agent.usingEndpointFactory(self.clock, network, pool)
        self.notices: list[str] = []
        left = list(tokens or ())

        def fields() -> dict[str, str]:
            if headers_fail:
                raise ZeroDivisionError
            if not left:
                return header or {}
            token = left.pop(0) if len(left) > 1 else left[0]
            return {"Authorization": f"Bearer {token}"}

        self.client = StreamClient(
            HOST,
            headers=fields,
            retry=RetryPolicy(retry_for=endure),
            on_retry=self._note,
            agent=agent,
            reactor=self.clock,
            random=lambda: 0.0,
            **options,
        )

    def _note(self, event: RetryEvent) -> None:
        if event.attempt == 1:
            self.notices.append(str(event.error))

    def stream(self, name: str) -> Stream:
        """Return a stream of the server."""
        return self.client.stream(name)

    def turn(self, seconds: float = 0.0) -> None:
        """Deliver all bytes and run due calls, then advance the clock."""
        for _ in range(1000):
            moved = self.network.carry()
            self.clock.advance(0)
            if not moved and not self.network.carry():
                break
        self.clock.advance(seconds)

    def start(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Start a coroutine."""
        return ensureDeferred(work)

    def finish(self, done: Deferred[T], step: float = 0.25, steps: int = 2000) -> T:
        """Return the result of a Deferred, advancing the clock until it fires."""
        found: list[Any] = []
        done.addBoth(found.append)
        for _ in range(steps):
            self.turn()
            if found:
                break
            self.clock.advance(step)
        assert found, "the Deferred has not fired"
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: T = found[0]
        return result

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        return self.finish(self.start(work))


class Script:
    """The server's side of connections that follow a script: one answer to each request, as
    bytes; after it the connection ends."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    def __call__(self) -> _Scripted:
        return _Scripted(self)


class _Scripted:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._got = b""
        self._transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport

    def dataReceived(self, data: bytes) -> None:
        self._got += data
        head, blank, body = self._got.partition(b"\r\n\r\n")
        if not blank:
            return
        size = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        if len(body) >= size:
            self._script.requests.append(self._got)
            self._got = b""
            answer = self._script.answers.pop(0)
            self._transport.write(answer)
            self._transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Record that the client has disconnected."""


def answer(status: str, body: bytes = b"", /, **header: str) -> bytes:
    """A response as it stands on the wire; names of fields with underscores for hyphens."""
    lines = [f"HTTP/1.1 {status}", *(f"{n.replace('_', '-')}: {v}" for n, v in header.items())]
    if not status.startswith("204"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
