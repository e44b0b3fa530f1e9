"""Endpoints that the server listens on."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from durable_streams_tw.service import proxy_protocol
from durable_streams_tw.service.certificates import KIND, TLSEndpoint, why_unusable
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.limits import ACCEPT_BACKLOG

_BACKLOGGED: Final = ("tcp:", "ssl:", "unix:")
_BACKLOG: Final = re.compile(r"(?<!\\):backlog=")
_PORT: Final = re.compile(r"(?:tcp6?|ssl):(?:port=)?([0-9]+)")
#: Begin messages of Twisted about texts that are no endpoints, with TypeError.
_NOT_PARSED: Final = ("Unknown endpoint type", "invalid literal")


@implementer(IStreamServerEndpoint)
class DualStackEndpoint:
    """TCP endpoint on all IPv4 and IPv6 addresses of this machine.

    Twisted's endpoints have one address family each, and the system decides whether an IPv6 port
    also accepts IPv4 (net.ipv6.bindv6only).
    """

    def __init__(self, reactor: Any, port: int) -> None:
        self._reactor = reactor
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Open the port. The Deferred fails with `CannotListenError`."""
        # The stand-ins for the reactor of `workers.shared_sockets` have such a method.
        listen = getattr(self._reactor, "listen_dual_stack", self._listen)
        try:
            return succeed(listen(self._port, protocolFactory, ACCEPT_BACKLOG))
        except OSError as error:
            # Without the address that create_server adds to the text.
            reason = OSError(error.errno, os.strerror(error.errno or 0))
            return fail(CannotListenError("", self._port, reason))
        except CannotListenError:
            return fail()

    def _listen(self, port: int, factory: IProtocolFactory, backlog: int) -> IListeningPort:
        with socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
        ) as opened:
            opened.setblocking(False)
            # The reactor duplicates the descriptor.
            listening: IListeningPort = self._reactor.adoptStreamPort(
                opened.fileno(), socket.AF_INET6, factory
            )
            return listening


def endpoints(configuration: Configuration, reactor: Any = None) -> list[IStreamServerEndpoint]:
    """Return the endpoints of the settings. Raises `ConfigurationError`.

    ``reactor`` replaces the global reactor.
    """
    if reactor is None:
        # Imported here: twistd installs the reactor first.
        from twisted.internet import reactor

    found: list[IStreamServerEndpoint] = []
    problems: list[str] = []
    if not configuration["listen"] and not configuration["interface"] and _has_ipv6():
        return [DualStackEndpoint(reactor, configuration["port"])]
    for text in configuration["listen"] or (_tcp(configuration),):
        try:
            found.append(_configured(configuration, reactor, text))
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return found


def tls_endpoints(listening: Iterable[IStreamServerEndpoint]) -> list[TLSEndpoint]:
    """Return the endpoints with a certificate that can be reloaded."""
    inner = map(proxy_protocol.without_proxy, listening)
    return [endpoint for endpoint in inner if isinstance(endpoint, TLSEndpoint)]


def _configured(configuration: Configuration, reactor: Any, text: str) -> IStreamServerEndpoint:
    """Return the endpoint of a setting. Raises `ConfigurationError`."""
    try:
        return _endpoint(reactor, text)
    except Exception as error:
        name = "listen" if configuration["listen"] else "interface"
        raise configuration.error(name, _why(error, text), text) from error


def _endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    if text.startswith(proxy_protocol.KIND):
        proxied_endpoint = _endpoint(reactor, text.removeprefix(proxy_protocol.KIND))
        proxied: IStreamServerEndpoint = proxy_protocol.ProxyEndpoint(proxied_endpoint, reactor)
        return proxied
    port = _PORT.match(text)
    if port and int(port[1]) > 65535:
        raise ValueError(f"{port[1]} is not a port: expected a number from 0 to 65535")
    text = _with_backlog(text)
    if text.startswith(KIND):
        tls: IStreamServerEndpoint = TLSEndpoint(reactor, text)
        return tls
    endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    return endpoint


def _with_backlog(text: str) -> str:
    """Add a backlog to an endpoint string that has none.

    Twisted's default of 50 is less than the readers of a busy stream: after a restart, those that
    exceed it would wait for TCP retransmissions.
    """
    if not text.startswith(_BACKLOGGED) or _BACKLOG.search(text):
        return text
    return f"{text}:backlog={ACCEPT_BACKLOG}"


def _tcp(configuration: Configuration) -> str:
    port: int = configuration["port"]
    interface: str = (configuration["interface"] or "").replace(":", r"\:")
    return f"tcp:{port}" + (f":interface={interface}" if interface else "")


def _has_ipv6() -> bool:
    """Return whether this machine can listen on IPv6 and IPv4 with one socket."""
    if not socket.has_dualstack_ipv6():
        return False
    try:
        # Bind as well: a kernel without IPv6 addresses may still create the socket.
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True).close()
    except OSError:
        return False
    return True


def _why(error: Any, text: str) -> str:
    if text.startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket: systemd: endpoints require a systemd service with socket activation"
    if isinstance(error, TypeError) or str(error).startswith(_NOT_PARSED):
        return "expected an endpoint such as tcp:4437:interface=127.0.0.1 or unix:/run/streams.sock"
    return why_unusable(error)
