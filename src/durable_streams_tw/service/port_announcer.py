"""Log messages about listening ports."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import ip_address
from typing import NoReturn

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.service.certificates import TLSEndpoint, why_unusable
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.proxy_protocol import without_proxy
from durable_streams_tw.service.startup import CannotStart


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
                "listen on 127.0.0.1 only, or use --auth",
                where=_where(address),
            )

    def _url(self, endpoint: IStreamServerEndpoint, address: IAddress) -> str:
        return _url("https" if _is_secure(endpoint) else "http", address, self._root)


def storage_name(configuration: Configuration) -> str:
    """Return where streams are stored, for the log."""
    if configuration["database"] is not None:
        return "PostgreSQL"
    directory: str | None = configuration["data-dir"]
    if configuration.overridden_by("database"):
        return f"{directory}, not in the database of {configuration.origin('database')}"
    return directory or "memory (lost at exit: use --data-dir to keep streams)"


def raise_not_open(failure: Failure) -> NoReturn:
    """Raise `CannotStart` if the failure is that of a port, otherwise the failure's exception."""
    error = failure.value
    if isinstance(error, CannotListenError | OSError):
        raise CannotStart(why_not_open(error))
    failure.raiseException()


def why_not_open(error: Exception) -> str:
    """Return a message about a port that could not be opened."""
    if not isinstance(error, CannotListenError):
        return f"cannot open a port: {why_unusable(error)}"
    reason = getattr(error.socketError, "strerror", None) or error.socketError
    if not isinstance(error.port, int):
        return f"cannot listen on {error.port}: {reason}"
    where = f" of {error.interface}" if error.interface else ""
    hint = ""
    if getattr(error.socketError, "errno", None) == errno.EADDRINUSE:
        hint = ". Stop the program that has it, or choose another port"
    return f"cannot listen on port {error.port}{where}: {reason}{hint}"


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
