"""Gzip compression of responses (RFC 1952), and which content types are worth it."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final

from durable_streams_tw.http.limits import MIN_GZIP
from durable_streams_tw.live.transfers import Encoder
from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.streams.responses import Header

VARY: Final[Header] = (b"Vary", b"Accept-Encoding")
CONTENT_ENCODING: Final[Header] = (b"Content-Encoding", b"gzip")

# Media types that compress well. All others count as compressed already.
_COMPRESSIBLE: Final = re.compile(
    r"text/.+|.+\+(?:json|xml|yaml)|(?:application|image)/(?:x-)?"
    r"(?:json|json-seq|jsonl|ndjson|jsonlines|xml|yaml|javascript|ecmascript|sql|toml|svg|bmp)"
)

# A compromise between CPU time and size.
_LEVEL: Final = 4
# The largest window, in the gzip format.
_WBITS: Final = zlib.MAX_WBITS | 16


@lru_cache(maxsize=1024)
def _is_compressible(content_type: str) -> bool:
    return _COMPRESSIBLE.fullmatch(content_types.essence(content_type)) is not None


def is_worthwhile(content_type: str, size: int) -> bool:
    """Return whether to compress a body of ``size`` bytes for clients that accept gzip."""
    return size >= MIN_GZIP and _is_compressible(content_type)


def gzip(data: bytes) -> bytes:
    """Return the compressed bytes. There is no timestamp: equal input gives equal output."""
    return zlib.compress(data, _LEVEL, _WBITS)


def gzip_encoder() -> Encoder:
    """Return an incremental encoder with the output of `gzip`. It takes about 256 KiB."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _WBITS)
