"""The door of the fast channel: it makes connections, bounds them, and closes gently."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds
from durable_streams_tw.http import limits
from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.connection_limiter import ConnectionLimiter, RejectedConnection
from durable_streams_tw.http.handlers.streams import RequestHandler
from durable_streams_tw.http.http1.connection import Http1Connection
from durable_streams_tw.http.http1.header_section import HeadContext
from durable_streams_tw.http.http1.response import StatusLines
from durable_streams_tw.http.http1.streaming import SharedFrames
from durable_streams_tw.http.http1.timers import Timed, TimerWheel
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.site import StreamSite


@implementer(IProtocolNegotiationFactory)
class Http1Factory(ServerFactory):
    """Serves streams below ``root``, a raw path with a slash at both ends.

    All else, and HTTP/2, is left to ``site``, which serves the same streams. ``wall`` (default:
    ``clock``) returns seconds since the Unix epoch, for the Date of answers.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        operations: RequestHandler,
        site: StreamSite,
        clock: IReactorTime,
        root: bytes,
        settings: Settings | None = None,
        wall: Seconds | None = None,
    ) -> None:
        self.settings = settings = settings or Settings()
        self.serving = operations.responder
        self.decide = operations.decide
        self.refuse = operations.refuse
        self.failure = operations.error_response
        self.openings = StatusLines()
        self.frames = SharedFrames()
        self.stopping = False
        # Shared with the site: connections come from there and go there.
        self.bodies = site.bodies
        # What clients have not read, of all connections that are paused for it.
        self.unread = BodyBudget(settings.max_unread_memory)
        self._site: Any = site
        self._clock = clock
        date = wall or clock.seconds
        self.wheel = TimerWheel(clock, lambda _: self.openings.tick(date()))
        self.connections: set[Http1Connection] = set()
        self._room = ConnectionLimiter(settings)
        self._drained: Deferred[None] | None = None
        # Those that have something to send when this turn of the reactor is over.
        self._senders: list[Http1Connection] = []

        @lru_cache(maxsize=64)
        def surroundings(secure: bool, reached: bytes) -> HeadContext:
            return HeadContext(root, settings.max_body, secure, settings.trust_proxy, reached)

        self.surroundings = surroundings

    # -- factory --------------------------------------------------------------------------------

    def startFactory(self) -> None:
        """The first port has opened."""
        self._site.doStart()

    def stopFactory(self) -> None:
        """The last port has closed."""
        self._site.doStop()

    def acceptableProtocols(self) -> list[bytes]:
        """What may be chosen over TLS (ALPN)."""
        protocols: list[bytes] = self._site.acceptableProtocols()
        return protocols

    def buildProtocol(self, address: IAddress | None) -> TwistedProtocol:
        """Take a connection, or turn it away where there are too many."""
        if self.stopping:
            return RejectedConnection()
        if not self._room.has_room_for(address):
            return RejectedConnection(self._room, self._clock)
        channel = Http1Connection(self, address)
        channel.factory = self
        return channel

    # -- the connections' -----------------------------------------------------------------------

    def arrived(self, channel: Http1Connection) -> None:
        """Count a connection."""
        self.connections.add(channel)
        self._room.enter(channel.address)

    def left(self, channel: Http1Connection) -> None:
        """Forget a connection."""
        self.wheel.remove(channel)
        self.connections.discard(channel)
        self._room.leave(channel.address)
        if not self.connections and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def later(self, call: Callable[[], None]) -> None:
        """Call something in the next turn of the reactor."""
        self._clock.callLater(0, call)

    def send_soon(self, channel: Http1Connection) -> None:
        """Have a connection send what it has gathered: now, or behind what others do this turn.

        A client that is woken by each of many answers, and sleeps again, costs the sender more
        than the answers do; so where there are many connections, all their answers go out in
        one go.
        """
        if len(self.connections) < limits.DEFERRED_SEND_CONNECTIONS:
            channel.flush()
            return
        if not self._senders:
            self._clock.callLater(0, self._send)
        self._senders.append(channel)

    def _send(self) -> None:
        senders, self._senders = self._senders, []
        for channel in senders:
            try:
                channel.flush()
            except Exception:  # noqa: BLE001 - one's bug is not the others'
                self._log.failure("a connection has met a bug, and ends")
                channel.cut()

    def look_in(self, channel: Timed, seconds: float) -> float:
        """Have the wheel look at a connection in so many seconds; returns the time now."""
        now = self._clock.seconds()
        self.wheel.look(channel, now + seconds)
        return now

    def heir(self, address: IAddress | None) -> Any:
        """What speaks on a connection that is no longer a `Http1Connection`'s affair."""
        return self._site.buildProtocol(address)

    def http2(self, address: IAddress | None) -> Any:
        """Return what speaks on a connection whose client has chosen HTTP/2."""
        return self._site.http2.buildProtocol(address)

    # -- stopping -------------------------------------------------------------------------------

    def drain(self) -> Deferred[None]:
        """Close every connection once what it has begun is answered; cut those that take long.

        New ones are turned away. Readers that wait have to be let go by whoever calls this.
        """
        self.stopping = True
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for channel in list(self.connections):
            channel.drain()
        if not self.connections:
            self._drained = None
            drained.callback(None)
        else:
            patience = self._clock.callLater(limits.STOP_GRACE, self._cut)
            drained.addCallback(lambda _: _call_off(patience))
        both: Deferred[Any] = gatherResults([drained, self._site.drain()])
        return both.addCallback(lambda _: None)

    def _cut(self) -> None:
        for channel in list(self.connections):
            channel.cut()


def _call_off(call: IDelayedCall) -> None:
    if call.active():
        call.cancel()
