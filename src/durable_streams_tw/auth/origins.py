"""Host and origin checks against cross-site requests and DNS rebinding.

A browser attaches cookies, and the trust in a loopback address, to requests of every page. So a
request that changes something is checked for the page that sent it (Origin, RFC 6454;
Sec-Fetch-Site, Fetch Metadata). A page that resolves its own name to this machine (DNS rebinding)
counts as same-origin; only the Host header shows the name that it used.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

#: Stands for every name of this machine, among host names and among origins.
LOCAL: Final = "local"

_PORT: Final = re.compile(r":[0-9]*\Z")
_ORIGIN: Final = re.compile(r"https?://([^/?#@\\]+)\Z")


def host_name(authority: str) -> str:
    """Return the lower-case host name of a Host value, without port and trailing dot."""
    return _PORT.sub("", authority).lower().removesuffix(".")


def is_local(name: str) -> bool:
    """Return whether a host name means the loopback interface in every browser and resolver."""
    if name == "localhost" or name.endswith(".localhost"):
        # RFC 6761 §6.3
        return True
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_local_origin(origin: bytes) -> bool:
    """Return whether an Origin value names the loopback interface."""
    match = _ORIGIN.match(origin.decode("latin-1"))
    return match is not None and is_local(host_name(match[1]))


class AllowedHosts:
    """Host names by which clients may call the server. An empty set allows all."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset([host_name(name) for name in names])
        self._local = LOCAL in names

    def __bool__(self) -> bool:
        return bool(self._names)

    def allow(self, host: bytes | None) -> bool:
        """Return whether a request with this Host header may be answered.

        Pass the Host header itself, not X-Forwarded-Host: a page that has rebound its name can
        set the latter. A client without a Host header is not a browser, and is allowed.
        """
        if not self._names or host is None:
            return True
        name = host_name(host.decode("latin-1"))
        return name in self._names or (self._local and is_local(name))


class AllowedOrigins:
    """Origins whose pages may send requests that change something, ``*`` for all.

    The server's own origin is always allowed.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._all = "*" in origins
        self._named = frozenset([origin.lower() for origin in origins]) - {"*", LOCAL}
        self._local = LOCAL in origins

    def __bool__(self) -> bool:
        return not self._all

    def allow(
        self, origin: bytes | None, fetch_site: bytes | None, authority: bytes, *, wildcard: bool
    ) -> bool:
        """Return whether the page that sent an unsafe request may do so.

        ``origin`` and ``fetch_site`` are the Origin and Sec-Fetch-Site headers, ``authority`` the
        host and port that the client sees. Without ``wildcard``, ``*`` allows no origin: a
        cookie's rights must not be lent to every page.
        """
        if wildcard and self._all:
            return True
        if origin is None:
            # Not a browser, or one too old to send Sec-Fetch-Site.
            return fetch_site in (None, b"same-origin", b"none")
        if fetch_site == b"same-origin":
            return True
        text = origin.decode("latin-1").lower()
        return text in self._named or self._is_own(text, authority)

    def _is_own(self, origin: str, authority: bytes) -> bool:
        match = _ORIGIN.match(origin)
        if match is None:
            return False
        # The scheme is not compared: a proxy may terminate TLS.
        own = match[1] == authority.decode("latin-1").lower()
        return own or (self._local and is_local(host_name(match[1])))
