"""Content types: comparing them, and what they mean for framing (PROTOCOL.md §9)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT: Final = "application/octet-stream"
JSON: Final = "application/json"

# RFC 9110 §8.3.1: type "/" subtype, each a token; parameters are kept but not compared. Of
# them only so much is asked that they are printable and that no comma, outside quotes, makes
# the value two.
_MEDIA_TYPE: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    r'(?:[ \t]*;(?:[\t !#-+\--~]|"(?:[\t !#-\[\]-~]|\\[\t -~])*+")*+)?'
)


@lru_cache(maxsize=1024)
def essence(content_type: str) -> str:
    """The media type alone: lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=1024)
def is_media_type(content_type: str) -> bool:
    """Whether the value has the form of a media type (RFC 9110 §8.3.1)."""
    return _MEDIA_TYPE.fullmatch(content_type.strip(" \t")) is not None


def same(one: str, other: str) -> bool:
    """Whether two content types match: case and parameters are ignored (RFC 9110 §8.3.1)."""
    return one == other or essence(one) == essence(other)


@lru_cache(maxsize=1024)
def is_json(content_type: str) -> bool:
    """Whether the stream is in JSON mode (PROTOCOL.md §9.1)."""
    return essence(content_type) == JSON


@lru_cache(maxsize=1024)
def is_text(content_type: str) -> bool:
    """Whether SSE carries the bytes as text; all else is base64 (PROTOCOL.md §5.8)."""
    return essence(content_type).startswith("text/") or is_json(content_type)
