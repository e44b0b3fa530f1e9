"""Listening sockets that the supervisor opens and workers serve.

`SocketBinder` and `InheritedPorts` stand in for the reactor while endpoints listen: the first
opens the sockets in the supervisor, the second serves them in a worker. Both see the same calls in
the same order, so the position of a socket says which endpoint it belongs to.

For a TCP port each worker has a socket of its own (SO_REUSEPORT), among which the kernel spreads
connections. With one shared socket, the process that was woken last would accept most of them. The
supervisor keeps all sockets open: connections that wait while a worker restarts are served by its
successor.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet import unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from durable_streams_tw.service.workers.limits import PORT_PATIENCE

#: True if the kernel spreads connections over sockets with SO_REUSEPORT.
SPREADS: Final = sys.platform.startswith("linux")

_PAUSE: Final = 0.05


class BoundPort:
    """Open port that this process does not serve."""

    def __init__(self, bound: socket.socket) -> None:
        self._address = _address_of(bound)

    def getHost(self) -> IAddress:
        """Return the address."""
        address: IAddress = self._address
        return address


def _address_of(bound: socket.socket) -> Any:
    name = bound.getsockname()
    if bound.family == socket.AF_INET:
        return IPv4Address("TCP", *name)
    if bound.family == socket.AF_INET6:
        return IPv6Address("TCP", *name)
    return UNIXAddress(name)


class SocketBinder:
    """Stand-in for the reactor that opens listening sockets for ``workers`` processes."""

    def __init__(self, reactor: Any, workers: int) -> None:
        self._reactor = reactor
        self._workers = workers
        # Sockets of each endpoint: one per worker, or one for all.
        self._opened: list[list[socket.socket]] = []
        self._files: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def sockets(self) -> list[socket.socket]:
        """Open sockets."""
        return [one for sockets in self._opened for one in sockets]

    def positions(self, worker: int) -> tuple[int, ...]:
        """Return the positions in `sockets` of those that a worker serves, one per endpoint."""
        first, found = 0, []
        for sockets in self._opened:
            found.append(first + worker % len(sockets))
            first += len(sockets)
        return tuple(found)

    def close(self) -> None:
        """Close all sockets, and remove the files of UNIX sockets."""
        for sockets in self._opened:
            for one in sockets:
                one.close()
        for port in self._files:
            port.stopListening()
        self._opened, self._files = [], []

    # -- calls of endpoints ---------------------------------------------------------------------

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Open the sockets of a TCP port. Raises `CannotListenError`."""
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        return self._listen_tcp(family, interface, port, backlog)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Open the sockets of a TLS port; the workers load its certificate."""
        return self.listenTCP(port, factory, backlog, interface)

    def listen_dual_stack(self, port: int, factory: Any, backlog: int) -> Any:
        """Open the sockets of a port on all IPv4 and IPv6 addresses."""
        return self._listen_tcp(socket.AF_INET6, "", port, backlog, dual_stack=True)

    def listenUNIX(self, address: str, factory: Any, **more: Any) -> Any:
        """Open a socket file, which all workers share."""
        # Twisted's port takes care of the mode, the lock and the removal of the file.
        port = self._reactor.listenUNIX(address, Factory(), **more)
        port.stopReading()
        self._files.append(port)
        return self._keep([port.socket.dup()])

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """Keep a socket that another program has opened, which all workers share."""
        return self._keep([socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM)])

    def _listen_tcp(
        self, family: int, interface: str, port: int, backlog: int, *, dual_stack: bool = False
    ) -> Any:
        opened: list[socket.socket] = []

        def bind(*, reuse_port: bool) -> socket.socket:
            one = socket.socket(family, socket.SOCK_STREAM)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and dual_stack:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if reuse_port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                one.bind((interface, port))
            except OSError:
                opened.remove(one)
                one.close()
                raise
            return one

        try:
            if SPREADS and port:
                # A socket with SO_REUSEPORT would share a port that is in use.
                _wait_for_port(lambda: bind(reuse_port=False))
                opened.pop().close()
            for _ in range(self._workers if SPREADS else 1):
                port = bind(reuse_port=SPREADS).getsockname()[1]
            for one in opened:
                one.listen(backlog)
        except OSError as error:
            for one in opened:
                one.close()
            raise CannotListenError(interface, port, error) from None
        return self._keep(opened)

    def _keep(self, sockets: list[socket.socket]) -> BoundPort:
        for one in sockets:
            one.setblocking(False)
        self._opened.append(sockets)
        return BoundPort(sockets[0])


def _wait_for_port(bind: Any) -> None:
    """Bind a port, which workers of a supervisor that was killed may have for a moment."""
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


class InheritedPorts:
    """Stand-in for the reactor that serves inherited sockets, in the order of the endpoints."""

    def __init__(self, reactor: Any, descriptors: Iterable[int]) -> None:
        self._reactor = reactor
        self._descriptors = iter(descriptors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, *more: Any, **options: Any) -> Any:
        """Serve the next socket."""
        return self._adopt(factory)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, *more: Any, **options: Any
    ) -> Any:
        """Serve the next socket with TLS."""
        return self._adopt(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listen_dual_stack(self, port: int, factory: Any, backlog: int) -> Any:
        """Serve the next socket."""
        return self._adopt(factory)

    def listenUNIX(self, address: str, factory: Any, *more: Any, **options: Any) -> Any:
        """Serve the next socket."""
        return self._adopt(factory)

    def _adopt(self, factory: Any) -> Any:
        with socket.socket(fileno=next(self._descriptors)) as inherited:
            inherited.setblocking(False)
            # Both duplicate the descriptor.
            if inherited.family == socket.AF_UNIX:
                shared: Any = _SharedUnixPort
                port = shared._fromListeningDescriptor(self._reactor, inherited.fileno(), factory)
                port.startListening()
                return port
            return self._reactor.adoptStreamPort(inherited.fileno(), inherited.family, factory)


class _SharedUnixPort(unix.Port):
    """Port at a socket file of the supervisor, whose mode and removal are not its concern."""

    def _buildAddr(self, name: Any) -> UNIXAddress:
        # Twisted leaves the file alone if the address is an abstract one.
        return UNIXAddress(b"\0" + os.fsencode(name))
