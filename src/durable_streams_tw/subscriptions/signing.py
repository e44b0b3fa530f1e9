"""Signing keys of webhooks: creation, rotation, publication (PROTOCOL.md §6.5, §7.1).

A key is published ``KEY_OVERLAP`` seconds before it starts to sign, for receivers with a cached
key set, and ``KEY_OVERLAP`` seconds after it stops, for delayed deliveries.
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
    """Ed25519 key pair.

    ``private`` is the seed (RFC 8032 §5.1.5), None once the key no longer signs. The key signs
    from ``signs_from`` on (seconds since the Unix epoch).
    """

    public: bytes
    private: bytes | None
    signs_from: int

    @property
    def kid(self) -> str:
        """Id of the key: its JWK thumbprint (RFC 7638, RFC 8037 §2)."""
        canonical = {"crv": "Ed25519", "kty": "OKP", "x": base64url(self.public)}
        text = json.dumps(canonical, separators=(",", ":"), sort_keys=True)
        return "ds_" + base64url(hashlib.sha256(text.encode("ascii")).digest())


def base64url(data: bytes) -> str:
    """Encode bytes as base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def new_key(signs_from: int) -> SigningKey:
    """Generate a key that signs from ``signs_from`` on (seconds since the Unix epoch)."""
    key = Ed25519PrivateKey.generate()
    return SigningKey(key.public_key().public_bytes_raw(), key.private_bytes_raw(), signs_from)


def rotated(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """Return the published keys and a new one that signs ``KEY_OVERLAP`` seconds after ``now``."""
    return (*pruned(keys, now), new_key(now + KEY_OVERLAP))


def pruned(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """Return the keys published at ``now``, without the seeds of those that no longer sign."""
    kept: list[SigningKey] = []
    for index, key in enumerate(keys):
        after = keys[index + 1].signs_from if index + 1 < len(keys) else None
        if after is None or now < after:
            kept.append(key)
        elif now < after + KEY_OVERLAP:
            kept.append(SigningKey(key.public, None, key.signs_from))
    return tuple(kept)


def signer(keys: Sequence[SigningKey], now: int) -> SigningKey:
    """Return the newest key that signs at ``now`` (seconds since the Unix epoch).

    If the clock was set back to before all keys, return the oldest key that has a seed.
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
    """Return the keys published at ``now`` as a JWK Set (RFC 7517 §5, RFC 8037 §2)."""
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
