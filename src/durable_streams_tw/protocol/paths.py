"""Validation of stream paths: the part of a URL's path after the root (PROTOCOL.md §3, §12.2)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_PATH, RESERVED_SEGMENT

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# C0 and C1 control characters, DEL, and the line separators that browsers and logs act on.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Only paths up to this many bytes are cached: 16,384 of the longest would take 100 MB.
_SHORT: Final = 256


def parse_stream_path(raw: bytes) -> str:
    """Return the stream path that a raw path names, percent-decoded once.

    ``raw`` is the part after the root. Raises `Refused` (MALFORMED_PATH) for an empty path, an
    empty, ``.`` or ``..`` segment, a control character, an invalid percent-encoding, bytes that
    are not UTF-8, and more than `MAX_PATH` bytes.
    """
    return _short_name(raw) if len(raw) <= _SHORT else _name(raw)


def _name(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Refused(Problem.MALFORMED_PATH, "the path has an invalid percent-encoding")
    decoded = unquote_to_bytes(raw) if b"%" in raw else raw
    try:
        name = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(Problem.MALFORMED_PATH, "the path is not UTF-8") from None
    check_stream_path(name)
    return name


_short_name: Final = lru_cache(maxsize=16_384)(_name)


def check_stream_path(name: str) -> None:
    """Raise `Refused` (MALFORMED_PATH) unless a decoded path is a valid stream path."""
    if not name:
        raise Refused(Problem.MALFORMED_PATH, "the stream path is empty")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise Refused(Problem.MALFORMED_PATH, "the path has a lone surrogate") from None
    if size > MAX_PATH:
        raise Refused(Problem.MALFORMED_PATH, f"the path is longer than {MAX_PATH} bytes")
    if _CONTROL.search(name):
        raise Refused(Problem.MALFORMED_PATH, "the path has a control character")
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            raise Refused(Problem.MALFORMED_PATH, "the path has an empty, '.' or '..' segment")


#: First bytes of raw paths that `is_reserved` and `control_paths.is_control` may accept.
FIRST_OF_RESERVED: Final = (b"_", b"%")


def is_reserved(name: str) -> bool:
    """Return whether a path belongs to the control resources (PROTOCOL.md §6)."""
    return name == RESERVED_SEGMENT or name.startswith(RESERVED_SEGMENT + "/")


def resembles_subscription(name: str) -> bool:
    """Return whether a path looks like a subscription below another root than the server's."""
    return f"/{RESERVED_SEGMENT}/subscriptions/" in name
