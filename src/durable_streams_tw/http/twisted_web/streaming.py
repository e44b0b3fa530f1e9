"""A live body on a twisted.web request: written, paused, ended or cut."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from durable_streams_tw.http.messages import BodyProducer, Follow
from durable_streams_tw.live.timer_queue import Timeout, TimerQueue


@implementer(IPushProducer)
class RequestSink:
    """Where a live body goes, between a subscriber and a request.

    It stands in as the request's producer from before the subscriber's first write, for a
    large one fills the transport's buffer at once. A client that leaves the transport full for
    as long as ``timeouts`` says is cut.
    """

    def __init__(self, request: Request, timeouts: TimerQueue) -> None:
        self._request = request
        self._timeouts = timeouts
        # Runs while the transport is full.
        self._timeout: Timeout | None = None
        self._subscriber: BodyProducer | None = None
        self._paused = False
        self._over = False
        # None once it has ended: the Deferred holds the sink.
        self._ended: Deferred[bytes] | None = Deferred(lambda _: self.stopProducing())

    def follow(self, begin: Follow) -> Deferred[bytes]:
        """Send the head and begin the body.

        The Deferred fires with no bytes when the body has ended; cancelling it says that
        the client is gone.
        """
        ended = self._ended
        assert ended is not None, "a body begins once"
        self._request.registerProducer(self, True)
        self._request.write(b"")
        subscriber = begin(self)
        if not self._over:
            self._subscriber = subscriber
            if self._paused:
                subscriber.pauseProducing()
        return ended

    # -- Sink -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self._over:
            self._request.write(data)

    def finish(self) -> None:
        """End the body as complete."""
        ended = self._ended
        if self._leave() and ended is not None:
            self._request.unregisterProducer()
            ended.callback(b"")

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the body is not complete."""
        if self._leave():
            self._request.unregisterProducer()
            cut(self._request)

    def _leave(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._subscriber = self._ended = None
        self._relax()
        return True

    def _relax(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _give_up(self) -> None:
        subscriber = self._subscriber
        self.abort()
        if subscriber is not None:
            subscriber.stopProducing()

    # -- IPushProducer ----------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self._paused:
            self._paused = True
            if not self._over:
                self._timeout = self._timeouts.add(self._give_up)
            if self._subscriber is not None:
                self._subscriber.pauseProducing()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        if self._paused:
            self._paused = False
            self._relax()
            if self._subscriber is not None:
                self._subscriber.resumeProducing()

    def stopProducing(self) -> None:
        """The client is gone."""
        subscriber = self._subscriber
        if self._leave() and subscriber is not None:
            subscriber.stopProducing()


def cut(request: Request) -> None:
    """End a response so that the client sees that it is not complete."""
    channel: Any = request.channel
    connection: Any = request.transport
    if connection is None:
        # HTTP/2 has no transport for one request: this resets its stream alone, and does
        # not tell the request.
        channel.abortConnection()
        request.connectionLost(Failure(ConnectionAborted()))
    else:
        connection.abortConnection()
