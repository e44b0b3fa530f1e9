"""Fixtures of the HTTP/1.1 engine: a request handler and transports that the test controls."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.messages import Request, Response
from tests.http.malformed.servers import SETTINGS, Recorder, site_of
from tests.http.server_fixture import MORNING, Client


class FakeHandler(Recorder):
    """Request handler whose responses the test gives, in ``at_once`` or later.

    ``waiting`` holds the Deferreds of pending responses, in order.
    """

    def __init__(self) -> None:
        Recorder.__init__(self)
        self.at_once: Response | Failure | None = None
        self.waiting: list[Deferred[Response]] = []
        self.cancelled = 0
        self.failures: list[Failure] = []

    def respond(self, request: Request) -> Deferred[Response]:
        """Respond to a request, or return a pending response."""
        self.requests.append(request)
        if isinstance(self.at_once, Response):
            return succeed(self.at_once)
        answer: Deferred[Response] = Deferred(self._cancel)
        if self.at_once is None:
            self.waiting.append(answer)
        else:
            answer.errback(self.at_once)
        return answer

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """What answers a request that met a bug."""
        self.failures.append(failure)
        return Response(500, [], b"sorry")

    def _cancel(self, answer: Deferred[Response]) -> None:
        self.cancelled += 1


class Writes(StringTransport):
    """Transport that records each write, and can be full."""

    def __init__(self) -> None:
        StringTransport.__init__(self)
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Record bytes."""
        self.writes.append(data)
        StringTransport.write(self, data)

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return bool(self.producerState == "paused")


class Caller(Client):
    """One connection to a factory."""

    transport: Writes

    def __init__(self, door: Any, transport: Writes | None = None) -> None:
        Client.__init__(self, door, transport or Writes())

    def is_full(self) -> None:
        """The transport is full."""
        producer: Any = self.transport.producer
        producer.pauseProducing()

    def is_empty(self) -> None:
        """The transport is empty again."""
        producer: Any = self.transport.producer
        producer.resumeProducing()

    def bodies(self) -> list[bytes]:
        """Bodies of the responses so far."""
        return [answer.body for answer in self.answers()]

    def statuses(self) -> list[int]:
        """Statuses of the responses so far."""
        return [answer.status for answer in self.answers()]


class Http1TestCase(SynchronousTestCase):
    """A factory, its handler, and connections to it."""

    settings = SETTINGS

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.handler = FakeHandler()
        self.site = site_of(self.handler, self.clock)
        self.factory = Http1Factory(
            self.handler, self.site, self.clock, b"/v1/stream/", self.settings
        )
        self.callers: list[Caller] = []

    def tearDown(self) -> None:
        """A factory without connections holds nothing, and has no timer."""
        for caller in self.callers:
            caller.leave()
        self.clock.advance(0)
        self.assertEqual((len(self.factory.connections), self.factory.bodies.held), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self) -> Caller:
        """Open a connection."""
        caller = Caller(self.factory)
        self.callers.append(caller)
        return caller

    def owed(self) -> Deferred[Response]:
        """The first answer that is owed."""
        return self.handler.waiting.pop(0)

    def wait(self, seconds: float) -> None:
        """Advance the clock, second by second."""
        self.clock.pump([1.0] * int(seconds))


def ok(body: bytes = b"") -> Response:
    """Return a 200 response."""
    return Response(200, [], body)
