"""Verification of an issuer's JSON Web Tokens (RFC 7519, RFC 8725).

1. The algorithm must be a configured one, all of them asymmetric, and fit the key (RFC 8725 §3.1).
2. Keys come from the issuer's JWKS only: ``jku``, ``jwk``, ``x5u`` and ``x5c`` are ignored
   (§3.10), and ``kid`` is only compared, never used for a look-up elsewhere.
3. ``iss``, ``aud``, ``sub`` and ``exp`` are required and compared exactly (§3.8, §3.9, §3.12);
   tokens of another ``typ`` are refused (§3.11).
4. Tokens with critical extensions are refused (RFC 7515 §4.1.11).
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
_MAX_NAME: Final = 256
_OPTIONS: Final[Any] = {
    "verify_signature": True,
    # Checked in _identity, with an injected clock and stricter types.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRequirements(Struct, frozen=True):
    """Requirements for the tokens of one issuer.

    ``claim`` is the name of the claim with the grants; ``types`` are the allowed values of
    ``typ`` in lower case, None for a token without one.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ALGORITHMS
    claim: str = "grants"
    types: frozenset[str | None] = frozenset((None, "jwt", "at+jwt"))


class InvalidToken(Exception):
    """Error of an invalid token. The message is sent to the client and holds no part of it."""


class UnknownKey(InvalidToken):
    """Error of a token whose key is not in the JWKS; the key may be new."""


def identity(token: str, expected: TokenRequirements, keys: KeySet, now: float) -> Identity:
    """Verify a token and return its client's identity. Raise `InvalidToken` or `UnknownKey`."""
    algorithm, kid = _header(token, expected)
    candidates = keys.candidates(kid, algorithm)
    if not candidates:
        raise UnknownKey("the token's key is not in the issuer's JWKS")
    claims = _verified(token, algorithm, candidates[0].public)
    return _identity(claims, expected, now)


def _header(token: str, expected: TokenRequirements) -> tuple[str, str | None]:
    """Return the ``alg`` and ``kid`` of a token. Raise `InvalidToken`."""
    form = _FORM.fullmatch(token) if len(token) <= MAX_BEARER else None
    if form is None:
        raise InvalidToken("the token is not a signed JWT")
    part = form[1]
    try:
        header = json.loads(binascii.a2b_base64(part.translate(_URL_SAFE) + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise InvalidToken("the token's header is not valid JSON") from None
    if not isinstance(header, dict):
        raise InvalidToken("the token's header is not a JSON object")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in expected.algorithms:
        raise InvalidToken("the token's algorithm is not allowed")
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token has a critical extension that is not supported")
    kind = header.get("typ")
    if isinstance(kind, str):
        # RFC 7515 §4.1.9: case-insensitive, the prefix application/ is optional.
        kind = kind.lower().removeprefix("application/")
    elif kind is not None:
        raise InvalidToken("the token's typ is not allowed")
    if kind not in expected.types:
        raise InvalidToken("the token's typ is not allowed")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= _MAX_NAME):
        raise InvalidToken("the token's kid is not valid")
    return algorithm, kid


_URL_SAFE: Final = str.maketrans("-_", "+/")


def _verified(token: str, algorithm: str, public: Any) -> dict[str, Any]:
    try:
        return jwt.decode(token, public, algorithms=[algorithm], options=_OPTIONS)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidToken("the token's signature is not valid") from None


def _identity(claims: dict[str, Any], expected: TokenRequirements, now: float) -> Identity:
    ends = _time(claims, "exp")
    if ends is None:
        raise InvalidToken("the token has no exp claim")
    if now >= ends:
        raise InvalidToken("the token has expired")
    begins = _time(claims, "nbf")
    issued = _time(claims, "iat")
    if max(begins or 0, issued or 0) > now + CLOCK_SKEW:
        raise InvalidToken("the token is not valid yet")
    if claims.get("iss") != expected.issuer:
        raise InvalidToken("the token's issuer (iss) does not match")
    audience = claims.get("aud")
    if isinstance(audience, str):
        audience = [audience]
    if not isinstance(audience, list) or expected.audience not in audience:
        raise InvalidToken("the token's audience (aud) does not match")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_NAME:
        raise InvalidToken("the token has no valid subject (sub)")
    try:
        grants = grants_of(claims.get(expected.claim, []), strict=False)
    except MalformedGrants:
        raise InvalidToken("the token's grants are not valid") from None
    return Identity(f"{expected.issuer} {subject}", grants, ends)


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate claim (RFC 7519 §2), None if it is missing. Raise `InvalidToken`."""
    value = claims.get(name)
    if value is None:
        return None
    # bool is a subclass of int, and every comparison with NaN is false.
    if type(value) is int and 0 <= value < 2**53:
        return float(value)
    if type(value) is float and math.isfinite(value) and 0 <= value < 2**53:
        return value
    raise InvalidToken(f"the token's {name} is not a valid time")
