"""Answers that must not outlive the token that they were given for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.http.messages import Follow, Response, StreamedBody
from durable_streams_tw.live.body_output import BodySink


def until(
    seconds: float,
    answer: Response | Deferred[Response],
    clock: IReactorTime,
    over: Callable[[], Response],
) -> Response | Deferred[Response]:
    """An answer that is let go of after so many seconds: while it is waited for ``over`` stands
    in for it; an event stream ends, behind a control event."""
    if isinstance(answer, Response):
        return _bounded(answer, seconds, clock)
    ends_at = clock.seconds() + seconds
    waited = answer
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        waited.cancel()

    timer = clock.callLater(max(seconds, 0), give_up)

    def settled(result: Response | Failure) -> Response | Failure:
        _call_off(timer)
        if isinstance(result, Response):
            return _bounded(result, ends_at - clock.seconds(), clock)
        return over() if late and result.check(CancelledError) else result

    return answer.addBoth(settled)


def _bounded(response: Response, seconds: float, clock: IReactorTime) -> Response:
    body = response.body
    if isinstance(body, bytes | StreamedBody):
        # Streamed is what the stream had when the token was good.
        return response
    return replace(response, body=lambda sink: _Bounded(sink, body, seconds, clock))


@implementer(IPushProducer)
class _Bounded:
    """A live body with an end: between its subscriber and its sink, to hear of both ends."""

    def __init__(self, sink: BodySink, follow: Follow, seconds: float, clock: IReactorTime) -> None:
        self._sink = sink
        self._over = False
        self.write = sink.write
        self._timer: IDelayedCall | None = None
        self._subscriber: Any = follow(self)
        if not self._over:
            self._timer = clock.callLater(max(seconds, 0), self._end)

    # -- the subscriber's -----------------------------------------------------------------------

    def finish(self) -> None:
        """End the body as complete."""
        self._leave()
        self._sink.finish()

    def abort(self) -> None:
        """Cut the connection."""
        self._leave()
        self._sink.abort()

    # -- the door's -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._subscriber.pauseProducing()

    def resumeProducing(self) -> None:
        """The transport is empty again."""
        self._subscriber.resumeProducing()

    def stopProducing(self) -> None:
        """The client is gone."""
        self._leave()
        self._subscriber.stopProducing()

    def _end(self) -> None:
        self._timer = None
        self._subscriber.end()

    def _leave(self) -> None:
        self._over = True
        if self._timer is not None:
            _call_off(self._timer)
            self._timer = None


def _call_off(timer: IDelayedCall) -> None:
    if timer.active():
        timer.cancel()
