"""JSON Web Key Sets (RFC 7517): parsing, and the algorithms that each key may verify.

Only public keys of asymmetric signature schemes are kept. Symmetric keys, keys of unsafe sizes and
keys for other uses are skipped, so that a token cannot use a key for another algorithm (RFC 8725
§2.1, §3.1, §3.2).
"""

from __future__ import annotations

import json
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms
from msgspec import Struct

from durable_streams_tw.auth.limits import MAX_KEY_SET, MAX_KEYS

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# Each curve has one algorithm (RFC 7518 §3.4, RFC 8037 §3.1).
_CURVES: Final[dict[tuple[Any, Any], tuple[str, ...]]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
#: All supported algorithms; every one is asymmetric.
ALGORITHMS: Final = (*_RSA, "ES256", "ES384", "ES512", "EdDSA")

_MIN_RSA_BITS: Final = 2048
# Verifying with a larger key takes too long.
_MAX_RSA_BITS: Final = 8192
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


class Key(Struct, frozen=True):
    """Public key, and the algorithms that it may verify."""

    kid: str | None
    algorithms: tuple[str, ...]
    public: Any


class KeySet(Struct, frozen=True):
    """Usable keys of one issuer. ``skipped`` counts the entries that are not usable."""

    keys: tuple[Key, ...]
    skipped: int = 0

    def candidates(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """Return the keys that can verify a token with this ``kid`` and algorithm.

        A token without ``kid`` gets a key only if there is just one for its algorithm: trying
        several keys would multiply the cost of an unauthenticated request.
        """
        matching = [key for key in self.keys if algorithm in key.algorithms]
        if kid is not None:
            return tuple([key for key in matching if key.kid == kid])
        return tuple(matching) if len(matching) == 1 else ()


class MalformedKeySet(Exception):
    """Error in a JWKS document. The message says which."""


def read_key_set(raw: bytes) -> KeySet:
    """Parse a JWKS document. Raise `MalformedKeySet` if it is invalid or has no usable key."""
    if len(raw) > MAX_KEY_SET:
        raise MalformedKeySet(f"the JWKS is larger than {MAX_KEY_SET} bytes")
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedKeySet("the JWKS is not JSON") from None
    given = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(given, list) or len(given) > MAX_KEYS:
        raise MalformedKeySet(f'the JWKS is not {{"keys": [...]}} with at most {MAX_KEYS} keys')
    read = [key for key in [_key(one) for one in given] if key is not None]
    names = [key.kid for key in read if key.kid is not None]
    # A kid of two keys is ambiguous: skip both.
    keys = tuple([key for key in read if key.kid is None or names.count(key.kid) == 1])
    if not keys:
        raise MalformedKeySet("the JWKS has no usable public key")
    return KeySet(keys, len(given) - len(keys))


def _key(given: Any) -> Key | None:
    """Return the key of one JWKS entry, None if it is not usable."""
    if not isinstance(given, dict) or _PRIVATE & given.keys():
        # A published private key is compromised.
        return None
    kid = given.get("kid")
    operations = given.get("key_ops", ["verify"])
    use = given.get("use", "sig")
    if not (kid is None or (isinstance(kid, str) and kid)) or use != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if given.get("kty") == "RSA":
        algorithms: tuple[str, ...] = _RSA
    else:
        try:
            algorithms = _CURVES.get((given.get("kty"), given.get("crv")), ())
        except TypeError:
            return None
    named = given.get("alg")
    if named is not None:
        algorithms = tuple([algorithm for algorithm in algorithms if algorithm == named])
    if not algorithms:
        return None
    try:
        public = get_default_algorithms()[algorithms[0]].from_jwk(given)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return None
    if isinstance(public, RSAPublicKey) and not _MIN_RSA_BITS <= public.key_size <= _MAX_RSA_BITS:
        return None
    return Key(kid, algorithms, public)
