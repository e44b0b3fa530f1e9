"""Issuer of tokens for tests: keys, JWKS documents and JWTs."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_800_000_000.0
ISSUER = "https://id.example"
AUDIENCE = "streams"


@cache
def private(name: str) -> Any:
    """Return the private key of a name; its prefix is the kind."""
    if name.startswith("rsa1024"):
        return rsa.generate_private_key(65537, 1024)
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    if name.startswith("p256"):
        return ec.generate_private_key(ec.SECP256R1())
    if name.startswith("p384"):
        return ec.generate_private_key(ec.SECP384R1())
    return ed25519.Ed25519PrivateKey.generate()


def algorithm_of(name: str) -> str:
    """Return the algorithm of a key's name."""
    kinds = {"rsa": "RS256", "p256": "ES256", "p384": "ES384"}
    return next((alg for kind, alg in kinds.items() if name.startswith(kind)), "EdDSA")


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """Return the public key as a JWK, with the name as its kid."""
    algorithms = jwt.algorithms.get_default_algorithms()
    key: dict[str, Any] = algorithms[algorithm_of(name)].to_jwk(
        private(name).public_key(), as_dict=True
    )
    key.pop("key_ops", None)
    key = {**key, "kid": name, **more}
    return {part: value for part, value in key.items() if value is not None}


def key_set(*keys: str | dict[str, Any]) -> bytes:
    """Return a JWKS document."""
    return json.dumps(
        {"keys": [jwk(key) if isinstance(key, str) else key for key in keys]}
    ).encode()


def claims(**more: Any) -> dict[str, Any]:
    """Return valid claims, changed as given; None removes a claim."""
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": int(NOW) + 300,
        "grants": [{"path": "jobs", "verbs": ["read"]}],
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


def token(name: str = "p256", header: dict[str, Any] | None = None, **more: Any) -> str:
    """Return a token signed with a key. ``header`` adds to its header."""
    head = {"kid": name, **(header or {})}
    algorithm = head.pop("alg", algorithm_of(name))
    head = {part: value for part, value in head.items() if value is not None}
    payload = json.dumps(claims(**more)).encode()
    return jwt.PyJWS().encode(payload, private(name), algorithm=algorithm, headers=head)


def part(value: object) -> str:
    """Return one encoded part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).decode().rstrip("=")
