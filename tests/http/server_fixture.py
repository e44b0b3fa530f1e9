"""Fixture of a whole server: streams in memory, a clock, and clients with in-memory transports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings

#: 2027-01-15T08:00:00Z.
MORNING = 1_800_000_000.0
ROOT = "/v1/stream/"


def at_once(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Fake thread pool that calls the function at once."""
    return maybeDeferred(call, *arguments)


class FakeThreads:
    """Fake thread pool whose calls wait for `run`."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: maybeDeferred(call, *arguments).chainDeferred(done))
        return done

    def run(self) -> None:
        """Run the waiting calls."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


class Answer(Struct):
    """Response as a client received it.

    ``header`` has lower-case names, repeated headers joined. ``complete`` is true if the whole body
    was received.
    """

    status: int
    header: dict[str, str]
    body: bytes
    complete: bool
    version: str = "HTTP/1.1"


class Client:
    """Connection to a site."""

    def __init__(self, site: Site, transport: StringTransport | None = None) -> None:
        self.transport = transport or StringTransport()
        self.protocol: Any = site.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)
        self.gone = False

    def send(self, data: bytes) -> None:
        """Send bytes to the server."""
        self.protocol.dataReceived(data)

    def request(
        self,
        method: str,
        target: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send one well-formed request."""
        lines = [f"{method} {target} {version}", "Host: streams.example"]
        lines += [f"{name}: {value}" for name, value in (header or {}).items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def ask(
        self,
        method: str,
        target: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request and return its response, which must be complete."""
        self.transport.clear()
        self.request(method, target, header, body)
        answers = self.answers(method)
        assert len(answers) == 1, answers
        return answers[0]

    def answers(self, *methods: str) -> list[Answer]:
        """Parse the responses since `ask` began or the transport was cleared.

        ``methods`` are those of the requests, where one of them is HEAD.
        """
        return parse(self.transport.value(), methods)

    def leave(self) -> None:
        """Lose the connection."""
        if not self.gone:
            self.gone = True
            # Real transports do this first.
            producer: Any = self.transport.producer
            if producer is not None:
                producer.stopProducing()
                self.transport.producer = None
            self.protocol.connectionLost(Failure(ConnectionLost()))


class ServerFixture:
    """Streams on a site of their own; ``options`` are those of `DurableStreams`."""

    def __init__(
        self,
        settings: Settings | None = None,
        in_thread: Callable[..., Any] = at_once,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.streams = DurableStreams(
            settings=settings, reactor=self.clock, in_thread=in_thread, **options
        )
        self.streams.startService()
        self.site = self.streams.site()

    def connect(self) -> Client:
        """Open a connection."""
        return Client(self.site)

    def ask(
        self,
        method: str,
        path: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request for a path below the root, on a connection of its own."""
        client = self.connect()
        answer = client.ask(method, ROOT + path, header, body)
        client.leave()
        return answer

    def put(self, path: str, content_type: str = "text/plain", body: bytes = b"") -> None:
        """Create a stream that does not exist."""
        answer = self.ask("PUT", path, {"Content-Type": content_type}, body)
        assert answer.status == 201, answer

    def post(self, path: str, body: bytes, content_type: str = "text/plain") -> None:
        """Append to a stream."""
        answer = self.ask("POST", path, {"Content-Type": content_type}, body)
        assert answer.status == 204, answer

    def turn(self) -> None:
        """Run a few turns of the reactor."""
        for _ in range(5):
            self.clock.advance(0)


def parse(data: bytes, methods: tuple[str, ...] = ()) -> list[Answer]:
    """Parse consecutive responses."""
    found = []
    pending = list(methods)
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        assert blank, data
        lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        header: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            name = name.lower()
            header[name] = f"{header[name]}, {value}" if name in header else value
        if status == "100":
            data = rest
            continue
        method = pending.pop(0) if pending else "GET"
        body, complete, data = _body(rest, header, int(status), method)
        found.append(Answer(int(status), header, body, complete, version))
    return found


def _body(
    rest: bytes, header: dict[str, str], status: int, method: str
) -> tuple[bytes, bool, bytes]:
    if method == "HEAD" or status in (204, 304):
        return b"", True, rest
    if header.get("transfer-encoding") != "chunked":
        if "content-length" not in header:
            return rest, False, b""
        size = int(header["content-length"])
        return rest[:size], len(rest) >= size, rest[size:]
    body = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return body, True, rest.removeprefix(b"\r\n")
        body += rest[:size]
        rest = rest[size + 2 :]
    return body, False, b""
