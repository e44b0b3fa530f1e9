"""Header fields: the grammar that they have to keep, and the map that they become.

llhttp reads them, but it lets through more than may be trusted, and what exactly depends on
its version. So the bytes are held against the grammar first:

    field-line = field-name ":" OWS field-value OWS CRLF          (RFC 9112 §5)

in which nothing can hide: no bare CR or LF, no NUL, no space before the colon, no line that
continues another (RFC 9112 §5.2).
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"

#: One field with its line's end.
FIELD_LINE: Final = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n")

#: All fields of a head, and the empty line that ends it.
FIELD_BLOCK: Final = re.compile(rb"(?:" + FIELD_LINE.pattern + rb")*+\r\n")

#: A CR or an LF that is not part of a line's end. A CR at the very end may yet become one.
BARE: Final = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n")

#: Fields that have one value. Given twice, two readers could each believe another one.
SINGLE: Final = frozenset(
    (
        b"authorization",
        b"content-length",
        b"content-location",
        b"content-range",
        b"date",
        b"from",
        b"host",
        b"if-modified-since",
        b"if-range",
        b"if-unmodified-since",
        b"last-event-id",
        b"max-forwards",
        b"origin",
        b"proxy-authorization",
        b"range",
        b"referer",
        b"user-agent",
        headers.CONTENT_TYPE,
        headers.PRODUCER_EPOCH,
        headers.PRODUCER_ID,
        headers.PRODUCER_SEQ,
        headers.STREAM_CLOSED,
        headers.STREAM_EXPIRES_AT,
        headers.STREAM_FORKED_FROM,
        headers.STREAM_FORK_OFFSET,
        headers.STREAM_FORK_SUB_OFFSET,
        headers.STREAM_SEQ,
        headers.STREAM_TTL,
    )
)

#: Of these, such that two of them leave in doubt what a request is, or where it ends.
CLOSING: Final = frozenset((b"host", b"content-length"))

# llhttp wants a request line before fields. Ours have been read, and may say what it refuses.
_ANY_LINE: Final = b"GET / HTTP/1.1\r\n"

FieldMap = dict[bytes, bytes]


class FieldMapping:
    """Gathers fields as they are read: lower-case names, repeated lists joined by commas.

    ``doubled`` is a name that came twice and may not: the first one, or one of `CLOSING`.
    """

    __slots__ = ("count", "doubled", "header")

    def __init__(self) -> None:
        self.header: FieldMap = {}
        self.count = 0
        self.doubled: bytes | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field (the name is httptools' choice)."""
        self.count += 1
        name = name.lower()
        value = value.strip(b" \t")
        header = self.header
        if name not in header:
            header[name] = value
        elif name not in SINGLE:
            header[name] += b", " + value
        elif self.doubled is None or name in CLOSING:
            self.doubled = name


def doubled(name: bytes) -> Refusal:
    """What is said to a request that gives a field twice."""
    title = name.decode("latin-1").title()
    return Refusal(Problem.MALFORMED_FIELD, f"the field {title} is given twice")


def read_block(block: bytes) -> FieldMapping | None:
    """The fields of a block that `FIELD_BLOCK` matches; None where llhttp refuses them."""
    mapping = FieldMapping()
    try:
        HttpRequestParser(mapping).feed_data(_ANY_LINE + block)
    except HttpParserUpgrade:
        # Comes behind the last field where they ask for another protocol.
        return mapping
    except HttpParserError:
        return None
    return mapping
