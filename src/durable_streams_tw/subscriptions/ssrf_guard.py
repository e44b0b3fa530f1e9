"""SSRF guard: URLs and addresses that webhooks may use (PROTOCOL.md §12.8).

A client that can create a subscription makes the server send requests. It must not reach hosts
that only the server can reach:

1. URLs are ``https``, have no userinfo or fragment, and have only one interpretation.
2. All addresses of a host name are checked when the subscription is created and before each call;
   the connection goes to a checked address.
3. An address must be in a range assigned to the public Internet and must not embed a private one.
   Unknown ranges are refused.

`ipaddress.is_global` alone is insufficient: it accepts 6to4 and NAT64 addresses, which carry a
private IPv4 address, and multicast.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_WEBHOOK_URL

Address = IPv4Address | IPv6Address

# RFC 6890 and the IANA special-purpose registries, multicast (RFC 5771), class E, and internal
# cloud services at public addresses (168.63.129.16 of Azure).
_REFUSED_4: Final = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24"),
            *("192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "168.63.129.16/32"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)

# Global unicast addresses are assigned from this range only (RFC 4291 §2.4); it excludes mapped,
# NAT64, unique local, link-local and multicast addresses.
_GLOBAL_6: Final = ip_network("2000::/3")

# Protocol assignments including Teredo, documentation, 6to4, and returned allocations.
_REFUSED_6: Final = tuple(
    map(
        ip_network,
        (
            *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48"),
            *("3ffe::/16", "3fff::/20"),
        ),
    )
)

_LOOPBACK_4: Final = ip_network("127.0.0.0/8")
_LOOPBACK_6: Final = ip_address("::1")

# RFC 5214 §6.1: prefixes of interface identifiers that embed an IPv4 address (ISATAP).
_ISATAP: Final = (0x00005EFE, 0x02005EFE)

# RFC 1123 §2.1 labels. Only ASCII names are accepted: others must be encoded (RFC 5891).
_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*"
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
# Names that end in a number: some parsers read them as an IPv4 address (WHATWG URL §3.5).
_NUMBER_AT_END: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_PLAIN: Final = re.compile(r"[!-~]+")
_LOCAL_NAMES: Final = ("localhost",)
_PORTS: Final = {"http": 80, "https": 443}


class Target(Struct, frozen=True):
    """Parsed and allowed webhook URL.

    ``host`` is a name or an address. ``local`` is true if it denotes this machine.
    """

    url: str
    secure: bool
    host: str
    port: int
    local: bool


def target_of(url: str, allow_local: bool) -> Target:
    """Parse a webhook URL. Raises `Refused` (WEBHOOK_URL_REJECTED) if it is not allowed.

    With ``allow_local`` the loopback addresses of this machine are allowed, also without TLS.
    """
    if len(url) > MAX_WEBHOOK_URL:
        raise _refused(f"it is longer than {MAX_WEBHOOK_URL} characters")
    if _PLAIN.fullmatch(url) is None or "\\" in url:
        raise _refused("it has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise _refused("it is malformed") from None
    scheme = parts.scheme
    if scheme not in _PORTS:
        raise _refused("it is not https")
    if "@" in parts.netloc:
        raise _refused("it has a user name")
    if "#" in url:
        raise _refused("it has a fragment")
    if not host or port == 0 or parts.netloc.endswith(":"):
        raise _refused("it has no host or no port")
    host = host.removesuffix(".")
    local = _judge_host(host, parts.netloc.startswith("["), allow_local)
    if scheme == "http" and not local:
        raise _refused("it is not https")
    return Target(url, scheme == "https", host, port or _PORTS[scheme], local)


def _judge_host(host: str, bracketed: bool, allow_local: bool) -> bool:
    """Return whether a host is this machine. Raises `Refused` if calls to it are forbidden."""
    address = parse_address(host)
    if address is None:
        if bracketed or _NUMBER_AT_END.fullmatch(host) or not _NAME.fullmatch(host):
            raise _refused("its host is neither a name nor an address")
        local = _is_this_machine(host)
    elif isinstance(address, IPv6Address):
        # HTTP clients parse IPv6 literals differently, so the call could go to another host than
        # the one checked here.
        raise _refused("its host is an IPv6 address: give it a name")
    elif str(address) != host:
        raise _refused("its host is an address in a form that is read in several ways")
    elif _is_loopback(address):
        local = True
    elif is_public(address):
        return False
    else:
        raise _refused("its host is not on the public Internet")
    if local and not allow_local:
        raise _refused("its host is this machine, which needs --allow-local-webhooks")
    return local


def limiter_key(url: str) -> str:
    """Return the host by which calls are limited; with the port if it is this machine.

    Return an empty string for URLs that cannot be parsed; these are never called.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removesuffix(".")
    except ValueError:
        return ""
    return parts.netloc if _is_this_machine(host) else host


def _is_this_machine(host: str) -> bool:
    address = parse_address(host)
    if address is None:
        return host in _LOCAL_NAMES or host.endswith(".localhost")
    return _is_loopback(address)


def parse_address(host: str) -> Address | None:
    """Return the IP address that a host denotes in any notation, or None."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        # Short, decimal, hexadecimal and octal forms: 127.1, 2130706433, 0x7f.1, 0177.0.0.1.
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: Address) -> bool:
    """Return whether an address is on the public Internet and embeds no other address."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_4)
    return (
        address in _GLOBAL_6
        and address.scope_id is None
        and address.is_global
        and not any(address in network for network in _REFUSED_6)
        and (int(address) >> 32) & 0xFFFF_FFFF not in _ISATAP
    )


def _is_loopback(address: Address) -> bool:
    # Not `is_loopback`: some versions of Python also return true for IPv4-mapped addresses.
    return address in _LOOPBACK_4 or address == _LOOPBACK_6


def check_addresses(target: Target, found: list[str]) -> list[Address]:
    """Parse and check the addresses ``found`` for a target's host name.

    Raises `Refused` (WEBHOOK_URL_REJECTED) if any of them is forbidden: a mix of allowed and
    forbidden addresses is an attack.
    """
    addresses: list[Address] = []
    for text in found:
        try:
            address = ip_address(text)
        except ValueError:
            raise _refused("its host name has a malformed address") from None
        good = _is_loopback(address) if target.local else is_public(address)
        if not good:
            raise _refused("its host is not on the public Internet")
        addresses.append(address)
    return addresses


def _refused(reason: str) -> Refused:
    return Refused(Problem.WEBHOOK_URL_REJECTED, f"webhook.url is refused: {reason}")
