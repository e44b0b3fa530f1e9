"""Reading of request heads: request line and headers (RFC 9112 §3, §5, §6).

Two rules prevent request smuggling:

1. An ambiguous head is refused, never repaired.
2. A refusal closes the connection unless the end of the request is known for certain.

A head is read whole, so the sizes of the packets that carried it make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.http import refusals, request_target
from durable_streams_tw.http.header_fields import BARE, CLOSING, FIELD_BLOCK, TOKEN, read_fields
from durable_streams_tw.http.limits import MAX_FIELDS, MAX_HEAD
from durable_streams_tw.http.messages import HeadMemo, Request
from durable_streams_tw.http.problems import body_too_large
from durable_streams_tw.http.refusals import RefusedHead, refused
from durable_streams_tw.protocol import paths
from durable_streams_tw.protocol.errors import Refusal, Refused
from durable_streams_tw.protocol.limits import RESERVED_SEGMENT

#: Value of ``length`` for a chunked body.
CHUNKED: Final = -1

# A target is printable ASCII without "#" (RFC 9112 §3.2).
_REQUEST_LINE: Final = re.compile(TOKEN + rb" [\x21\x22\x24-\x7e]++ HTTP/1\.[01]\r\n")
_OTHER_VERSION: Final = re.compile(
    TOKEN + rb" [\x21\x22\x24-\x7e]++ HTTP/(?!1\.[01]\r)[0-9]\.[0-9]\r\n"
)
_LINE_START: Final = re.compile(rb"[\x20-\x7e]*+\r?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*+)(.*)", re.IGNORECASE)
_RESERVED: Final = RESERVED_SEGMENT.encode("ascii")

# Headers whose values differ between otherwise equal requests of one client.
_NUMBER: Final = re.compile(
    rb"(?:\A|\n)(content-length|producer-seq):[ \t]*+([0-9]++)[ \t]*+(?=\r)", re.IGNORECASE
)

# A Content-Length of more digits exceeds every limit, and is slow to convert.
_MAX_DIGITS: Final = 18


class HeadContext(Struct, frozen=True):
    """Properties of the server and the connection that a head is read with.

    ``root`` is the raw path of all streams, with a slash at both ends. ``local_address`` is the
    host and port that the client connected to, for HTTP/1.0 requests without a Host header.
    """

    root: bytes
    max_body: int
    secure: bool = False
    trust_proxy: bool = False
    local_address: bytes = b"localhost"


class NumberPattern(Struct, frozen=True):
    """Block of headers without the numbers of `_NUMBER`.

    ``names`` are the headers of these numbers, ``pieces`` the bytes before, between and after.
    """

    names: tuple[bytes, ...]
    pieces: tuple[bytes, ...]


class HeaderSection(Struct, frozen=True):
    """Headers of a request, and the properties of the request that follow from them.

    ``block`` is their bytes with the empty line at the end. ``base`` is the scheme and authority
    of the URL that the client used, ``host`` the Host header. ``pattern`` is None until a second
    request is compared with this one. The other attributes are those of `RequestHead`.
    """

    block: bytes
    http10: bool
    headers: Mapping[bytes, bytes]
    host: bytes
    base: bytes
    length: int
    keep_alive: bool
    expects_continue: bool
    refusal: Refusal | None
    pattern: NumberPattern | None = None


class RequestHead(Struct, frozen=True):
    """Request without its body. The first six attributes and ``memo`` are those of `Request`.

    ``length`` is the length of the body in bytes, or `CHUNKED`. ``is_stream`` is False for a
    request that twisted.web answers; only ``line`` and ``section`` have a meaning then.
    ``refusal`` is set for a well-formed request that is refused without closing the connection.
    """

    method: bytes
    root: bytes
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    url: bytes
    length: int
    is_stream: bool
    keep_alive: bool
    http10: bool
    expects_continue: bool
    refusal: Refusal | None
    line: bytes
    section: HeaderSection
    memo: HeadMemo

    def with_body(self, body: bytes) -> Request:
        """Return the complete request."""
        return Request(
            self.method,
            self.root,
            self.path,
            self.query,
            self.headers,
            body,
            self.url,
            self.memo,
        )


def check_line(line: bytes) -> None:
    """Raise `Refused` unless ``line`` is a request line with its CR LF."""
    if _REQUEST_LINE.fullmatch(line) is None:
        raise refused(_line_refusal(line))


def check_start(start: bytes | bytearray, seen: int, line_seen: bool) -> bool:
    """Check the bytes of an incomplete head, and return whether its first line is complete.

    ``seen`` bytes were checked before, among them the first line if ``line_seen``. Raises
    `Refused`, as `read_head` would, as soon as no further bytes can complete a valid head.
    """
    since = max(seen - 1, 0)
    if not line_seen:
        end = start.find(b"\r\n", since, MAX_HEAD)
        if end >= 0:
            check_line(bytes(start[: end + 2]))
            line_seen = True
        elif _LINE_START.fullmatch(start, since, MAX_HEAD) is None:
            raise refused(refusals.MALFORMED)
    if line_seen and BARE.search(start, since, MAX_HEAD):
        raise refused(refusals.BARE_LINE_END)
    if len(start) >= MAX_HEAD:
        raise refused(refusals.HEAD_TOO_LARGE if line_seen else refusals.TARGET_TOO_LONG)
    return line_seen


def read_head(raw: bytes, context: HeadContext, last: RequestHead | None = None) -> RequestHead:
    """Return the meaning of a complete head that ends with its empty line. Raises `Refused`.

    ``last`` is an earlier head of the connection. Parts that both share are not parsed again:
    most clients repeat their headers, or send the same request to many streams.
    """
    line = last.line if last is not None and raw.startswith(last.line) else _line_of(raw)
    block = raw[len(line) :]
    http10 = line.endswith(b"0\r\n")
    known = _reuse(last.section, block) if last is not None and last.http10 is http10 else None
    section = known or _read_section(block, http10, context)
    if len(raw) > MAX_HEAD:
        raise refused(refusals.HEAD_TOO_LARGE)
    try:
        if last is not None and line is last.line and known is not None:
            head = replace(
                last,
                headers=section.headers,
                length=section.length,
                section=section,
                memo=HeadMemo(),
            )
        else:
            head = _read_target(line, section, context)
        if head.is_stream and head.length > context.max_body:
            raise refused(body_too_large(context.max_body))
    except Refused as fault:
        raise RefusedHead(fault.refusal, section.headers.get(b"origin")) from None
    return head


# -- request line ---------------------------------------------------------------------------


def _line_of(raw: bytes) -> bytes:
    match = _REQUEST_LINE.match(raw)
    if match is None:
        raise refused(_line_refusal(raw[: raw.find(b"\r\n") + 2]))
    return match[0]


def _line_refusal(line: bytes) -> Refusal:
    if _OTHER_VERSION.fullmatch(line) is None:
        return refusals.MALFORMED
    return refusals.UNKNOWN_VERSION


def _read_target(line: bytes, section: HeaderSection, context: HeadContext) -> RequestHead:
    method, target, _ = line.split(b" ")
    if method == b"CONNECT":
        raise refused(refusals.NOT_A_PROXY)
    base = section.base
    if not target.startswith(b"/"):
        host, target = _absolute_target(method, target, section.host)
        base = request_target.base_url(section.headers, host, context.secure, context.trust_proxy)
    path, _, query = target.partition(b"?")
    root = context.root
    return RequestHead(
        method,
        root,
        path[len(root) :],
        query,
        section.headers,
        base + path,
        section.length,
        _is_stream(path, root),
        section.keep_alive,
        section.http10,
        section.expects_continue,
        section.refusal,
        line,
        section,
        HeadMemo(),
    )


def _absolute_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Return host and path of a target without a leading slash (RFC 9112 §3.2.2, §3.2.4)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is not None:
        # The target takes precedence over the Host header (RFC 9112 §3.2.2).
        host, target = match.groups()
        if not request_target.is_host(host):
            raise refused(refusals.BAD_TARGET)
        return host, target if target.startswith(b"/") else b"/" + target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    raise refused(refusals.BAD_TARGET)


def _is_stream(path: bytes, root: bytes) -> bool:
    """Return whether a path names a stream, and not the root or a control resource."""
    if not path.startswith(root) or len(path) == len(root):
        return False
    if root == b"/" and path.startswith(b"/-/"):
        # Operator resources (`operators.PREFIX`) on a site whose root is all streams.
        return False
    if b"%" not in path and not path.startswith(_RESERVED, len(root)):
        return True
    name = unquote_to_bytes(path[len(root) :])
    return not paths.is_reserved(name.decode("latin-1"))


# -- headers --------------------------------------------------------------------------------


def _read_section(block: bytes, http10: bool, context: HeadContext) -> HeaderSection:
    """Return the meaning of all headers. Raises `Refused`."""
    if FIELD_BLOCK.fullmatch(block) is None:
        raise refused(refusals.BARE_LINE_END if BARE.search(block) else refusals.BAD_FIELD)
    if block.count(b"\n") - 1 > MAX_FIELDS:
        raise refused(refusals.HEAD_TOO_LARGE)
    headers, duplicate = read_fields(block)
    try:
        return _interpret(block, http10, headers, duplicate, context)
    except Refused as fault:
        raise RefusedHead(fault.refusal, headers.get(b"origin")) from None


def _interpret(
    block: bytes,
    http10: bool,
    headers: dict[bytes, bytes],
    duplicate: bytes | None,
    context: HeadContext,
) -> HeaderSection:
    length = _body_length(headers.get(b"content-length"), headers.get(b"transfer-encoding"), http10)
    host = headers.get(b"host")
    if duplicate in CLOSING:
        raise refused(refusals.BAD_HOST if duplicate == b"host" else refusals.BAD_LENGTH)
    if host is None and http10:
        host = context.local_address
    elif host is None or not request_target.is_host(host):
        raise refused(refusals.BAD_HOST)
    # An h2c upgrade is ignored, and some clients always ask for it. Other upgrades would change
    # the protocol after the request, and a body before that makes its end ambiguous.
    upgrade = headers.get(b"upgrade")
    if upgrade is not None and length and upgrade.lower() != b"h2c":
        raise refused(refusals.BODY_WITH_UPGRADE)
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise refused(refusals.UNKNOWN_EXPECTATION)
    return HeaderSection(
        block,
        http10,
        headers,
        host,
        request_target.base_url(headers, host, context.secure, context.trust_proxy),
        length,
        _is_kept_alive(headers.get(b"connection"), http10),
        expect is not None and not http10,
        None if duplicate is None else refusals.duplicate_field(duplicate),
    )


def _body_length(length: bytes | None, coding: bytes | None, http10: bool) -> int:
    """Return the length of the body in bytes, or `CHUNKED` (RFC 9112 §6.3)."""
    if coding is not None:
        if http10:
            raise refused(refusals.CODING_IN_HTTP10)
        if length is not None:
            raise refused(refusals.TWO_LENGTHS)
        if coding.lower() != b"chunked":
            raise refused(refusals.UNKNOWN_CODING)
        return CHUNKED
    if length is None:
        return 0
    if not length.isdigit():
        raise refused(refusals.BAD_LENGTH)
    return int(length) if len(length) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _is_kept_alive(connection: bytes | None, http10: bool) -> bool:
    """Return whether the connection outlives the request (RFC 9112 §9.3)."""
    if connection is None:
        return not http10
    options = [option.strip(b" \t") for option in connection.lower().split(b",")]
    return b"close" not in options and (not http10 or b"keep-alive" in options)


# -- reuse of an earlier head ---------------------------------------------------------------


def _reuse(section: HeaderSection, block: bytes) -> HeaderSection | None:
    """Return the meaning of a block that differs from an earlier one in numbers at most.

    Returns None if the block differs in more, or if other numbers could change its meaning.
    """
    if section.block == block:
        return section
    headers = section.headers
    if section.length <= 0 or section.refusal is not None or b"upgrade" in headers:
        return None
    pattern = section.pattern
    if pattern is None:
        pattern = _pattern_of(section.block)
    numbers = _match_numbers(pattern.pieces, block)
    if numbers is None:
        return None
    changed = {**headers, **dict(zip(pattern.names, numbers, strict=True))}
    length = int(changed[b"content-length"])
    return replace(section, block=block, headers=changed, length=length, pattern=pattern)


def _pattern_of(block: bytes) -> NumberPattern:
    names: list[bytes] = []
    pieces: list[bytes] = []
    position = 0
    for match in _NUMBER.finditer(block):
        names.append(match[1].lower())
        pieces.append(block[position : match.start(2)])
        position = match.end(2)
    return NumberPattern(tuple(names), (*pieces, block[position:]))


def _match_numbers(pieces: tuple[bytes, ...], block: bytes) -> list[bytes] | None:
    """Return the numbers between the pieces of a block, None if it is not made of them."""
    first, *middle, last = pieces
    if not block.startswith(first) or not block.endswith(last):
        return None
    numbers: list[bytes] = []
    position = len(first)
    # A number ends with its line, so the next piece is the first match.
    for piece in middle:
        end = block.find(piece, position)
        if end < 0:
            return None
        numbers.append(block[position:end])
        position = end + len(piece)
    numbers.append(block[position : len(block) - len(last)])
    for number in numbers:
        if not number.isdigit() or len(number) > _MAX_DIGITS:
            return None
    return numbers
