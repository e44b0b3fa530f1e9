"""Where a request points: its raw path behind the mount, and its URL as the client sees it.

The path is taken from the raw target, for what routes requests decodes it: ``a%2Fb`` and
``a/b`` would become the same too early, and ``a//b`` would be redirected.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from twisted.web.server import Request

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
    """Whether a Host value has the form that it must have (RFC 9110 §7.2)."""
    if _HOST.fullmatch(value) is None:
        return False
    name = value.partition(b":")[0]
    # A domain name's labels (RFC 1035 §2.3.4); what comes later trips over others.
    return value[:1] == b"[" or all(
        0 < len(label) < 64 for label in name.removesuffix(b".").split(b".")
    )


def origin_form(target: bytes) -> bytes:
    """The target without scheme and authority, where a client sent it in absolute form."""
    match = _ABSOLUTE_FORM.match(target)
    if match is None:
        return target
    rest = target[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def authority_of(target: bytes) -> bytes | None:
    """The host and port in a target of absolute form, which count more than a Host field."""
    match = _ABSOLUTE_FORM.match(target)
    return None if match is None else match[1]


def raw_path(uri: bytes, below: int) -> bytes:
    """The last ``below`` segments of a raw target's path, as they are written."""
    if b"#" in uri:
        raise Refused(Problem.MALFORMED_REQUEST, "a request target has no fragment")
    path = origin_form(uri).partition(b"?")[0]
    segments = path.split(b"/")
    return b"/".join(segments[len(segments) - below :])


def host_of(request: Request) -> bytes:
    """The host and port that a request is for. Raises `Refused` (MALFORMED_REQUEST).

    A client of HTTP/1.0 need not name it; the address that it has reached stands in.
    """
    given = request.requestHeaders.getRawHeaders(b"host")
    if given is None:
        if request.clientproto == b"HTTP/1.0":
            return _reached(request)
        raise Refused(Problem.MALFORMED_REQUEST, "the Host field is missing")
    host: bytes = given[0]
    if any(other != host for other in given[1:]) or (
        len(given) > 1 and request.clientproto != b"HTTP/2"
    ):
        raise Refused(Problem.MALFORMED_REQUEST, "the Host field is given twice")
    if not is_host(host):
        raise Refused(Problem.MALFORMED_REQUEST, "the Host field names no host")
    return host


def _reached(request: Request) -> bytes:
    address = request.getHost()
    host = getattr(address, "host", None)
    if host is None:
        return b"localhost"
    written = f"[{host}]" if ":" in host else host
    return f"{written}:{address.port}".encode("ascii")


def base_url(header: HeaderMap, host: bytes, secure: bool, trust_proxy: bool) -> bytes:
    """Scheme and authority of the URL that the client used, without a path.

    With ``trust_proxy``, X-Forwarded-Proto and X-Forwarded-Host say it, where they are
    well-formed; of a list the first, which the outermost proxy has written.
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
