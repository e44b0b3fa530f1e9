"""Factory of HTTP/1.1 connections: limits their number, and drains them when the server stops."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Protocol

from twisted.internet import interfaces
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from zope.interface import implementer

from durable_streams_tw.clocks import Seconds, cancel
from durable_streams_tw.http import limits
from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.connection_limiter import ConnectionLimiter, RejectedConnection
from durable_streams_tw.http.handlers.streams import RequestHandler
from durable_streams_tw.http.http1.connection import Http1Connection
from durable_streams_tw.http.http1.context import ConnectionContext, Flushable
from durable_streams_tw.http.http1.response import StatusLines
from durable_streams_tw.http.request_head import HeadContext
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.timer_wheel import Timed, TimerWheel
from durable_streams_tw.reactor_turn import ReactorTurn, turn_of


class FallbackSite(Protocol):
    """Site that takes over HTTP/2 connections and requests that are not for streams."""

    bodies: BodyBudget
    http2: Any

    def doStart(self) -> None:
        """Count an opened port."""

    def doStop(self) -> None:
        """Count a closed port."""

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that ALPN may choose."""

    def buildProtocol(self, address: interfaces.IAddress | None) -> Any:
        """Return the protocol of a connection."""

    def drain(self) -> Deferred[None]:
        """Close all connections, and fire when that is done."""


@implementer(interfaces.IProtocolNegotiationFactory)
class Http1Factory(ServerFactory):
    """Server of the streams below ``root``, a raw path with a slash at both ends.

    HTTP/2 connections and all other requests go to ``site``, which serves the same streams.
    ``wall`` returns seconds since the Unix epoch for the Date header, by default those of
    ``clock``. ``turn`` is that of the reactor, by default of ``clock``.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        operations: RequestHandler,
        site: FallbackSite,
        clock: interfaces.IReactorTime,
        root: bytes,
        settings: Settings | None = None,
        wall: Seconds | None = None,
        turn: ReactorTurn | None = None,
    ) -> None:
        settings = settings or Settings()
        self._site = site
        self._clock = clock
        self._turn = turn or turn_of(clock)
        date = wall or clock.seconds
        status_lines = StatusLines()
        self.wheel = TimerWheel(clock, lambda _: status_lines.tick(date()))
        # Shared with the site, which takes connections over with their bodies.
        self.bodies = site.bodies
        self.unread = BodyBudget(settings.max_unread_memory)
        self.connections: set[Http1Connection] = set()
        self.limiter = ConnectionLimiter(settings)
        self._drained: Deferred[None] | None = None
        # Connections to flush at the end of this turn of the reactor.
        self._to_flush: list[Flushable] = []

        @lru_cache(maxsize=64)
        def head_context(secure: bool, local_address: bytes) -> HeadContext:
            return HeadContext(root, settings.max_body, secure, settings.trust_proxy, local_address)

        self.context = ConnectionContext(
            settings=settings,
            responder=operations.responder,
            decide=operations.decide,
            refuse=operations.refuse,
            error_response=operations.error_response,
            bodies=self.bodies,
            unread=self.unread,
            wheel=self.wheel,
            status_lines=status_lines,
            head_context=head_context,
            opened=self._opened,
            closed=self._closed,
            call_soon=partial(clock.callLater, 0),
            flush_soon=self._flush_soon,
            check_after=self._check_after,
            build_site_protocol=site.buildProtocol,
            build_http2_protocol=site.http2.buildProtocol,
        )

    # -- ServerFactory --------------------------------------------------------------------------

    def startFactory(self) -> None:
        """Start the site with the first port."""
        self._site.doStart()

    def stopFactory(self) -> None:
        """Stop the site with the last port."""
        self._site.doStop()

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that a TLS client may choose (ALPN)."""
        return self._site.acceptableProtocols()

    def buildProtocol(self, address: interfaces.IAddress | None) -> TwistedProtocol:
        """Return a connection, or one that is rejected: above the limits or while stopping."""
        if self.context.stopping:
            return RejectedConnection()
        if not self.limiter.accepts(address):
            return RejectedConnection(self.limiter, self._clock)
        connection = Http1Connection(self.context, address)
        connection.factory = self
        return connection

    # -- callbacks of the context ---------------------------------------------------------------

    def _opened(self, connection: Http1Connection) -> None:
        self.connections.add(connection)
        self.limiter.add(connection.address)

    def _closed(self, connection: Http1Connection) -> None:
        self.wheel.cancel(connection)
        self.connections.discard(connection)
        self.limiter.remove(connection.address)
        if not self.connections and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _flush_soon(self, connection: Flushable) -> None:
        """Flush a connection: now, or with many connections at the end of the reactor's turn.

        A client process that serves many connections is woken once for all their responses then,
        and not once for each.
        """
        if len(self.connections) < limits.DEFERRED_SEND_CONNECTIONS:
            connection.flush()
            return
        if not self._to_flush:
            self._turn.at_end(self._flush_all)
        self._to_flush.append(connection)

    def _flush_all(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            try:
                connection.flush()
            except Exception:  # noqa: BLE001 - it must not end other connections
                self._log.failure("Error on an HTTP/1.1 connection, which is closed")
                connection.abort()

    def _check_after(self, connection: Timed, seconds: float) -> float:
        now = self._clock.seconds()
        self.wheel.schedule(connection, now + seconds)
        return now

    # -- stopping -------------------------------------------------------------------------------

    def drain(self) -> Deferred[None]:
        """Close each connection after its pending responses, and all after `STOP_GRACE` seconds.

        New connections are rejected. The caller has to end live reads. Fires when all
        connections have closed.
        """
        self.context.stopping = True
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for connection in list(self.connections):
            connection.drain()
        if not self.connections:
            self._drained = None
            drained.callback(None)
        else:
            timeout = self._clock.callLater(limits.STOP_GRACE, self._abort_all)
            drained.addCallback(lambda _: cancel(timeout))
        both: Deferred[Any] = gatherResults([drained, self._site.drain()])
        return both.addCallback(lambda _: None)

    def _abort_all(self) -> None:
        for connection in list(self.connections):
            connection.abort()
