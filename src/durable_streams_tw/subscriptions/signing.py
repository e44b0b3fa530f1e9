"""Signing keys of webhooks: creation, rotation, publication (PROTOCOL.md §6.5, §7.1).

A key is published for ``KEY_OVERLAP`` before it signs and after, so that receivers with a cached
key set or a delayed delivery find it.
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
    """Ed25519 key.

    ``private`` is its seed (RFC 8032 §5.1.5), None once it no longer signs. It signs from
    ``signs_from`` on (seconds since the Unix epoch).
    """

    public: bytes
    private: bytes | None
    signs_from: int

    @property
    def kid(self) -> str:
        """Return the key's id, its JWK thumbprint (RFC 7638, RFC 8037 §2)."""
        canonical = {"crv": "Ed25519", "kty": "OKP", "x": base64url(self.public)}
        text = json.dumps(canonical, separators=(",", ":"), sort_keys=True)
        return "ds_" + base64url(hashlib.sha256(text.encode("ascii")).digest())


def base64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def new_key(signs_from: int) -> SigningKey:
    """Generate a key."""
    key = Ed25519PrivateKey.generate()
    return SigningKey(key.public_key().public_bytes_raw(), key.private_bytes_raw(), signs_from)


def rotated(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """Return the keys with a new one, which is published now and signs after KEY_OVERLAP."""
    return (*pruned(keys, now), new_key(now + KEY_OVERLAP))


def pruned(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """Return the keys that are still published, without private halves that no longer sign."""
    kept: list[SigningKey] = []
    for index, key in enumerate(keys):
        after = keys[index + 1].signs_from if index + 1 < len(keys) else None
        if after is None or now < after:
            kept.append(key)
        elif now < after + KEY_OVERLAP:
            kept.append(SigningKey(key.public, None, key.signs_from))
    return tuple(kept)


def signer(keys: Sequence[SigningKey], now: int) -> SigningKey:
    """Return the newest key that signs at ``now``.

    If the clock was set back before all of them, return the oldest that can sign.
    """
    able = [key for key in keys if key.private is not None]
    assert able, "there is always a key that signs"
    ripe = [key for key in able if key.signs_from <= now]
    return ripe[-1] if ripe else able[0]


def signature(key: SigningKey, body: bytes, now: int) -> str:
    """Return the Webhook-Signature of a body sent at ``now`` (seconds since the Unix epoch)."""
    assert key.private is not None, "a key that signs has its private half"
    private = Ed25519PrivateKey.from_private_bytes(key.private)
    signed = base64url(private.sign(b"%d." % now + body))
    return f"t={now},kid={key.kid},ed25519={signed}"


def jwks(keys: Sequence[SigningKey], now: int) -> bytes:
    """Return the published keys as a JWK Set (RFC 7517 §5, RFC 8037 §2)."""
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
