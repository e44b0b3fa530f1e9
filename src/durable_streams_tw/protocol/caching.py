"""Conditional requests and cache directives (PROTOCOL.md §10.1, RFC 9110 §13, RFC 9111)."""

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
    """The entity tag of the bytes from ``start`` to ``end`` of a stream.

    ``incarnation`` is the one that owns ``end`` (`lineage.incarnation`). The tag changes when the
    stream is closed there, and differs between encodings.
    """
    mark = ":c" if closed else ""
    coded = f":{encoding}" if encoding else ""
    return f'"{incarnation}:{start}:{end}{mark}{coded}"'.encode("ascii")


def cache_control(private: bool, left: float | None) -> bytes:
    """The Cache-Control of bytes that never change while their stream lives.

    ``left`` is how long it still will (seconds), None for ever: a cache must not go on
    serving a stream that has expired. ``private`` keeps shared caches out.
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
    """Whether an If-None-Match value names the tag, by weak comparison (RFC 9110 §13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == b"*" or tag in _ENTITY_TAG.findall(if_none_match)


def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Whether an Accept-Encoding value lets gzip through (RFC 9110 §12.5.3)."""
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
