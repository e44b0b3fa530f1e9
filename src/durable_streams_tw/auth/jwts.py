"""JSON Web Tokens of an issuer: what one says, once it is verified (RFC 7519, RFC 8725).

1. The algorithm is one of those that were asked for, all asymmetric, and one that the key is
   for; the token only names it (RFC 8725 §3.1).
2. The key is the issuer's own: nothing in a token leads to another, whatever ``jku``, ``jwk``,
   ``x5u`` or ``x5c`` say (§3.10), and a key's name is compared, never looked up anywhere.
3. Issuer, audience, subject and end are required, and compared as they are written (§3.8, §3.9,
   §3.12); a token of another kind is refused by its ``typ`` (§3.11).
4. Extensions that must be understood are not understood (RFC 7515 §4.1.11).
"""

from __future__ import annotations

import binascii
import json
import math
import re
from typing import Any, Final

import jwt
from msgspec import Struct

from durable_streams_tw.auth.grants import MalformedGrants, grants_of
from durable_streams_tw.auth.identities import Identity
from durable_streams_tw.auth.jwks import ALGORITHMS, KeySet
from durable_streams_tw.auth.limits import CLOCK_SKEW, MAX_BEARER

# RFC 7515 §3.1: three parts, in base64url without padding.
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LONGEST_NAME: Final = 256
_OPTIONS: Final[Any] = {
    "verify_signature": True,
    # Compared below, with a clock and a strictness of our own.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRequirements(Struct, frozen=True):
    """What the tokens of an issuer have to be.

    ``claim`` is the name of the one that holds the grants; ``types`` are the values of ``typ``
    that are allowed, in small letters, None for a token without one.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ALGORITHMS
    claim: str = "grants"
    types: frozenset[str | None] = frozenset((None, "jwt", "at+jwt"))


class InvalidToken(Exception):
    """The token says nothing to us; the message is for whoever has it, and holds none of it."""


class UnknownKey(InvalidToken):
    """The token names a key that is not in the set: perhaps it is new."""


def identity(token: str, expected: TokenRequirements, keys: KeySet, now: float) -> Identity:
    """Who has a token. Raises `InvalidToken`, and `UnknownKey` before anything is computed."""
    algorithm, kid = _header(token, expected)
    candidates = keys.candidates(kid, algorithm)
    if not candidates:
        raise UnknownKey("the token is signed with a key that the issuer does not publish")
    claims = _verified(token, algorithm, candidates[0].public)
    return _identity(claims, expected, now)


def _header(token: str, expected: TokenRequirements) -> tuple[str, str | None]:
    """The algorithm and the key that a token names."""
    form = _FORM.fullmatch(token) if len(token) <= MAX_BEARER else None
    if form is None:
        raise InvalidToken("the token is not a signed JWT")
    part = form[1]
    try:
        header = json.loads(binascii.a2b_base64(part.translate(_URL_SAFE) + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise InvalidToken("the token's header cannot be read") from None
    if not isinstance(header, dict):
        raise InvalidToken("the token's header is no object")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in expected.algorithms:
        raise InvalidToken("the token's algorithm is not allowed")
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token has an extension that is not understood")
    kind = header.get("typ")
    if isinstance(kind, str):
        # RFC 7515 §4.1.9: without case, and without the prefix of a media type.
        kind = kind.lower().removeprefix("application/")
    elif kind is not None:
        raise InvalidToken("the token is of another kind")
    if kind not in expected.types:
        raise InvalidToken("the token is of another kind")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= _LONGEST_NAME):
        raise InvalidToken("the token's kid is no name")
    return algorithm, kid


_URL_SAFE: Final = str.maketrans("-_", "+/")


def _verified(token: str, algorithm: str, public: Any) -> dict[str, Any]:
    try:
        return jwt.decode(token, public, algorithms=[algorithm], options=_OPTIONS)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidToken("the token's signature does not verify") from None


def _identity(claims: dict[str, Any], expected: TokenRequirements, now: float) -> Identity:
    ends = _time(claims, "exp")
    if ends is None:
        raise InvalidToken("the token has no end: exp is missing")
    if now >= ends:
        raise InvalidToken("the token has expired")
    begins = _time(claims, "nbf")
    issued = _time(claims, "iat")
    if max(begins or 0, issued or 0) > now + CLOCK_SKEW:
        raise InvalidToken("the token is not valid yet")
    if claims.get("iss") != expected.issuer:
        raise InvalidToken("the token is from another issuer")
    audience = claims.get("aud")
    if isinstance(audience, str):
        audience = [audience]
    if not isinstance(audience, list) or expected.audience not in audience:
        raise InvalidToken("the token is for another audience")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_NAME:
        raise InvalidToken("the token has no subject")
    try:
        grants = grants_of(claims.get(expected.claim, []), strict=False)
    except MalformedGrants:
        raise InvalidToken("the token's grants are malformed") from None
    return Identity(f"{expected.issuer} {subject}", grants, ends)


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2); None where it is missing."""
    value = claims.get(name)
    if value is None:
        return None
    # True is an integer too, and nothing is later than NaN.
    if type(value) is int and 0 <= value < 2**53:
        return float(value)
    if type(value) is float and math.isfinite(value) and 0 <= value < 2**53:
        return value
    raise InvalidToken(f"the token's {name} is no time")
