"""Token file (TOML): name, grants and SHA-256 hash of each token.

The file holds no tokens, so reading it gives no access. Tokens have 256 random bits (see
`new_token`), so an unsalted hash is enough: there is nothing to guess.
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
_KEYS: Final = ("sha256", "grants", "expires")
#: Prefix of every generated token, so that secret scanners find leaked ones.
PREFIX: Final = "dst_"
#: Random bytes of a token.
ENTROPY: Final = 32


class MalformedFile(Exception):
    """Error in a token file. The message names the place and the reason."""


class TokenTable:
    """Tokens of a file, by the keyed hash of their hash. ``key`` is random and secret.

    The time of a look-up does not depend on how much of a token is correct: the keyed hash hides
    the position, and the comparison takes constant time.
    """

    def __init__(self, key: bytes, entries: dict[bytes, Identity]) -> None:
        self._key = key
        self._entries = {self._slot(digest): (digest, who) for digest, who in entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, token: str, now: float) -> Identity | None:
        """Return the identity of a token, None if it is unknown or has expired."""
        digest = digest_of(token)
        known, who = self._entries.get(self._slot(digest), (b"", None))
        if not hmac.compare_digest(known, digest) or who is None:
            return None
        return None if who.expires_at is not None and now >= who.expires_at else who

    def _slot(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=16).digest()


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of a token, as a token file holds it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token(entropy: bytes) -> str:
    """Return a new token made of `ENTROPY` random bytes."""
    return PREFIX + urlsafe_b64encode(entropy).decode("ascii").rstrip("=")


def read_table(raw: bytes, key: bytes) -> TokenTable:
    """Parse a token file. Raise `MalformedFile`.

    The file consists of tables ``[tokens.NAME]`` with ``sha256``, ``grants`` and optionally
    ``expires``, a date-time with offset.
    """
    try:
        whole = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedFile("not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise MalformedFile(f"not valid TOML: {error}") from None
    except RecursionError:
        raise MalformedFile("nested too deeply") from None
    unknown = [name for name in whole if name != "tokens"]
    tokens = whole.get("tokens", {})
    if unknown or not isinstance(tokens, dict):
        raise MalformedFile(
            f"unexpected {(unknown or ['tokens'])[0]!r}: only tables [tokens.NAME] are allowed"
        )
    entries: dict[bytes, Identity] = {}
    for name, entry in tokens.items():
        digest, who = _entry(name, entry)
        if digest in entries:
            raise MalformedFile(f"tokens.{name}: same token as tokens.{entries[digest].name}")
        entries[digest] = who
    return TokenTable(key, entries)


def _entry(name: str, entry: Any) -> tuple[bytes, Identity]:
    where = f"tokens.{name}"
    if not isinstance(entry, dict):
        raise MalformedFile(f"{where} is not a table: write [tokens.{name}]")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise MalformedFile(
            f"{where}: unknown key {unknown[0]!r}; known keys: sha256, grants, expires"
        )
    digest = entry.get("sha256")
    if not isinstance(digest, str) or _HASH.fullmatch(digest) is None:
        raise MalformedFile(f"{where}: sha256 must be 64 lower-case hexadecimal digits")
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
        raise MalformedFile(
            f"{where}: expires must be a time with a zone, such as 2030-01-31T12:00:00Z"
        )
    return bytes.fromhex(digest), Identity(name, grants, ends)
