"""Where a browser's page may come from, and by which names the server may be called.

A browser sends what makes a client trusted along with every page's request, whoever wrote the
page: a cookie, or that it runs on this machine. So a request that changes something is looked at
for the page that it comes from (Origin, RFC 6454; Sec-Fetch-Site, Fetch Metadata). And a page can
have its own name lead to this machine, which makes it no stranger to it (DNS rebinding): then
only the name that the request is for gives it away.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final

#: Stands for every name of this machine, among names and among origins.
LOCAL: Final = "local"

#: What reads, and changes nothing (RFC 9110 §9.2.1).
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))

_PORT: Final = re.compile(r":[0-9]*\Z")
_ORIGIN: Final = re.compile(r"https?://([^/?#@\\]+)\Z")


def host_name(authority: str) -> str:
    """The name in a Host value, in small letters, without its port and a last dot."""
    return _PORT.sub("", authority).lower().removesuffix(".")


def is_local(name: str) -> bool:
    """Whether a host's name means the machine that asks, in every browser and resolver."""
    if name == "localhost" or name.endswith(".localhost"):
        # RFC 6761 §6.3
        return True
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_local_origin(origin: bytes) -> bool:
    """Whether an Origin value is of a page that this machine serves."""
    match = _ORIGIN.match(origin.decode("latin-1"))
    return match is not None and is_local(host_name(match[1]))


class AllowedHosts:
    """The names by which a server may be called; none are all."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset([host_name(name) for name in names])
        self._local = LOCAL in names

    def __bool__(self) -> bool:
        return bool(self._names)

    def allow(self, header: Mapping[bytes, bytes]) -> bool:
        """Whether a request may be answered.

        Looked at is the Host field itself, which no page can choose; what a proxy forwards any
        page could write, once it is no stranger. A client without one is no browser.
        """
        given = header.get(b"host")
        if not self._names or given is None:
            return True
        name = host_name(given.decode("latin-1"))
        return name in self._names or (self._local and is_local(name))


class AllowedOrigins:
    """The origins whose pages may change something, ``*`` for all of them.

    The server's own are always among them.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._all = "*" in origins
        self._named = frozenset([origin.lower() for origin in origins]) - {"*", LOCAL}
        self._local = LOCAL in origins

    def __bool__(self) -> bool:
        return not self._all

    def allow(
        self, method: bytes, header: Mapping[bytes, bytes], authority: bytes, *, everybody: bool
    ) -> bool:
        """Whether a request may be carried out for the page that it comes from.

        ``authority`` is the host and port that the client sees; ``everybody`` says whether ``*``
        counts: with a cookie it does not, for then each user's rights would be every page's.
        """
        if method in SAFE or (everybody and self._all):
            return True
        origin = header.get(b"origin")
        site = header.get(b"sec-fetch-site")
        if origin is None:
            # No page, or one of a browser so old that it says nothing.
            return site in (None, b"same-origin", b"none")
        if site == b"same-origin":
            return True
        text = origin.decode("latin-1").lower()
        return text in self._named or self._is_near(text, authority)

    def _is_near(self, origin: str, authority: bytes) -> bool:
        match = _ORIGIN.match(origin)
        if match is None:
            return False
        # What ends TLS before the server makes the scheme a matter of opinion.
        own = match[1] == authority.decode("latin-1").lower()
        return own or (self._local and is_local(host_name(match[1])))
