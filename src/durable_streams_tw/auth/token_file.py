"""A file of tokens, in TOML: names, what each may do, and the SHA-256 of the token itself.

The file holds no token, so whoever reads it cannot use one. Tokens are long and random (see
`new_token`); for such a plain hash is all that is needed (there is nothing to guess).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Any, Final

from durable_streams_tw.auth.grants import MalformedGrants, grants_of
from durable_streams_tw.auth.identities import Identity

_HASH: Final = re.compile("[0-9a-f]{64}")
_KEYS: Final = frozenset(("sha256", "grants", "expires"))
#: What every token of ours begins with, so that a search finds one that was published.
PREFIX: Final = "dst_"
#: How many bytes of chance are in one.
ENTROPY: Final = 32


class MalformedFile(Exception):
    """The file cannot be used; the message is a sentence that says where and why."""


class TokenTable:
    """The tokens of a file. ``key`` is random, and nobody else's.

    Looking up takes no time that depends on how much of a token is right: it is found by a
    keyed hash, and compared in constant time.
    """

    def __init__(self, key: bytes, entries: dict[bytes, Identity]) -> None:
        self._key = key
        self._entries = {self._place(digest): (digest, who) for digest, who in entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, token: str, now: float) -> Identity | None:
        """Whose token it is; None where it is nobody's, or has expired."""
        digest = digest_of(token)
        known, who = self._entries.get(self._place(digest), (b"", None))
        if not hmac.compare_digest(known, digest) or who is None:
            return None
        return None if who.expires_at is not None and now >= who.expires_at else who

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=16).digest()


def digest_of(token: str) -> bytes:
    """What a file holds of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token(chance: bytes) -> str:
    """A new token of `ENTROPY` random bytes."""
    return PREFIX + urlsafe_b64encode(chance).decode("ascii").rstrip("=")


def read_table(raw: bytes, key: bytes) -> TokenTable:
    """The tokens of a file's bytes. Raises `MalformedFile`.

    ``[tokens.NAME]`` tables with ``sha256``, ``grants`` and perhaps ``expires``, a date and time
    with its zone.
    """
    try:
        whole = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedFile("it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise MalformedFile(f"it is not TOML: {error}") from None
    except RecursionError:
        raise MalformedFile("it is nested too deeply") from None
    unknown = [name for name in whole if name != "tokens"]
    tokens = whole.get("tokens", {})
    if unknown or not isinstance(tokens, dict):
        raise MalformedFile(
            f"{(unknown or ['tokens'])[0]!r}: the file has tables [tokens.NAME], and nothing else"
        )
    entries: dict[bytes, Identity] = {}
    for name, entry in tokens.items():
        digest, who = _entry(name, entry)
        if digest in entries:
            raise MalformedFile(f"tokens.{name}: {entries[digest].name} has the same token")
        entries[digest] = who
    return TokenTable(key, entries)


def _entry(name: str, entry: Any) -> tuple[bytes, Identity]:
    where = f"tokens.{name}"
    if not isinstance(entry, dict):
        raise MalformedFile(f"{where} is a table: [tokens.{name}]")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise MalformedFile(f"{where}: {unknown[0]!r} is none of sha256, grants, expires")
    written = entry.get("sha256")
    if not isinstance(written, str) or _HASH.fullmatch(written) is None:
        raise MalformedFile(f"{where}: sha256 is the token's hash in 64 small hexadecimal digits")
    try:
        grants = grants_of(entry.get("grants"), strict=True)
    except MalformedGrants as error:
        raise MalformedFile(f"{where}: {error}") from None
    expires = entry.get("expires")
    if expires is None:
        ends = None
    elif isinstance(expires, datetime) and expires.tzinfo is not None:
        ends = expires.timestamp()
    else:
        raise MalformedFile(f"{where}: expires is a time with a zone, as 2030-01-31T12:00:00Z")
    return bytes.fromhex(written), Identity(name, grants, ends)
