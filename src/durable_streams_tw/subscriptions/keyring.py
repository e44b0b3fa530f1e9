"""Keyring: webhook signing keys and the secret of wake tokens, in a private file or a database."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from twisted.logger import Logger

from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.storage.api import STORE_AWAY, KeyringStorage
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable
from durable_streams_tw.subscriptions import signing
from durable_streams_tw.subscriptions.signing import SigningKey

KEYS_FILE: Final = "keys.json"
_SECRET_BYTES: Final = 32
_FORMAT: Final = 1

_log: Final = Logger()


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
    """Signing keys and token secret of one server, or of all nodes of a store.

    The keyring is stored in ``directory``, in ``shared``, or only in memory if both are None.
    ``seconds`` returns the time in seconds since the Unix epoch. Call `open` before use.
    """

    def __init__(
        self,
        directory: str | None,
        seconds: Callable[[], float],
        shared: KeyringStorage | None = None,
    ) -> None:
        self._path = None if directory is None else Path(directory) / KEYS_FILE
        self._shared = shared
        self._seconds = seconds
        self._keys: tuple[SigningKey, ...] = ()
        self.secret = b""

    def open(self, rotate: bool = False) -> None:
        """Read the keys, or create the first one; with ``rotate``, add a successor.

        Raises `StoreUnusable` if the keys cannot be read or written or are damaged, or if every
        user of the system can read their file.
        """
        change = partial(self._open, rotate)
        if self._shared is not None:
            self._shared.update(change)
            return
        content = None if self._path is None else _read(self._path)
        changed = change(content)
        if self._path is not None and changed is not None:
            _replace(self._path, changed)

    def adopt(self, content: bytes) -> None:
        """Use the keys that another node has stored. Raises `StoreUnusable`."""
        self.secret, self._keys = _decode(content, self._place)

    def _open(self, rotate: bool, content: bytes | None) -> bytes | None:
        """Use stored keys or create some; return the content to store if it has changed."""
        now = self._now()
        if content is None:
            self.secret = secrets.token_bytes(_SECRET_BYTES)
            self._keys = (signing.new_key(0),)
            return self._encode()
        self.secret, keys = _decode(content, self._place)
        # Nodes that start together with ``rotate`` add one successor.
        if rotate and (self._shared is None or keys[-1].signs_from <= now):
            self._keys = signing.rotated(keys, now)
        else:
            self._keys = signing.pruned(keys, now)
        return None if self._keys == keys else self._encode()

    @property
    def _place(self) -> str:
        return "the keyring in the database" if self._path is None else str(self._path)

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

    def _now(self) -> int:
        return int(self._seconds())

    def _encode(self) -> bytes:
        # msgspec writes bytes as base64 (RFC 4648 §4).
        return msgspec.json.format(msgspec.json.encode(_Stored(_FORMAT, self.secret, self._keys)))


def _replace(path: Path, content: bytes) -> None:
    """Replace a file atomically, readable only by its owner. Raises `StoreUnusable`."""
    # At module level, this import would make LMDB a requirement of in-memory stores.
    from durable_streams_tw.storage.files import persist

    draft = path.with_name(path.name + ".new")
    with store_unusable(f"could not write {path}"):
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        persist(str(path.parent))


def _restrict(path: Path, descriptor: int) -> None:
    """Remove the group's access to the key file, if this process is allowed to.

    Group access causes only a warning, because Kubernetes gives the ``fsGroup`` access to all
    files of a volume at each mount, and OpenShift runs each pod as another user of that group.
    Raises `StoreUnusable` if every user of the system has access.
    """
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o007:
        raise StoreUnusable(
            f"{path} holds secrets, and every user can read or change it (mode {mode:04o}): "
            f"run chmod 600 {path}, or remove the file to get new keys"
        )
    if mode & 0o070:
        try:
            os.fchmod(descriptor, mode & 0o700)
        except OSError as error:
            _log.warn(
                "{path} holds secrets, and its group can read or change it (mode {mode}); it "
                "could not be changed to 0600: {reason}",
                path=str(path),
                mode=f"{mode:04o}",
                reason=error.strerror,
            )
        else:
            _log.warn(
                "{path} holds secrets, and its group could read or change it (mode {mode}): "
                "the mode is 0600 now",
                path=str(path),
                mode=f"{mode:04o}",
            )
    elif status.st_uid not in (os.geteuid(), 0):
        _log.warn(
            "{path} holds secrets and belongs to another user (uid {owner})",
            path=str(path),
            owner=status.st_uid,
        )


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            _restrict(path, file.fileno())
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusable(f"could not read {path}: {error.strerror}") from None


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
