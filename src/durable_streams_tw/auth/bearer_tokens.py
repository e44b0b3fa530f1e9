"""Extraction of bearer tokens from the Authorization header (RFC 6750 §2.1) or a cookie.

Tokens in the URL are not accepted: URLs end up in logs.
"""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.auth.limits import MAX_BEARER

# The name of the scheme is case-insensitive (RFC 9110 §11.1).
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)
_TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
# RFC 6265 §4.1.1, with a bound on the length.
COOKIE_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# Repeated Cookie headers are joined with commas, which no token contains.
_PAIRS: Final = re.compile(rb"[;,]")


class MalformedAuthorization(Exception):
    """Authorization header or cookie that holds no valid bearer token."""


def token_from_authorization(value: bytes | None) -> str | None:
    """Return the token of an Authorization header's value, None if there is no such header.

    Raise `MalformedAuthorization` for another scheme or an invalid token.
    """
    if value is None:
        return None
    match = _BEARER.fullmatch(value) if len(value) <= MAX_BEARER else None
    if match is None:
        raise MalformedAuthorization
    return match[1].decode("ascii")


def token_from_cookie(value: bytes, name: bytes) -> str | None:
    """Return the token in the cookie ``name`` of a Cookie header's value, None if it is missing.

    Raise `MalformedAuthorization` for an invalid token, and for two different cookies of that
    name: another host of the same domain may have set one of them.
    """
    pairs = [part.strip().partition(b"=") for part in _PAIRS.split(value)]
    found = {value for key, _, value in pairs if key == name}
    if not found:
        return None
    token = found.pop()
    if found or len(token) > MAX_BEARER or _TOKEN.fullmatch(token) is None:
        raise MalformedAuthorization
    return token.decode("ascii")
