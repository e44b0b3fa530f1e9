"""Names of headers and parsing of their values (PROTOCOL.md §13.2).

Names of request headers are lower-case bytes, as the HTTP servers deliver them. Names of
response headers (``H_``) have the spelling of the protocol.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_SAFE_INTEGER, MAX_TOKEN, MAX_TTL

# -- requests ---------------------------------------------------------------------------

CONTENT_TYPE: Final = b"content-type"
CONTENT_ENCODING: Final = b"content-encoding"
IF_MATCH: Final = b"if-match"
IF_NONE_MATCH: Final = b"if-none-match"
IF_UNMODIFIED_SINCE: Final = b"if-unmodified-since"
LAST_EVENT_ID: Final = b"last-event-id"
ORIGIN: Final = b"origin"
ACCEPT_ENCODING: Final = b"accept-encoding"
STREAM_TTL: Final = b"stream-ttl"
STREAM_EXPIRES_AT: Final = b"stream-expires-at"
STREAM_CLOSED: Final = b"stream-closed"
STREAM_SEQ: Final = b"stream-seq"
STREAM_FORKED_FROM: Final = b"stream-forked-from"
STREAM_FORK_OFFSET: Final = b"stream-fork-offset"
STREAM_FORK_SUB_OFFSET: Final = b"stream-fork-sub-offset"
PRODUCER_ID: Final = b"producer-id"
PRODUCER_EPOCH: Final = b"producer-epoch"
PRODUCER_SEQ: Final = b"producer-seq"

# -- responses --------------------------------------------------------------------------

H_CONTENT_TYPE: Final = b"Content-Type"
H_LOCATION: Final = b"Location"
H_ETAG: Final = b"ETag"
H_CACHE_CONTROL: Final = b"Cache-Control"
H_NEXT_OFFSET: Final = b"Stream-Next-Offset"
H_CURSOR: Final = b"Stream-Cursor"
H_UP_TO_DATE: Final = b"Stream-Up-To-Date"
H_CLOSED: Final = b"Stream-Closed"
H_TTL: Final = b"Stream-TTL"
H_EXPIRES_AT: Final = b"Stream-Expires-At"
H_PRODUCER_EPOCH: Final = b"Producer-Epoch"
H_PRODUCER_SEQ: Final = b"Producer-Seq"
H_PRODUCER_EXPECTED_SEQ: Final = b"Producer-Expected-Seq"
H_PRODUCER_RECEIVED_SEQ: Final = b"Producer-Received-Seq"
H_SSE_DATA_ENCODING: Final = b"Stream-SSE-Data-Encoding"

TRUE: Final = b"true"

_DECIMAL: Final = re.compile(rb"0|[1-9][0-9]{0,15}")
_DIGITS: Final = re.compile(rb"[0-9]{1,32}")
# RFC 3339 §5.6. Second 60 is the leap second (§5.7), counted as the second after.
_RFC3339: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(\.\d{1,100})?"
    r"([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
# RFC 9110 §5.5: a header value has no control characters except tab.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DAY: Final = 24 * 3600


def is_true(value: bytes | None) -> bool:
    """Return whether a Stream-Closed value is ``true``, ignoring case (§4.1)."""
    return value is not None and (value == TRUE or value.lower() == TRUE)


def malformed(detail: str) -> Refused:
    """Return the error of a malformed header."""
    return Refused(Problem.MALFORMED_FIELD, detail)


def parse_integer(name: str, value: bytes) -> int:
    """Return a non-negative integer up to 2^53-1, written without sign or leading zeros.

    Raises `Refused` (MALFORMED_FIELD) with the name of the header.
    """
    if _DECIMAL.fullmatch(value) is None or (number := int(value)) > MAX_SAFE_INTEGER:
        raise malformed(
            f"{name} must be an integer from 0 to {MAX_SAFE_INTEGER} without sign or leading zeros"
        )
    return number


def parse_count(name: str, value: bytes) -> int:
    """Return a non-negative integer up to 2^53-1; leading zeros are allowed (§5.2.1).

    Raises `Refused` (MALFORMED_FIELD) with the name of the header.
    """
    if _DIGITS.fullmatch(value) is None or (number := int(value)) > MAX_SAFE_INTEGER:
        raise malformed(f"{name} must be an integer from 0 to {MAX_SAFE_INTEGER}")
    return number


def parse_ttl(value: bytes) -> int:
    """Return a Stream-TTL in seconds (§5.1). Raises `Refused` (MALFORMED_FIELD)."""
    seconds = parse_integer("Stream-TTL (seconds)", value)
    if seconds > MAX_TTL:
        raise malformed(f"Stream-TTL must be at most {MAX_TTL} seconds")
    return seconds


def parse_timestamp(name: str, value: bytes) -> int:
    """Return an RFC 3339 timestamp in ms since the Unix epoch.

    Raises `Refused` (MALFORMED_FIELD) with the name of the header.
    """
    match = _RFC3339.fullmatch(value.decode("latin-1"))
    moment = None if match is None else _moment(*match.groups(default=""))
    if moment is None:
        raise malformed(f"{name} must be an RFC 3339 timestamp such as 2030-01-31T12:00:00Z")
    return moment


def _moment(date: str, hour: str, minute: str, second: str, fraction: str, zone: str) -> int | None:
    leap = second == "60"
    text = f"{date}T{hour}:{minute}:{'59' if leap else second}{zone.upper()}"
    try:
        whole = int(datetime.fromisoformat(text).timestamp()) + leap
    except ValueError:
        return None
    if leap and whole % _DAY:
        # A leap second is the last second of a UTC day.
        return None
    return whole * 1000 + int((fraction[1:] + "000")[:3])


@lru_cache(maxsize=4096)
def parse_token(name: str, value: bytes) -> str:
    """Return an opaque header value as text.

    Decoded as UTF-8 if it is valid UTF-8 and as Latin-1 otherwise, because clients send both.
    Raises `Refused` (MALFORMED_FIELD) if it is empty, longer than `MAX_TOKEN` bytes, or has a
    control character.
    """
    if not value or len(value) > MAX_TOKEN:
        raise malformed(f"{name} must have from 1 to {MAX_TOKEN} bytes, not {len(value)}")
    if _CONTROL.search(value):
        raise malformed(f"{name} must not have control characters")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def format_timestamp(milliseconds: int, timespec: str = "milliseconds") -> str:
    """Return an RFC 3339 timestamp in UTC for ms since the Unix epoch, exact to ``timespec``."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")
