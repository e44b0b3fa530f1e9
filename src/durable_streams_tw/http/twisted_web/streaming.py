"""Streamed response bodies on twisted.web requests."""

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
    """Sink (`BodySink`) that writes a streamed body to a request.

    It registers as the request's producer before the first write, which may fill the transport's
    buffer. It resets the connection if the transport stays full for the time of ``timeouts``.
    """

    def __init__(self, request: Request, timeouts: TimerQueue) -> None:
        self._request = request
        self._timeouts = timeouts
        # Runs while the transport is full.
        self._timeout: Timeout | None = None
        self._producer: BodyProducer | None = None
        self._paused = False
        self._over = False
        # None once the body has ended: the Deferred refers to the sink.
        self._ended: Deferred[bytes] | None = Deferred(lambda _: self.stopProducing())

    def follow(self, begin: Follow) -> Deferred[bytes]:
        """Send the head and start the producer of the body.

        The Deferred fires with ``b""`` when the body has ended. Klein cancels it when the client
        disconnects.
        """
        ended = self._ended
        assert ended is not None, "called once"
        self._request.registerProducer(self, True)
        self._request.write(b"")
        producer = begin(self)
        if not self._over:
            self._producer = producer
            if self._paused:
                producer.pauseProducing()
        return ended

    # -- BodySink --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        if not self._over:
            self._request.write(data)

    def finish(self) -> None:
        """End the body as complete."""
        ended = self._ended
        if self._detach() and ended is not None:
            self._request.unregisterProducer()
            ended.callback(b"")

    def abort(self) -> None:
        """Reset the connection, so that the client sees that the body is incomplete."""
        if self._detach():
            self._request.unregisterProducer()
            abort_response(self._request)

    def _detach(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._producer = self._ended = None
        self._cancel_timeout()
        return True

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _time_out(self) -> None:
        producer = self._producer
        self.abort()
        if producer is not None:
            producer.stopProducing()

    # -- IPushProducer ----------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Pause the producer and start the send timeout: the transport's buffer is full."""
        if not self._paused:
            self._paused = True
            if not self._over:
                self._timeout = self._timeouts.add(self._time_out)
            if self._producer is not None:
                self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the producer: the transport's buffer is empty."""
        if self._paused:
            self._paused = False
            self._cancel_timeout()
            if self._producer is not None:
                self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Stop the producer: the connection is lost."""
        producer = self._producer
        if self._detach() and producer is not None:
            producer.stopProducing()


def abort_response(request: Request) -> None:
    """Reset the connection or HTTP/2 stream of a request, so that its response is incomplete."""
    channel: Any = request.channel
    connection: Any = request.transport
    if connection is None:
        # HTTP/2: resets the stream alone, and does not call connectionLost of the request.
        channel.abortConnection()
        request.connectionLost(Failure(ConnectionAborted()))
    else:
        connection.abortConnection()
