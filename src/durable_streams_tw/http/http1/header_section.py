"""The fields of a head, as a whole: what they say of the request (RFC 9112 §3.2, §5, §6).

What is ambiguous is refused, never repaired.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.http import problems
from durable_streams_tw.http.http1.fields import (
    BARE,
    CLOSING,
    FIELD_BLOCK,
    FieldMapping,
    doubled,
    read_block,
)
from durable_streams_tw.http.limits import MAX_FIELDS, MAX_HEAD
from durable_streams_tw.http.twisted_web import request_target
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

#: Stands for the length of a body that comes in chunks.
CHUNKED: Final = -1

_FRAMING: Final = re.compile(
    rb"(?:\A|\n)(content-length|transfer-encoding):[ \t]*+([^\r]*)", re.IGNORECASE
)

# Numbers that differ from one request of a client's to the next, in lines of their own.
_NUMBER: Final = re.compile(
    rb"(?:\A|\n)(content-length|producer-seq):[ \t]*+([0-9]++)[ \t]*+(?=\r)", re.IGNORECASE
)

# Lengths of more digits than this are beyond every limit, and slow to make numbers of.
_DIGITS: Final = 18

BARE_END: Final = Refusal(
    Problem.MALFORMED_REQUEST, "a line ends with CR and LF, which stand nowhere else"
)
_FIELDS: Final = Refusal(Problem.MALFORMED_REQUEST, "a header field is malformed")
_NO_HOST: Final = Refusal(Problem.MALFORMED_REQUEST, "the Host field is missing or malformed")
_UPGRADE: Final = Refusal(
    Problem.MALFORMED_REQUEST, "a request that asks for another protocol has no body"
)
_TWO_LENGTHS: Final = Refusal(
    Problem.MALFORMED_REQUEST, "Content-Length and Transfer-Encoding exclude each other"
)
_OLD_CODING: Final = Refusal(Problem.MALFORMED_REQUEST, "HTTP/1.0 does not know Transfer-Encoding")
_BAD_LENGTH: Final = Refusal(Problem.MALFORMED_REQUEST, "Content-Length is one decimal number")
_CODING: Final = Refusal(
    Problem.UNKNOWN_CODING, "the only transfer coding that is understood is chunked"
)
_EXPECTATION: Final = Refusal(
    Problem.EXPECTATION_FAILED, "the only expectation that is understood is 100-continue"
)
TOO_LARGE: Final = Refusal(
    Problem.HEAD_TOO_LARGE,
    f"a request's head has at most {MAX_HEAD} bytes and {MAX_FIELDS} fields",
)


class HeadContext(Struct, frozen=True):
    """What heads are read against.

    ``root`` is the raw path, with a slash at both ends, below which streams are found;
    ``reached`` the host and port that a client has come to, for one that does not say.
    """

    root: bytes
    max_body: int
    secure: bool = False
    trust_proxy: bool = False
    reached: bytes = b"localhost"


class NumberPattern(Struct, frozen=True):
    """A block of fields but for some numbers.

    ``names`` are those of their fields, ``pieces`` the bytes before, between and behind them.
    """

    names: tuple[bytes, ...]
    pieces: tuple[bytes, ...]


class HeaderSection(Struct, frozen=True):
    """The fields of a head.

    ``block`` are their bytes, with the empty line that ends them; ``old`` says that they are
    of HTTP/1.0, which changes what they mean. ``base`` is scheme and host of the client's
    URLs, ``host`` its Host. ``pattern`` is the block's, once it was asked for. For the others
    see `wire_heads.Head`.
    """

    block: bytes
    old: bool
    header: Mapping[bytes, bytes]
    host: bytes
    base: bytes
    length: int
    keep: bool
    expects: bool
    refusal: Refusal | None
    pattern: NumberPattern | None = None


class RefusedHead(Refused):
    """A head that can be read, but not be followed. ``origin`` is its Origin field."""

    def __init__(self, refusal: Refusal, origin: bytes | None) -> None:
        super().__init__(refusal.problem, refusal.detail, refusal.fields)
        self.origin = origin


def body_too_large(limit: int) -> Refused:
    """What is said to a body of more than ``limit`` bytes."""
    return refused(problems.body_too_large(limit))


def refused(refusal: Refusal) -> Refused:
    """The exception that carries a refusal."""
    return Refused(refusal.problem, refusal.detail, refusal.fields)


def read_section(block: bytes, old: bool, around: HeadContext) -> HeaderSection:
    """The meaning of all fields, up to and with the empty line. Raises `Refused`."""
    if FIELD_BLOCK.fullmatch(block) is None:
        raise refused(BARE_END if BARE.search(block) else _FIELDS)
    count = block.count(b"\n") - 1
    if count > MAX_FIELDS:
        raise refused(TOO_LARGE)
    mapping = read_block(block)
    if mapping is None or mapping.count != count:
        raise refused(_block_fault(block, old, around.max_body))
    try:
        return _understood(block, old, mapping, around)
    except Refused as fault:
        raise RefusedHead(fault.refusal, mapping.header.get(b"origin")) from None


def _understood(
    block: bytes, old: bool, mapping: FieldMapping, around: HeadContext
) -> HeaderSection:
    header = mapping.header
    length = _body_length(header.get(b"content-length"), header.get(b"transfer-encoding"), old)
    host = header.get(b"host")
    if mapping.doubled in CLOSING:
        raise refused(_NO_HOST if mapping.doubled == b"host" else _BAD_LENGTH)
    if host is None and old:
        host = around.reached
    elif host is None or not request_target.is_host(host):
        raise refused(_NO_HOST)
    # Who asks for HTTP/2 this way takes an answer in HTTP/1.1, and some clients always ask.
    # All else would speak another protocol next, and a body in between invites doubt.
    upgrade = header.get(b"upgrade")
    if upgrade is not None and length and upgrade.lower() != b"h2c":
        raise refused(_UPGRADE)
    expect = header.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise refused(_EXPECTATION)
    return HeaderSection(
        block,
        old,
        header,
        host,
        request_target.base_url(header, host, around.secure, around.trust_proxy),
        length,
        _persists(header.get(b"connection"), old),
        expect is not None and not old,
        None if mapping.doubled is None else doubled(mapping.doubled),
    )


def resembling(section: HeaderSection, block: bytes) -> HeaderSection | None:
    """The meaning of a block that is like another but for numbers; None where it is not, or where
    they might mean something else.

    Most clients repeat their fields from request to request, but for the length of the body, and
    for the sequence number where they are producers.
    """
    if section.block == block:
        return section
    header = section.header
    if section.length <= 0 or section.refusal is not None or b"upgrade" in header:
        return None
    pattern = section.pattern
    if pattern is None:
        pattern = _pattern(section.block)
    numbers = _numbers(pattern.pieces, block)
    if numbers is None:
        return None
    changed = {**header, **dict(zip(pattern.names, numbers, strict=True))}
    length = int(changed[b"content-length"])
    return replace(section, block=block, header=changed, length=length, pattern=pattern)


def _pattern(block: bytes) -> NumberPattern:
    names: list[bytes] = []
    pieces: list[bytes] = []
    position = 0
    for match in _NUMBER.finditer(block):
        names.append(match[1].lower())
        pieces.append(block[position : match.start(2)])
        position = match.end(2)
    return NumberPattern(tuple(names), (*pieces, block[position:]))


def _numbers(pieces: tuple[bytes, ...], block: bytes) -> list[bytes] | None:
    """What stands between pieces that a block consists of, if it is numbers."""
    first, *middle, last = pieces
    if not block.startswith(first) or not block.endswith(last):
        return None
    numbers: list[bytes] = []
    position = len(first)
    # A number ends where its line does, so the next piece is where it first occurs.
    for piece in middle:
        end = block.find(piece, position)
        if end < 0:
            return None
        numbers.append(block[position:end])
        position = end + len(piece)
    numbers.append(block[position : len(block) - len(last)])
    for number in numbers:
        if not number.isdigit() or len(number) > _DIGITS:
            return None
    return numbers


def _block_fault(block: bytes, old: bool, limit: int) -> Refusal:
    """Why llhttp has refused a block: most of all, it judges framing fields itself."""
    given: dict[bytes, bytes] = {}
    for name, value in _FRAMING.findall(block):
        name = name.lower()
        value = value.strip(b" \t")
        given[name] = given[name] + b", " + value if name in given else value
    try:
        length = _body_length(given.get(b"content-length"), given.get(b"transfer-encoding"), old)
    except Refused as fault:
        return fault.refusal
    # Lengths that are no number of llhttp's are among those that are too large.
    return body_too_large(limit).refusal if length > limit else _FIELDS


def _body_length(length: bytes | None, coding: bytes | None, old: bool) -> int:
    """How long the body is, by the two fields that say it (RFC 9112 §6.3)."""
    if coding is not None:
        if old:
            raise refused(_OLD_CODING)
        if length is not None:
            raise refused(_TWO_LENGTHS)
        if coding.lower() != b"chunked":
            raise refused(_CODING)
        return CHUNKED
    if length is None:
        return 0
    if not length.isdigit():
        raise refused(_BAD_LENGTH)
    return int(length) if len(length) <= _DIGITS else 10**_DIGITS


def _persists(connection: bytes | None, old: bool) -> bool:
    """Whether the connection outlives this request (RFC 9112 §9.3)."""
    if connection is None:
        return not old
    options = [option.strip(b" \t") for option in connection.lower().split(b",")]
    return b"close" not in options and (not old or b"keep-alive" in options)
