"""Grammar of HTTP/1.1 headers, and parsing of a block of them.

    field-line = field-name ":" OWS field-value OWS CRLF          (RFC 9112 §5)

`FIELD_BLOCK` admits no bare CR or LF, no NUL, no space before the colon and no folded line
(RFC 9112 §5.2), so a block that matches it can be split at its line ends.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"

#: One header with its line end.
FIELD_LINE: Final = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n")

#: All headers of a head and the empty line after them.
FIELD_BLOCK: Final = re.compile(rb"(?:" + FIELD_LINE.pattern + rb")*+\r\n")

#: A CR or LF outside of a CR LF. A CR at the end of the bytes may still be followed by its LF.
BARE: Final = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n")

#: Headers that have one value. A proxy and this server could each believe another of two.
SINGLE: Final = frozenset(
    (
        b"authorization content-length content-location content-range content-type date from host "
        b"if-modified-since if-range if-unmodified-since last-event-id max-forwards origin "
        b"producer-epoch producer-id producer-seq proxy-authorization range referer stream-closed "
        b"stream-expires-at stream-fork-offset stream-fork-sub-offset stream-forked-from "
        b"stream-seq stream-ttl user-agent"
    ).split()
)

#: Single-valued headers that decide what a request is or where it ends. The connection closes
#: when one of them is sent twice.
CLOSING: Final = frozenset((b"host", b"content-length"))


def read_fields(block: bytes) -> tuple[dict[bytes, bytes], bytes | None]:
    """Return the headers of a block that matches `FIELD_BLOCK`, and a duplicate among them.

    Names are lower-case and repeated lists joined with ``, ``. The duplicate is a name of `SINGLE`
    that was sent twice: the first such name, or one of `CLOSING`; None if there is none.
    """
    header: dict[bytes, bytes] = {}
    duplicate = None
    for line in block[:-2].splitlines():
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name not in header:
            header[name] = value
        elif name not in SINGLE:
            header[name] += b", " + value
        elif duplicate is None or name in CLOSING:
            duplicate = name
    return header, duplicate
