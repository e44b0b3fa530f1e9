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
from msgspec.structs import replace

from durable_streams_tw.http.http1.fields import BARE, TOKEN
from durable_streams_tw.http.http1.header_section import (
    BARE_END,
    TOO_LARGE,
    HeadContext,
    HeaderSection,
    RefusedHead,
    body_too_large,
    read_section,
    refused,
    resembling,
)
from durable_streams_tw.http.limits import MAX_HEAD
from durable_streams_tw.http.twisted_web import request_target
from durable_streams_tw.protocol import paths
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import RESERVED_SEGMENT

# RFC 9112 §3. A target is printable ASCII; "#" never belongs into one (RFC 9112 §3.2).
_REQUEST_LINE: Final = re.compile(TOKEN + rb" [\x21\x22\x24-\x7e]++ HTTP/1\.[01]\r\n")
_OTHER_VERSION: Final = re.compile(
    TOKEN + rb" [\x21\x22\x24-\x7e]++ HTTP/(?!1\.[01]\r)[0-9]\.[0-9]\r\n"
)
_SOME_LINE: Final = re.compile(rb"[\x20-\x7e]*+\r?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*+)(.*)", re.IGNORECASE)
_RESERVED: Final = RESERVED_SEGMENT.encode("ascii")

_MALFORMED: Final = Refusal(Problem.MALFORMED_REQUEST, "this is not a well-formed HTTP request")
_TARGET: Final = Refusal(Problem.MALFORMED_REQUEST, "the request target is malformed")
_CONNECT: Final = Refusal(Problem.MALFORMED_REQUEST, "this is not a proxy")
_CODING: Final = Refusal(
    Problem.UNKNOWN_CODING, "the only transfer coding that is understood is chunked"
)
_VERSION: Final = Refusal(Problem.UNKNOWN_VERSION, "this port speaks HTTP/1.1 and HTTP/1.0")
_TOO_LONG: Final = Refusal(Problem.TARGET_TOO_LONG, "the request target is too long")


class RequestHead(Struct, frozen=True):
    """A request but for its body; the first seven are those of `messages.Request`.

    ``line`` is the request line. ``length`` is the body's, or `CHUNKED`. ``stream`` is false for
    what is not a stream's affair: nothing else counts then. ``keep`` says that another request
    may follow, ``old`` that the client speaks HTTP/1.0, ``expects`` that it waits for a word
    before it sends the body. A request with a ``refusal`` is well-formed, but to be refused.
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
    line: bytes
    section: HeaderSection


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
        raise refused(BARE_END)
    if len(start) >= MAX_HEAD:
        raise refused(TOO_LARGE if line_seen else _TOO_LONG)
    return line_seen


def read_head(raw: bytes, around: HeadContext, last: RequestHead | None = None) -> RequestHead:
    """The meaning of a complete head, up to and with its empty line. Raises `Refused`.

    ``last`` is another head. What both have in common is not read again, for clients often send
    the same to many streams, or nearly the same to one.
    """
    line = last.line if last is not None and raw.startswith(last.line) else _line_of(raw)
    block = raw[len(line) :]
    old = line.endswith(b"0\r\n")
    known = resembling(last.section, block) if last is not None and last.old is old else None
    section = known or read_section(block, old, around)
    if len(raw) > MAX_HEAD:
        raise refused(TOO_LARGE)
    try:
        if last is not None and line is last.line and known is not None:
            head = replace(last, header=section.header, length=section.length, section=section)
        else:
            head = _understood(line, section, around)
        if head.stream and head.length > around.max_body:
            raise body_too_large(around.max_body)
    except Refused as fault:
        raise RefusedHead(fault.refusal, section.header.get(b"origin")) from None
    return head


def _line_of(raw: bytes) -> bytes:
    match = _REQUEST_LINE.match(raw)
    if match is None:
        raise refused(_line_fault(raw[: raw.find(b"\r\n") + 2]))
    return match[0]


def _understood(line: bytes, section: HeaderSection, around: HeadContext) -> RequestHead:
    method, target, _ = line.split(b" ")
    if method == b"CONNECT":
        raise refused(_CONNECT)
    base = section.base
    if not target.startswith(b"/"):
        host, target = _unfolded(method, target, section.host)
        base = request_target.base_url(section.header, host, around.secure, around.trust_proxy)
    path, _, query = target.partition(b"?")
    root = around.root
    stream = _names_stream(path, root)
    return RequestHead(
        method,
        root,
        path[len(root) :],
        query,
        section.header,
        base + path,
        section.length,
        stream,
        section.keep,
        section.old,
        section.expects,
        section.refusal,
        line,
        section,
    )


def _line_fault(line: bytes) -> Refusal:
    return _MALFORMED if _OTHER_VERSION.fullmatch(line) is None else _VERSION


def _unfolded(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Host and path of a target that does not begin with a slash (RFC 9112 §3.2.2, §3.2.4)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is not None:
        # Where both name a host, this one counts (RFC 9112 §3.2.2).
        host, target = match.groups()
        if not request_target.is_host(host):
            raise refused(_TARGET)
        return host, target if target.startswith(b"/") else b"/" + target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    raise refused(_TARGET)


def _names_stream(path: bytes, root: bytes) -> bool:
    """Whether a path is a stream's, and not the root itself or a control resource's."""
    if not path.startswith(root) or len(path) == len(root):
        return False
    if root == b"/" and path.startswith(b"/-/"):
        # The operators' (`operators.PREFIX`), where streams are all over the site.
        return False
    if b"%" not in path and not path.startswith(_RESERVED, len(root)):
        return True
    name = unquote_to_bytes(path[len(root) :])
    return not paths.is_reserved(name.decode("latin-1"))
