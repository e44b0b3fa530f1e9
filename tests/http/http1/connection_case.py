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
    """Request handler whose responses the test gives, immediately (``at_once``) or later.

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
        """Return the response to a request that raised an exception."""
        self.failures.append(failure)
        return Response(500, [], b"sorry")

    def _cancel(self, answer: Deferred[Response]) -> None:
        self.cancelled += 1


class RecordingTransport(StringTransport):
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
        """Return True if reading is paused."""
        return bool(self.producerState == "paused")


class FactoryClient(Client):
    """Client with one connection to a factory."""

    transport: RecordingTransport

    def __init__(self, factory: Any, transport: RecordingTransport | None = None) -> None:
        Client.__init__(self, factory, transport or RecordingTransport())

    def is_full(self) -> None:
        """Call the producer as a full transport does."""
        producer: Any = self.transport.producer
        producer.pauseProducing()

    def is_empty(self) -> None:
        """Call the producer as a drained transport does."""
        producer: Any = self.transport.producer
        producer.resumeProducing()

    def bodies(self) -> list[bytes]:
        """Return the bodies of the responses so far."""
        return [answer.body for answer in self.answers()]

    def statuses(self) -> list[int]:
        """Return the statuses of the responses so far."""
        return [answer.status for answer in self.answers()]


class Http1TestCase(SynchronousTestCase):
    """Test case with a factory, its handler, and connections to it."""

    settings = SETTINGS

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.handler = FakeHandler()
        self.site = site_of(self.handler, self.clock)
        self.factory = Http1Factory(
            self.handler, self.site, self.clock, b"/v1/stream/", self.settings
        )
        self.callers: list[FactoryClient] = []

    def tearDown(self) -> None:
        """Check that a factory without connections holds no bytes and has no timer."""
        for caller in self.callers:
            caller.leave()
        self.clock.advance(0)
        self.assertEqual((len(self.factory.connections), self.factory.bodies.held), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self) -> FactoryClient:
        """Open a connection."""
        caller = FactoryClient(self.factory)
        self.callers.append(caller)
        return caller

    def pending_response(self) -> Deferred[Response]:
        """Return the first pending response."""
        return self.handler.waiting.pop(0)

    def wait(self, seconds: float) -> None:
        """Advance the clock in steps of one second."""
        self.clock.pump([1.0] * int(seconds))


def ok(body: bytes = b"") -> Response:
    """Return a 200 response."""
    return Response(200, [], body)
