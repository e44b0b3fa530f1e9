"""URLs of streams: as a user writes them, and with the query of a request."""

from __future__ import annotations

from base64 import b64encode
from typing import Final
from urllib.parse import quote, unquote

from hyperlink import URL
from msgspec import Struct

from durable_streams_tw.client.errors import BadTarget

#: Where names that are no URLs lead when nothing else is said (PROTOCOL.md §13.1).
DEFAULT_BASE: Final = "http://localhost:4437/v1/stream/"


class Target(Struct, frozen=True):
    """One stream.

    ``url`` is ASCII, without credentials and fragment; ``path`` is its path as it stands
    there; ``origin`` its scheme, host and port. ``authorization`` is what the URL's
    credentials come to (RFC 7617), None without.
    """

    url: str
    path: str
    origin: str
    authorization: str | None = None

    def asked(self, **query: str | None) -> str:
        """Return the URL of a request, its query in lexicographic order (PROTOCOL.md §10.1)."""
        base, mark, own = self.url.partition("?")
        pairs = [pair for pair in own.split("&") if pair] if mark else []
        pairs += [
            f"{name}={quote(value, '')}" for name, value in query.items() if value is not None
        ]
        pairs.sort(key=lambda pair: pair.partition("=")[0])
        return base + ("?" + "&".join(pairs) if pairs else "")


def target_of(text: str, base: str = DEFAULT_BASE) -> Target:
    """Return the stream that a user names: a URL, or a path below ``base``.

    Characters of a path that a URL cannot contain are percent-encoded, also ``?`` and ``%``.
    Raise `BadTarget`.
    """
    if "://" not in text:
        if not text.strip("/"):
            raise BadTarget("a stream has a name")
        text = base.rstrip("/") + "/" + quote(text.lstrip("/"))
    try:
        url = URL.from_text(text).to_uri()
    except (ValueError, UnicodeError) as error:
        raise BadTarget(f"{_shown(text)} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadTarget(f"{_shown(text)} is no http or https URL")
    authorization = None
    if url.userinfo:
        # Credentials may hold colons of their own behind the first (RFC 7617 §2).
        named, _, secret = url.userinfo.partition(":")
        pair = f"{unquote(named)}:{unquote(secret)}".encode()
        authorization = "Basic " + b64encode(pair).decode("ascii")
    plain = url.replace(userinfo="", fragment="")
    whole = plain.to_text()
    origin = plain.replace(path=(), query=(), rooted=False).to_text()
    path = whole.removeprefix(origin).partition("?")[0]
    if path.strip("/") == "":
        raise BadTarget(f"{whole} names no stream: its path is empty")
    return Target(whole, path, origin, authorization)


def _shown(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    head, slash, tail = rest.partition("/")
    return scheme + mark + head.rpartition("@")[2] + slash + tail
