"""Deadline of responses that must not outlive the token of their request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import cancel
from durable_streams_tw.http.messages import Follow, Response, StreamedBody
from durable_streams_tw.live.body_output import BodySink


def until(
    seconds: float,
    response: Response | Deferred[Response],
    clock: IReactorTime,
    expired: Callable[[], Response],
) -> Response | Deferred[Response]:
    """Bound the duration of a response to ``seconds`` from now.

    At the deadline, a pending response is cancelled and replaced by ``expired()``; an event
    stream ends after a control event. A catch-up read is not bounded.
    """
    if isinstance(response, Response):
        return _bounded(response, seconds, clock)
    deadline = clock.seconds() + seconds
    pending = response
    late = False

    def time_out() -> None:
        nonlocal late
        late = True
        pending.cancel()

    timer = clock.callLater(max(seconds, 0), time_out)

    def settled(result: Response | Failure) -> Response | Failure:
        cancel(timer)
        if isinstance(result, Response):
            return _bounded(result, deadline - clock.seconds(), clock)
        return expired() if late and result.check(CancelledError) else result

    return response.addBoth(settled)


def _bounded(response: Response, seconds: float, clock: IReactorTime) -> Response:
    body = response.body
    if isinstance(body, bytes | StreamedBody):
        # The bytes were in the stream while the token was valid.
        return response
    return replace(response, body=lambda sink: _BoundedBody(sink, body, seconds, clock))


@implementer(IPushProducer)
class _BoundedBody:
    """Live body with a deadline, between its SSE subscriber and the connection.

    It is the subscriber's sink and the connection's producer, so that it learns of the end from
    either side and cancels its timer.
    """

    def __init__(self, sink: BodySink, follow: Follow, seconds: float, clock: IReactorTime) -> None:
        self._sink = sink
        self._ended = False
        self.write = sink.write
        self._timer: IDelayedCall | None = None
        self._subscriber: Any = follow(self)
        if not self._ended:
            self._timer = clock.callLater(max(seconds, 0), self._expire)

    # -- BodySink, for the subscriber ----------------------------------------------------------

    def finish(self) -> None:
        """End the body as complete."""
        self._end()
        self._sink.finish()

    def abort(self) -> None:
        """Abort the connection."""
        self._end()
        self._sink.abort()

    # -- IPushProducer, for the connection ------------------------------------------------------

    def pauseProducing(self) -> None:
        """Pause the subscriber: the transport's buffer is full."""
        self._subscriber.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the subscriber: the transport's buffer is empty."""
        self._subscriber.resumeProducing()

    def stopProducing(self) -> None:
        """Stop the subscriber: the connection is closed."""
        self._end()
        self._subscriber.stopProducing()

    def _expire(self) -> None:
        self._timer = None
        self._subscriber.end()

    def _end(self) -> None:
        self._ended = True
        cancel(self._timer)
        self._timer = None
