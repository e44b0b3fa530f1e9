"""Comparison and classification of content types (PROTOCOL.md §9)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT: Final = "application/octet-stream"
JSON: Final = "application/json"

# RFC 9110 §8.3.1: type "/" subtype, each a token. Parameters are stored but not compared, so
# they need only be printable and have no comma outside quotes, which would make a list.
_MEDIA_TYPE: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    r'(?:[ \t]*;(?:[\t !#-+\--~]|"(?:[\t !#-\[\]-~]|\\[\t -~])*+")*+)?'
)


@lru_cache(maxsize=1024)
def essence(content_type: str) -> str:
    """Return the media type in lower case without parameters."""
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=1024)
def is_media_type(content_type: str) -> bool:
    """Return whether a value is a well-formed media type (RFC 9110 §8.3.1)."""
    return _MEDIA_TYPE.fullmatch(content_type.strip(" \t")) is not None


def same(one: str, other: str) -> bool:
    """Return whether two content types have the same essence (RFC 9110 §8.3.1)."""
    return one == other or essence(one) == essence(other)


@lru_cache(maxsize=1024)
def is_json(content_type: str) -> bool:
    """Return whether streams of a content type are in JSON mode (PROTOCOL.md §9.1)."""
    return essence(content_type) == JSON


@lru_cache(maxsize=1024)
def is_text(content_type: str) -> bool:
    """Return whether SSE carries a content type as text instead of base64 (PROTOCOL.md §5.8)."""
    return essence(content_type).startswith("text/") or is_json(content_type)
