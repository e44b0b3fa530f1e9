"""Where a request carries its token: the Authorization field (RFC 6750 §2.1), or a cookie where
one is named. Never the URL, which ends up in logs."""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.auth.limits import MAX_BEARER
from durable_streams_tw.protocol.streams.parsing import HeaderMap

AUTHORIZATION: Final = b"authorization"
_COOKIE: Final = b"cookie"

# The scheme's name is compared without case (RFC 9110 §11.1).
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)
_TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
# RFC 6265 §4.1.1: what a cookie may be named.
COOKIE_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# Several fields may have been joined with commas, and no token holds one.
_PAIRS: Final = re.compile(rb"[;,]")


class MalformedAuthorization(Exception):
    """There is something where a token should be, and it is none."""


def bearer(header: HeaderMap) -> str | None:
    """The token in the Authorization field; None where there is no such field.

    Raises `MalformedAuthorization`.
    """
    value = header.get(AUTHORIZATION)
    if value is None:
        return None
    match = _BEARER.fullmatch(value) if len(value) <= MAX_BEARER else None
    if match is None:
        raise MalformedAuthorization
    return match[1].decode("ascii")


def cookie(header: HeaderMap, name: bytes) -> str | None:
    """The token in a cookie; None where there is no such cookie. Raises `MalformedAuthorization`.

    Two of one name are refused: another host of the same domain may have set one of them.
    """
    pairs = [part.strip().partition(b"=") for part in _PAIRS.split(header.get(_COOKIE, b""))]
    found = {value for key, _, value in pairs if key == name}
    if not found:
        return None
    value = found.pop()
    if found or len(value) > MAX_BEARER or _TOKEN.fullmatch(value) is None:
        raise MalformedAuthorization
    return value.decode("ascii")
