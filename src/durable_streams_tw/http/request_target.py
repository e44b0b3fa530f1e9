"""Request targets: raw path, authority, and the URL that the client used.

The raw target is parsed here since routers decode it: ``a%2Fb`` and ``a/b`` would become equal
too early, and ``a//b`` would be redirected.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.streams.parsing import HeaderMap

_FORWARDED_HOST: Final = b"x-forwarded-host"
_FORWARDED_PROTO: Final = b"x-forwarded-proto"

# RFC 3986 §3.2.2, §3.2.3: a bracketed address or a registered name, and a port.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=-]{1,253})(?::[0-9]{0,5})?"
)
# RFC 9112 §3.2.2: scheme and authority before the path.
_ABSOLUTE_FORM: Final = re.compile(rb"https?://([^/?#]*)(?=[/?]|\Z)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def is_host(value: bytes) -> bool:
    """Return whether a Host header is well-formed (RFC 9110 §7.2)."""
    if _HOST.fullmatch(value) is None:
        return False
    name = value.partition(b":")[0]
    # Klein raises for names whose labels exceed the limits of DNS (RFC 1035 §2.3.4).
    return value[:1] == b"[" or all(
        0 < len(label) < 64 for label in name.removesuffix(b".").split(b".")
    )


def origin_form(target: bytes) -> bytes:
    """Return a target without the scheme and authority of its absolute form."""
    match = _ABSOLUTE_FORM.match(target)
    if match is None:
        return target
    rest = target[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def authority_of(target: bytes) -> bytes | None:
    """Return host and port of a target in absolute form, which override the Host header."""
    match = _ABSOLUTE_FORM.match(target)
    return None if match is None else match[1]


def raw_path(uri: bytes, below: int) -> bytes:
    """Return the last ``below`` segments of a target's path, still percent-encoded.

    Raises `Refused` for a target with a fragment.
    """
    if b"#" in uri:
        raise Refused(Problem.MALFORMED_REQUEST, "the request target has a fragment")
    path = origin_form(uri).partition(b"?")[0]
    segments = path.split(b"/")
    return b"/".join(segments[len(segments) - below :])


def format_address(address: object) -> bytes:
    """Return an `IAddress` as host and port of a URL, ``localhost`` for one without a host."""
    host = getattr(address, "host", None)
    if host is None:
        return b"localhost"
    port: int = getattr(address, "port")  # noqa: B009 - IAddress declares neither
    return f"{f'[{host}]' if ':' in host else host}:{port}".encode("ascii")


def base_url(header: HeaderMap, host: bytes, secure: bool, trust_proxy: bool) -> bytes:
    """Return scheme and authority of the URL that the client used.

    With ``trust_proxy`` well-formed X-Forwarded-Proto and X-Forwarded-Host headers take
    precedence. Of a list the first value counts, which the outermost proxy wrote.
    """
    scheme = b"https" if secure else b"http"
    if trust_proxy:
        proto = header.get(_FORWARDED_PROTO, b"").partition(b",")[0].strip().lower()
        if proto in (b"http", b"https"):
            scheme = proto
        forwarded = header.get(_FORWARDED_HOST, b"").partition(b",")[0].strip()
        if forwarded and is_host(forwarded):
            host = forwarded
    return scheme + b"://" + host
