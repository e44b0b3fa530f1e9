"""Entity tags, cache directives and content codings (PROTOCOL.md §10.1, RFC 9110, RFC 9111)."""

from __future__ import annotations

import re
from typing import Final

NO_STORE: Final = b"no-store"
NO_CACHE: Final = b"no-cache"
PUBLIC: Final = b"public, max-age=60, stale-while-revalidate=300"
PRIVATE: Final = b"private, max-age=60, stale-while-revalidate=300"

_FRESH: Final = 60
_STALE: Final = 300

# RFC 9110 §8.8.3: an optional weakness mark, then anything but quotes between quotes.
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def etag(incarnation: int, start: int, end: int, closed: bool, encoding: str = "") -> bytes:
    """Return the entity tag of the bytes of a stream from ``start`` to ``end``.

    ``incarnation`` is the owner of ``end`` (`lineage.incarnation`). The tag changes when the
    stream is closed at ``end``, and differs between encodings.
    """
    mark = ":c" if closed else ""
    coded = f":{encoding}" if encoding else ""
    return f'"{incarnation}:{start}:{end}{mark}{coded}"'.encode("ascii")


def cache_control(private: bool, left: float | None) -> bytes:
    """Return the Cache-Control value of a catch-up read.

    ``left`` is the time until the stream expires, in seconds, or None if it does not: a cache
    must not serve an expired stream. ``private`` excludes shared caches.
    """
    if left is None or left >= _FRESH + _STALE:
        return PRIVATE if private else PUBLIC
    seconds = max(0, int(left))
    fresh = min(_FRESH, seconds)
    visibility = "private" if private else "public"
    return f"{visibility}, max-age={fresh}, stale-while-revalidate={seconds - fresh}".encode(
        "ascii"
    )


def matches_etag(if_none_match: bytes | None, tag: bytes) -> bool:
    """Return whether an If-None-Match value matches a tag weakly (RFC 9110 §13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == b"*" or tag in _ENTITY_TAG.findall(if_none_match)


def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Return whether an Accept-Encoding value accepts gzip (RFC 9110 §12.5.3)."""
    if not accept_encoding:
        return False
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        coding, _, parameter = item.strip().partition(b";")
        name, _, value = parameter.strip().partition(b"=")
        try:
            weights[coding.strip()] = float(value) if name.strip() == b"q" else 1.0
        except ValueError:
            weights[coding.strip()] = 0.0
    return weights.get(b"gzip", weights.get(b"*", 0.0)) > 0
