"""Listening ports of the server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from time import monotonic
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.epoll import NestedEpoll, nested_poll
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.twisted_web.site import StreamSite
from durable_streams_tw.service.certificates import TLSEndpoint
from durable_streams_tw.service.file_exhaustion import FileExhaustion
from durable_streams_tw.service.limits import UNSENT_IN_KERNEL
from durable_streams_tw.service.proxy_protocol import without_proxy
from durable_streams_tw.service.startup import CannotStart

# Not available on every system.
_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class PortAnnouncer:
    """Announcer of open ports in the log.

    ``root`` is the path prefix of the streams without its first slash. ``greet`` is called with
    the URL of each port. ``storage`` says where streams are stored. ``open_to_all`` says that
    requests need no credentials; the log then warns about ports that other machines can reach.
    """

    _log = Logger()

    def __init__(
        self,
        root: bytes,
        greet: Callable[[str], None] | None = None,
        *,
        storage: str = "memory",
        open_to_all: bool = False,
    ) -> None:
        self._root = root.decode("ascii")
        self._greet = greet
        self._storage = storage
        self._open_to_all = open_to_all

    def locate(self, endpoint: IStreamServerEndpoint, address: IAddress) -> tuple[str | None, bool]:
        """Return the URL of a port, None if it has none, and whether it is loopback."""
        if isinstance(address, IPv4Address | IPv6Address):
            return self._url(endpoint, address), ip_address(address.host).is_loopback
        return None, False

    def announce(self, endpoint: IStreamServerEndpoint, address: IAddress) -> None:
        """Log the URL of a port, the storage, and who can connect."""
        url = self._url(endpoint, address)
        versions = "HTTP/2 and HTTP/1.1 over TLS" if _is_secure(endpoint) else "HTTP/1.1"
        self._log.info(
            "Durable streams are at {url} ({versions}), stored in {storage}, "
            "authentication {authentication}, reachable from {reach}",
            url=url,
            versions=versions,
            storage=self._storage,
            authentication="off" if self._open_to_all else "on",
            reach=_reach(address),
        )
        if self._greet is not None:
            self._greet(url)
        if not isinstance(address, IPv4Address | IPv6Address) or not self._open_to_all:
            return
        if not ip_address(address.host).is_loopback:
            self._log.warn(
                "Every client that can reach {where} may read and write all streams: "
                "restrict it with --interface 127.0.0.1 or --auth",
                where=_where(address),
            )

    def _url(self, endpoint: IStreamServerEndpoint, address: IAddress) -> str:
        return _url("https" if _is_secure(endpoint) else "http", address, self._root)


class Ports(Service):
    """Service that opens and closes the listening ports of one site.

    Ports are opened before privileges are dropped. On stop, waiting readers are released, and
    connections get a short time to receive their responses. Without an ``announcer``, another
    process announces the ports.
    """

    _log = Logger()

    def __init__(
        self,
        endpoints: list[IStreamServerEndpoint],
        site: StreamSite | Http1Factory,
        streams: DurableStreams,
        reactor: Any,
        announcer: PortAnnouncer | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._site = site
        self._streams = streams
        self._reactor = reactor
        self._announcer = announcer
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
        for failure in failures:
            error = failure.value
            if isinstance(error, CannotListenError | OSError):
                raise CannotStart(why_not_open(error))
            failure.raiseException()

    def startService(self) -> None:
        """Open the ports unless they are open; log the URLs of the streams when the reactor runs.

        Before that a signal would end the process without `stopService`.
        """
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
            self._reactor.callWhenRunning(self._log_url, endpoint, address)
        return port

    def _log_url(self, endpoint: IStreamServerEndpoint, address: IAddress) -> None:
        if self.running and self._announcer is not None:
            self._announcer.announce(endpoint, address)


def _bound_kernel_buffers(port: Any) -> None:
    """Limit the unsent bytes in the kernel for all connections of a port."""
    listening = getattr(port, "socket", None)
    if listening is None or _NOTSENT_LOWAT is None:
        return
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted connections inherit the option.
        listening.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def why_not_open(error: Exception) -> str:
    """Return a message about a port that could not be opened."""
    if not isinstance(error, CannotListenError):
        return f"cannot open a port: {error}"
    reason = getattr(error.socketError, "strerror", None) or error.socketError
    if not isinstance(error.port, int):
        return f"cannot listen on {error.port}: {reason}"
    where = f" of {error.interface}" if error.interface else ""
    return f"cannot listen on port {error.port}{where}: {reason}"


def _is_secure(endpoint: IStreamServerEndpoint) -> bool:
    return isinstance(without_proxy(endpoint), SSL4ServerEndpoint | TLSEndpoint)


def _reach(address: IAddress) -> str:
    """Return which machines can connect to an address."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return "this machine"
    host = ip_address(address.host)
    if host.is_loopback:
        return "this machine"
    return "all networks of this machine" if host.is_unspecified else f"the network of {host}"


def _where(address: IPv4Address | IPv6Address) -> str:
    """Return a description of the addresses of a port."""
    if address.host == "::":
        return f"port {address.port} of this machine (all IPv4 and IPv6 addresses)"
    if address.host == "0.0.0.0":
        return f"port {address.port} of this machine (all IPv4 addresses)"
    host = f"[{address.host}]" if isinstance(address, IPv6Address) else address.host
    return f"{host}:{address.port}"


def _url(scheme: str, address: IAddress, root: str) -> str:
    if not isinstance(address, IPv4Address | IPv6Address):
        return f"/{root} on {address}"
    host = address.host
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{address.port}/{root}"
