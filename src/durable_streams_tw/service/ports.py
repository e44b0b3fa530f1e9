"""Listening ports of the server."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.epoll import NestedEpoll, nested_poll
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.twisted_web.site import StreamSite
from durable_streams_tw.service.file_exhaustion import FileExhaustion
from durable_streams_tw.service.limits import UNSENT_IN_KERNEL
from durable_streams_tw.service.port_announcer import PortAnnouncer, raise_not_open
from durable_streams_tw.service.startup import when_running

# Not available on every system.
_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)


@dataclass(eq=False)
class Ports(Service):
    """Service that opens and closes the listening ports of one site.

    Ports are opened before privileges are dropped. On stop, waiting readers are released, and
    connections get a short time to receive their responses. Without an ``announcer``, another
    process announces the ports.
    """

    _log = Logger()

    _endpoints: list[IStreamServerEndpoint]
    _site: StreamSite | Http1Factory
    _streams: DurableStreams
    _reactor: Any
    _announcer: PortAnnouncer | None = None

    def __post_init__(self) -> None:
        self._opened: list[Deferred[IListeningPort | None]] = []
        self._poll: NestedEpoll | None = None
        self._exhaustion = FileExhaustion(monotonic)
        # Failures to open a port, collected in privilegedStartService; None at other times.
        self._failures: list[Failure] | None = None

    def privilegedStartService(self) -> None:
        """Open the ports. Raises `CannotStart` if that fails."""
        Service.privilegedStartService(self)
        self._failures = []
        if isinstance(self._site, Http1Factory):
            self._poll = nested_poll(self._reactor)
        for endpoint in self._endpoints:
            opened: Deferred[Any] = maybeDeferred(endpoint.listen, self._site)
            opened.addCallback(self._watched)
            self._opened.append(opened.addErrback(self._refused))
        failures, self._failures = self._failures, None
        if failures:
            raise_not_open(failures[0])

    def startService(self) -> None:
        """Open the ports unless they are open. Log the URLs when the reactor runs."""
        Service.startService(self)
        if not self._opened:
            self.privilegedStartService()
        for endpoint, opened in zip(self._endpoints, self._opened, strict=True):
            opened.addCallback(self._announce, endpoint)

    def stopService(self) -> Deferred[None]:
        """Close the ports, release waiting readers, and wait for connections to end."""
        Service.stopService(self)
        opened, self._opened = self._opened, []
        for port in opened:
            port.addCallback(lambda port: None if port is None else port.stopListening())
            port.addErrback(lambda failure: self._log.failure("Could not close a port", failure))
        closed: Deferred[Any] = gatherResults(opened)
        return stop_all(lambda: closed, self._streams.release, self._site.drain)

    def _watched(self, port: IListeningPort) -> IListeningPort:
        if self._poll is not None:
            self._poll.attach(port)
        self._exhaustion.watch(port)
        _bound_kernel_buffers(port)
        return port

    def _refused(self, failure: Failure) -> None:
        if self._failures is not None:
            self._failures.append(failure)
            return
        # An asynchronous endpoint failed after the service had started.
        self._log.failure("Could not open a port, stopping", failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _announce(
        self, port: IListeningPort | None, endpoint: IStreamServerEndpoint
    ) -> IListeningPort | None:
        if port is not None and self._announcer is not None:
            address = port.getHost()
            self._streams.set_endpoint(*self._announcer.locate(endpoint, address))
            when_running(self, self._reactor, self._announcer.announce, endpoint, address)
        return port


def _bound_kernel_buffers(port: Any) -> None:
    """Limit the unsent bytes in the kernel for all connections of a port."""
    listening = getattr(port, "socket", None)
    if listening is None or _NOTSENT_LOWAT is None:
        return
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted connections inherit the option.
        listening.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_IN_KERNEL)
