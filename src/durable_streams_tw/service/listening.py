"""Where a server listens, as Twisted's endpoints."""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from durable_streams_tw.protocol.limits import ACCEPT_BACKLOG
from durable_streams_tw.service.certificates import KIND, TLSEndpoint
from durable_streams_tw.service.configuration import Configuration

_BACKLOGGED: Final = ("tcp:", "ssl:", "unix:")
_BACKLOG: Final = re.compile(r"(?<!\\):backlog=")


def endpoints(configuration: Configuration) -> list[IStreamServerEndpoint]:
    """The endpoints that the settings describe. Raises `BadConfiguration`."""
    # The one that twistd has installed, or installs now.
    from twisted.internet import reactor

    found: list[IStreamServerEndpoint] = []
    for text in configuration["listen"] or (_tcp(configuration),):
        try:
            found.append(_endpoint(reactor, text))
        except Exception as error:
            name = "listen" if configuration["listen"] else "interface"
            raise configuration.refuse(name, _why(error, text), text) from error
    return found


def _endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    text = _with_backlog(text)
    if text.startswith(KIND):
        tls: IStreamServerEndpoint = TLSEndpoint(reactor, text)
        return tls
    endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    return endpoint


def _with_backlog(text: str) -> str:
    """An endpoint with room for many clients that come at once, where it says nothing of that.

    Twisted's 50 are fewer than the readers of one busy stream: when they all come back after a
    restart, those for whom there is no room wait for TCP to try again.
    """
    if not text.startswith(_BACKLOGGED) or _BACKLOG.search(text):
        return text
    return f"{text}:backlog={ACCEPT_BACKLOG}"


def _tcp(configuration: Configuration) -> str:
    port: int = configuration["port"]
    interface: str = (configuration["interface"] or "").replace(":", r"\:")
    return f"tcp:{port}" + (f":interface={interface}" if interface else "")


def _why(error: Any, text: str) -> str:
    if text.startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket was handed over: it is for a service that systemd starts"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
