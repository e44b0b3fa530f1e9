"""The head of a request: what its bytes say, or why they say nothing (RFC 9112 §3, §5, §6).

A head is read whole, so a request means the same however its bytes were cut into packets. Two
rules keep requests from hiding in others:

1. what is ambiguous is refused, never repaired;
2. what is refused closes the connection, unless where the request ends is beyond doubt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from durable_streams_tw.protocol import paths
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_FIELDS, MAX_HEAD, RESERVED_SEGMENT
from durable_streams_tw.server import targets
from durable_streams_tw.server.wire_fields import (
    BARE,
    CLOSING,
    FIELD_BLOCK,
    TOKEN,
    FieldMapping,
    doubled,
    read_block,
)

#: Stands for the length of a body that comes in chunks.
CHUNKED: Final = -1

# RFC 9112 §3. A target is printable ASCII; "#" never belongs into one (RFC 9112 §3.2).
_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n")
_OTHER_VERSION: Final = re.compile(
    TOKEN + rb" [\x21\x22\x24-\x7e]++ HTTP/(?!1\.[01]\r)[0-9]\.[0-9]\r\n"
)
_SOME_LINE: Final = re.compile(rb"[\x20-\x7e]*+\r?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*+)(.*)", re.IGNORECASE)
_FRAMING: Final = re.compile(
    rb"(?:\A|\n)(content-length|transfer-encoding):[ \t]*+([^\r]*)", re.IGNORECASE
)

_RESERVED: Final = RESERVED_SEGMENT.encode("ascii")

# Lengths of more digits than this are beyond every limit, and slow to make numbers of.
_DIGITS: Final = 18

_MALFORMED: Final = Refusal(Problem.MALFORMED_REQUEST, "this is not a well-formed HTTP request")
_BARE: Final = Refusal(
    Problem.MALFORMED_REQUEST, "a line ends with CR and LF, which stand nowhere else"
)
_FIELDS: Final = Refusal(Problem.MALFORMED_REQUEST, "a header field is malformed")
_TARGET: Final = Refusal(Problem.MALFORMED_REQUEST, "the request target is malformed")
_NO_HOST: Final = Refusal(Problem.MALFORMED_REQUEST, "the Host field is missing or malformed")
_CONNECT: Final = Refusal(Problem.MALFORMED_REQUEST, "this is not a proxy")
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
_VERSION: Final = Refusal(Problem.UNKNOWN_VERSION, "this port speaks HTTP/1.1 and HTTP/1.0")
_TOO_LONG: Final = Refusal(Problem.TARGET_TOO_LONG, "the request target is too long")
TOO_LARGE: Final = Refusal(
    Problem.HEAD_TOO_LARGE,
    f"a request's head has at most {MAX_HEAD} bytes and {MAX_FIELDS} fields",
)


class Surroundings(Struct, frozen=True):
    """What heads are read against.

    ``root`` is the raw path, with a slash at both ends, below which streams are found;
    ``reached`` the host and port that a client has come to, for one that does not say.
    """

    root: bytes
    max_body: int
    secure: bool = False
    trust_proxy: bool = False
    reached: bytes = b"localhost"


class Head(Struct, frozen=True):
    """A request but for its body; the first seven are those of `messages.Request`.

    ``length`` is the body's, or `CHUNKED`. ``stream`` is false for what is not a stream's
    affair: nothing else counts then. ``keep`` says that another request may follow, ``old``
    that the client speaks HTTP/1.0, ``expects`` that it waits for a word before it sends the
    body. A request with a ``refusal`` is well-formed, but to be refused.
    """

    method: bytes
    root: bytes
    path: bytes
    query: bytes
    header: Mapping[bytes, bytes]
    url: bytes
    length: int
    stream: bool
    keep: bool
    old: bool
    expects: bool
    refusal: Refusal | None


class RefusedHead(Refused):
    """A head that can be read, but not be followed. ``origin`` is its Origin field."""

    def __init__(self, refusal: Refusal, origin: bytes | None) -> None:
        super().__init__(refusal.problem, refusal.detail, refusal.fields)
        self.origin = origin


def body_too_large(limit: int) -> Refused:
    """What is said to a body of more than ``limit`` bytes."""
    return refused(Refusal(Problem.BODY_TOO_LARGE, f"a body has at most {limit} bytes"))


def refused(refusal: Refusal) -> Refused:
    """The exception that carries a refusal."""
    return Refused(refusal.problem, refusal.detail, refusal.fields)


def check_line(line: bytes) -> None:
    """Look at a first line and its end. Raises `Refused`."""
    if _REQUEST_LINE.fullmatch(line) is None:
        raise refused(_line_fault(line))


def check_start(start: bytes | bytearray, seen: int, line_seen: bool) -> bool:
    """Look at what has come of a head that is not complete.

    Up to ``seen`` it has been looked at before, and its first line, if ``line_seen``.
    Returns whether the first line is complete. Raises `Refused` as soon as the head cannot
    become a good one; what it finds is what `read_head` would find.
    """
    since = max(seen - 1, 0)
    if not line_seen:
        end = start.find(b"\r\n", since, MAX_HEAD)
        if end >= 0:
            check_line(bytes(start[: end + 2]))
            line_seen = True
        elif _SOME_LINE.fullmatch(start, since, MAX_HEAD) is None:
            raise refused(_MALFORMED)
    if line_seen and BARE.search(start, since, MAX_HEAD):
        raise refused(_BARE)
    if len(start) >= MAX_HEAD:
        raise refused(TOO_LARGE if line_seen else _TOO_LONG)
    return line_seen


def read_head(raw: bytes, around: Surroundings) -> Head:
    """The meaning of a complete head, up to and with its empty line. Raises `Refused`."""
    match = _REQUEST_LINE.match(raw)
    if match is None:
        raise refused(_line_fault(raw[: raw.find(b"\r\n") + 2]))
    method, target, minor = match.groups()
    start = match.end()
    if FIELD_BLOCK.fullmatch(raw, start) is None:
        raise refused(_BARE if BARE.search(raw) else _FIELDS)
    count = raw.count(b"\n", start) - 1
    if count > MAX_FIELDS or len(raw) > MAX_HEAD:
        raise refused(TOO_LARGE)
    block = raw[start:]
    old = minor == b"0"
    mapping = read_block(block)
    if mapping is None or mapping.count != count:
        raise refused(_block_fault(block, old, around.max_body))
    try:
        return _understood(method, target, old, mapping, around)
    except Refused as fault:
        raise RefusedHead(fault.refusal, mapping.header.get(b"origin")) from None


def _understood(
    method: bytes, target: bytes, old: bool, mapping: FieldMapping, around: Surroundings
) -> Head:
    header = mapping.header
    length = _body_length(header.get(b"content-length"), header.get(b"transfer-encoding"), old)
    host = header.get(b"host")
    if mapping.doubled in CLOSING:
        raise refused(_NO_HOST if mapping.doubled == b"host" else _BAD_LENGTH)
    if host is None and old:
        host = around.reached
    elif host is None or not targets.is_host(host):
        raise refused(_NO_HOST)
    if method == b"CONNECT":
        raise refused(_CONNECT)
    # Who asks for HTTP/2 this way takes an answer in HTTP/1.1, and some clients always ask.
    # All else would speak another protocol next, and a body in between invites doubt.
    upgrade = header.get(b"upgrade")
    if upgrade is not None and length and upgrade.lower() != b"h2c":
        raise refused(_UPGRADE)
    expect = header.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise refused(_EXPECTATION)
    if not target.startswith(b"/"):
        host, target = _unfolded(method, target, host)
    path, _, query = target.partition(b"?")
    stream = _names_stream(path, around.root)
    if stream and length > around.max_body:
        raise body_too_large(around.max_body)
    return Head(
        method,
        around.root,
        path[len(around.root) :],
        query,
        header,
        targets.base_url(header, host, around.secure, around.trust_proxy) + path,
        length,
        stream,
        _persists(header.get(b"connection"), old),
        old,
        expect is not None and not old,
        None if mapping.doubled is None else doubled(mapping.doubled),
    )


def _line_fault(line: bytes) -> Refusal:
    return _MALFORMED if _OTHER_VERSION.fullmatch(line) is None else _VERSION


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


def _unfolded(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Host and path of a target that does not begin with a slash (RFC 9112 §3.2.2, §3.2.4)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is not None:
        # Where both name a host, this one counts (RFC 9112 §3.2.2).
        host, target = match.groups()
        if not targets.is_host(host):
            raise refused(_TARGET)
        return host, target if target.startswith(b"/") else b"/" + target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    raise refused(_TARGET)


def _names_stream(path: bytes, root: bytes) -> bool:
    """Whether a path is a stream's, and not the root itself or a control resource's."""
    if not path.startswith(root) or len(path) == len(root):
        return False
    if b"%" not in path and not path.startswith(_RESERVED, len(root)):
        return True
    name = unquote_to_bytes(path[len(root) :])
    return not paths.is_reserved(name.decode("latin-1"))


def _persists(connection: bytes | None, old: bool) -> bool:
    """Whether the connection outlives this request (RFC 9112 §9.3)."""
    if connection is None:
        return not old
    options = [option.strip(b" \t") for option in connection.lower().split(b",")]
    return b"close" not in options and (not old or b"keep-alive" in options)
