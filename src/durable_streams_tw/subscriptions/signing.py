"""Signing keys: what they are, when they sign, and for how long they are published
(PROTOCOL.md §6.5, §7.1).

A key is published before it signs and after, so that a receiver with an older key set, or with a
delivery that was on its way, finds it. ``KEY_OVERLAP`` is that time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from durable_streams_tw.subscriptions.limits import KEY_OVERLAP


class SigningKey(Struct, frozen=True):
    """An Ed25519 key. ``private`` is its seed (RFC 8032 §5.1.5), None once it signs no more;
    ``signs_from`` is when it takes over (seconds since 1970)."""

    public: bytes
    private: bytes | None
    signs_from: int

    @property
    def kid(self) -> str:
        """Its name: the JWK thumbprint (RFC 7638, RFC 8037 §2)."""
        canonical = {"crv": "Ed25519", "kty": "OKP", "x": base64url(self.public)}
        text = json.dumps(canonical, separators=(",", ":"), sort_keys=True)
        return "ds_" + base64url(hashlib.sha256(text.encode("ascii")).digest())


def base64url(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def new_key(signs_from: int) -> SigningKey:
    """A key that nobody has seen."""
    key = Ed25519PrivateKey.generate()
    return SigningKey(key.public_key().public_bytes_raw(), key.private_bytes_raw(), signs_from)


def rotated(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """One more key, published from now on, which signs a while later."""
    return (*pruned(keys, now), new_key(now + KEY_OVERLAP))


def pruned(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """Without keys that nothing can be signed with any more; what has signed its last loses its
    private half."""
    kept: list[SigningKey] = []
    for index, key in enumerate(keys):
        after = keys[index + 1].signs_from if index + 1 < len(keys) else None
        if after is None or now < after:
            kept.append(key)
        elif now < after + KEY_OVERLAP:
            kept.append(SigningKey(key.public, None, key.signs_from))
    return tuple(kept)


def signer(keys: Sequence[SigningKey], now: int) -> SigningKey:
    """The key whose turn it is: the youngest that signs by now, or, where the clock was put
    back, the oldest that still can."""
    able = [key for key in keys if key.private is not None]
    assert able, "there is always a key that signs"
    ripe = [key for key in able if key.signs_from <= now]
    return ripe[-1] if ripe else able[0]


def signature(key: SigningKey, body: bytes, now: int) -> str:
    """The Webhook-Signature of a body, sent at a time (seconds since 1970)."""
    assert key.private is not None, "a key that signs has its private half"
    private = Ed25519PrivateKey.from_private_bytes(key.private)
    signed = base64url(private.sign(b"%d." % now + body))
    return f"t={now},kid={key.kid},ed25519={signed}"


def jwks(keys: Sequence[SigningKey], now: int) -> bytes:
    """The published keys as a JWK Set (RFC 7517 §5, RFC 8037 §2)."""
    published = [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "kid": key.kid,
            "use": "sig",
            "alg": "EdDSA",
            "x": base64url(key.public),
        }
        for key in pruned(keys, now)
    ]
    return json.dumps({"keys": published}).encode("ascii")
