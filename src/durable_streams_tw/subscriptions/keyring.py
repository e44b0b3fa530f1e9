"""Keyring: webhook signing keys and the secret of wake tokens, in a private file or a database."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.storage.api import STORE_AWAY, KeyringStorage
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.subscriptions import signing
from durable_streams_tw.subscriptions.key_file import KeyFile
from durable_streams_tw.subscriptions.signing import SigningKey

KEYS_FILE: Final = "keys.json"
_SECRET_BYTES: Final = 32
_FORMAT: Final = 1


class _Stored(Struct):
    format: int
    secret: bytes
    keys: tuple[SigningKey, ...]


class _Exported(Struct, array_like=True):
    secret: bytes
    keys: tuple[SigningKey, ...]


class OwnerKeyring:
    """Keyring of the owner of the store as front processes have it, without the private keys.

    ``exported`` returns the result of `Keyring.export` there, empty if it is unknown. ``seconds``
    returns the time in seconds since the Unix epoch.
    """

    def __init__(self, exported: Callable[[], bytes], seconds: Callable[[], float]) -> None:
        self._exported = exported
        self._seconds = seconds

    @property
    def secret(self) -> bytes:
        """Secret of wake tokens. Raises `Refused` if it is unknown."""
        return self._read().secret

    @property
    def kid(self) -> str:
        """Id of the key that currently signs. Raises `Refused` if it is unknown."""
        return signing.signer(self._read().keys, int(self._seconds())).kid

    def jwks(self) -> bytes:
        """Return the published keys as a JWK Set. Raises `Refused` if they are unknown."""
        return signing.jwks(self._read().keys, int(self._seconds()))

    def _read(self) -> _Exported:
        exported = self._exported()
        if not exported:
            raise Refused(STORE_AWAY.problem, STORE_AWAY.detail, STORE_AWAY.headers)
        return msgspec.msgpack.decode(exported, type=_Exported)


class Keyring:
    """Signing keys and token secret of one server, or of several that share them.

    The keyring is stored in ``shared``, otherwise in ``directory``, or only in memory if both are
    None. ``seconds`` returns the time in seconds since the Unix epoch. Call `open` before use.
    """

    def __init__(
        self,
        directory: str | None,
        seconds: Callable[[], float],
        shared: KeyringStorage | None = None,
    ) -> None:
        self.shared = shared
        self._storage = shared
        if shared is None and directory is not None:
            self._storage = KeyFile(Path(directory) / KEYS_FILE)
        self._seconds = seconds
        self._keys: tuple[SigningKey, ...] = ()
        self.secret = b""
        #: Called after `adopt`.
        self.on_adopt: Callable[[], object] = lambda: None

    def open(self, rotate: bool = False) -> None:
        """Read the keys, or create the first one; with ``rotate``, add a successor.

        Raises `StoreUnusable` if the keys cannot be read or written or are damaged, or if every
        user of the system can read their file.
        """
        change = partial(self._open, rotate)
        if self._storage is None:
            change(None)
        else:
            self._storage.update(change)

    def adopt(self, content: bytes) -> None:
        """Use keys that were added to the shared ones. Raises `StoreUnusable`."""
        self.secret, self._keys = _decode(content, self._place)
        self.on_adopt()

    def _open(self, rotate: bool, content: bytes | None) -> bytes | None:
        """Use stored keys or create some; return the content to store if it has changed."""
        now = self._now()
        if content is None:
            self.secret = secrets.token_bytes(_SECRET_BYTES)
            self._keys = (signing.new_key(0),)
            return self._encode()
        self.secret, keys = _decode(content, self._place)
        # Servers that start together with ``rotate`` add one successor.
        if rotate and (self.shared is None or keys[-1].signs_from <= now):
            self._keys = signing.rotated(keys, now)
        else:
            self._keys = signing.pruned(keys, now)
        return None if self._keys == keys else self._encode()

    @property
    def _place(self) -> str:
        return "" if self._storage is None else self._storage.place

    def sign(self, body: bytes) -> str:
        """Return the Webhook-Signature header for a body sent at the current time."""
        now = self._now()
        return signing.signature(signing.signer(self._keys, now), body, now)

    @property
    def kid(self) -> str:
        """Id of the key that currently signs."""
        return signing.signer(self._keys, self._now()).kid

    def jwks(self) -> bytes:
        """Return the published keys as a JWK Set."""
        return signing.jwks(self._keys, self._now())

    def export(self) -> bytes:
        """Return the secret and the public keys for the `OwnerKeyring`s of front processes."""
        # An empty seed marks a key that signs.
        keys = [replace(key, private=key.private and b"") for key in self._keys]
        return msgspec.msgpack.encode(_Exported(self.secret, tuple(keys)))

    @property
    def newest(self) -> SigningKey:
        """Key that signs, or that will sign as the last one."""
        return self._keys[-1]

    def _now(self) -> int:
        return int(self._seconds())

    def _encode(self) -> bytes:
        # msgspec writes bytes as base64 (RFC 4648 §4).
        return msgspec.json.format(msgspec.json.encode(_Stored(_FORMAT, self.secret, self._keys)))


def _decode(content: bytes, place: str) -> tuple[bytes, tuple[SigningKey, ...]]:
    try:
        stored = msgspec.json.decode(content, type=_Stored)
    except msgspec.MsgspecError as error:
        raise StoreUnusable(
            f"{place} is damaged ({error}): restore it, or remove it to get new keys"
        ) from None
    keys = stored.keys
    sound = (
        stored.format == _FORMAT
        and len(stored.secret) == _SECRET_BYTES
        and any(key.private is not None for key in keys)
        and all(len(key.public) == 32 and len(key.private or b"x" * 32) == 32 for key in keys)
    )
    if not sound:
        raise StoreUnusable(f"{place} is not a keyring of this version: restore it")
    return stored.secret, keys
