"""Key sets of issuers (JWKS, RFC 7517): which keys there are, and what each may verify.

Only public keys of signature schemes are taken: what is symmetric, too short, or meant for
something else is left out, so no token can make a key do what it is not for (RFC 8725 §2.1,
§3.1, §3.2).
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
# A curve belongs to one algorithm (RFC 7518 §3.4, RFC 8037 §3.1).
_CURVES: Final[dict[tuple[Any, Any], tuple[str, ...]]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
#: What can be asked for: every one asymmetric.
ALGORITHMS: Final = (*_RSA, "ES256", "ES384", "ES512", "EdDSA")

_LEAST_RSA: Final = 2048
# What is larger only takes time.
_MOST_RSA: Final = 8192
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


class Key(Struct, frozen=True):
    """A public key. ``algorithms`` are those that it may verify."""

    kid: str | None
    algorithms: tuple[str, ...]
    public: Any


class KeySet(Struct, frozen=True):
    """The keys of one issuer that can be used. ``left_out`` counts the others."""

    keys: tuple[Key, ...]
    left_out: int = 0

    def candidates(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys that a token can mean which names a key, or none, and an algorithm."""
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        if kid is not None:
            return tuple([key for key in fitting if key.kid == kid])
        # Without a name there has to be no choice: nobody tries key after key for a stranger.
        return tuple(fitting) if len(fitting) == 1 else ()


class MalformedKeySet(Exception):
    """What should be a key set is none; the message is a sentence."""


def read_key_set(raw: bytes) -> KeySet:
    """The keys in the bytes of a key set. Raises `MalformedKeySet` where not one can be used."""
    if len(raw) > MAX_KEY_SET:
        raise MalformedKeySet(f"a key set has at most {MAX_KEY_SET} bytes")
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedKeySet("the key set is not JSON") from None
    given = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(given, list) or len(given) > MAX_KEYS:
        raise MalformedKeySet(f'a key set is {{"keys": [...]}}, of at most {MAX_KEYS} keys')
    read = [key for key in [_key(one) for one in given] if key is not None]
    names = [key.kid for key in read if key.kid is not None]
    # One name for two keys names neither.
    keys = tuple([key for key in read if key.kid is None or names.count(key.kid) == 1])
    if not keys:
        raise MalformedKeySet("the key set has no public key that can verify a signature")
    return KeySet(keys, len(given) - len(keys))


def _key(given: Any) -> Key | None:
    """What one entry is good for; None where that is nothing."""
    if not isinstance(given, dict) or _PRIVATE & given.keys():
        # Whoever publishes a private key has given it away.
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
    if isinstance(public, RSAPublicKey) and not _LEAST_RSA <= public.key_size <= _MOST_RSA:
        return None
    return Key(kid, algorithms, public)
