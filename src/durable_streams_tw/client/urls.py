"""URLs of streams: parsing of user input, and construction of request URLs."""

from __future__ import annotations

from base64 import b64encode
from typing import Final
from urllib.parse import quote, unquote

from hyperlink import URL
from msgspec import Struct

from durable_streams_tw.client.errors import BadTarget

#: Default base URL for stream names that are not URLs (PROTOCOL.md §13.1).
DEFAULT_BASE: Final = "http://localhost:4437/v1/stream/"


class Target(Struct, frozen=True):
    """Parsed URL of a stream.

    ``url`` is ASCII, without credentials and fragment. ``path`` is its encoded path, ``origin``
    its scheme, host and port. ``authorization`` is the Authorization header for the credentials
    in the URL (RFC 7617), None if it has none.
    """

    url: str
    path: str
    origin: str
    authorization: str | None = None

    def asked(self, **query: str | None) -> str:
        """Return the URL with a query added, sorted by parameter name (PROTOCOL.md §10.1).

        Parameters that are None are omitted.
        """
        base, mark, own = self.url.partition("?")
        pairs = [pair for pair in own.split("&") if pair] if mark else []
        pairs += [
            f"{name}={quote(value, '')}" for name, value in query.items() if value is not None
        ]
        pairs.sort(key=lambda pair: pair.partition("=")[0])
        return base + ("?" + "&".join(pairs) if pairs else "")


def target_of(text: str, base: str = DEFAULT_BASE) -> Target:
    """Parse a stream name from a user: a URL, or a path relative to ``base``.

    In a relative path, characters that a URL path cannot contain are percent-encoded, including
    ``?`` and ``%``. Raises `BadTarget` if it does not name a stream.
    """
    given = text
    if "://" not in text:
        given = base
        if not text.strip("/"):
            raise BadTarget("the name of the stream is empty")
        text = base.rstrip("/") + "/" + quote(text.lstrip("/"))
    try:
        url = URL.from_text(text).to_uri()
    except (ValueError, UnicodeError) as error:
        raise BadTarget(f"{_shown(given)} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadTarget(f"{_shown(given)} is not a URL that begins with http:// or https://")
    authorization = None
    if url.userinfo:
        # A password may contain colons, so only the first one separates (RFC 7617 §2).
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
