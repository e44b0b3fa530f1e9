"""Heads of HTTP/2 requests and responses: field blocks to and from what they mean.

A request's fields are written as a head of HTTP/1.1 and read by `wire_heads.read_head`, so the
same request is judged by the same rules, whatever the version of HTTP. What only HTTP/2 can
express (RFC 9113 §8.2, §8.3) is checked before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable
from msgspec.structs import replace

from durable_streams_tw.http.http2.frames import Code, ConnectionFault
from durable_streams_tw.http.limits import MAX_FIELD_BLOCK, MAX_FIELDS, MAX_HEAD, REMEMBERED_HEADS
from durable_streams_tw.http.messages import CommonHeaders, InvalidHeader
from durable_streams_tw.http.refusals import (
    BAD_HOST,
    BAD_TARGET,
    HEAD_TOO_LARGE,
    NOT_A_PROXY,
    TARGET_TOO_LONG,
    refused,
)
from durable_streams_tw.http.request_head import HeadContext, RequestHead, read_head
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.responses import Header

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
_TORN: Final = re.compile(rb"[\r\n\0]")

# Fields about one connection of HTTP/1.1 (RFC 9113 §8.2.2).
_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))

_MALFORMED: Final = Refusal(
    Problem.MALFORMED_REQUEST, "this is not a well-formed HTTP/2 request (RFC 9113 section 8)"
)

RawFields = list[tuple[bytes, bytes]]


class HeadReader:
    """Reads the field blocks of one connection, in the order in which they came.

    A block that changes nothing in the decoder's table means the same when it comes again, and
    most clients repeat theirs: such blocks are looked up, which takes 1 µs where decoding takes
    30. The decoder's table is hpack's own; `test_decoder_table` in tests/server/test_http2_heads
    checks that it is where it is looked for.
    """

    __slots__ = ("_around", "_decoder", "_known", "_table")

    def __init__(self, around: HeadContext) -> None:
        self._around = around
        self._decoder = Decoder(max_header_list_size=MAX_FIELD_BLOCK)
        self._table: Any = self._decoder.header_table.dynamic_entries
        self._known: dict[bytes, RequestHead] = {}

    def read(self, block: bytes) -> RequestHead:
        """Return the head that a block carries.

        Raises `Refused` if the request is refused, and `ConnectionFault` if the block cannot be
        decoded.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        fields, same = self._decode(block)
        head = read_fields(fields, self._around)
        if same and len(self._known) < REMEMBERED_HEADS and len(block) <= MAX_HEAD // 16:
            self._known[block] = head
        return head

    def skip(self, block: bytes) -> RawFields:
        """Decode a block whose fields nobody needs, since later blocks depend on it."""
        return self._decode(block)[0]

    def forget(self) -> None:
        """Free the remembered heads of a connection that is idle."""
        self._known.clear()

    def _decode(self, block: bytes) -> tuple[RawFields, bool]:
        table = self._table
        before = table[0] if table else None
        count = len(table)
        try:
            fields = [(bytes(name), bytes(value)) for name, value, *_ in self._raw(block)]
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a head is too large") from None
        except (HPACKError, IndexError, ValueError):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a field block is malformed") from None
        same = len(table) == count and (table[0] if table else None) is before
        if not same:
            self._known.clear()
        return fields, same

    def _raw(self, block: bytes) -> Any:
        return self._decoder.decode(block, raw=True)


def read_fields(fields: RawFields, around: HeadContext) -> RequestHead:
    """Return the meaning of a request's fields. Raises `Refused`."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    crumbs: list[bytes] = []
    host: bytes | None = None
    for name, value in fields:
        if name.startswith(b":"):
            if lines or crumbs or name not in _PSEUDO or name in pseudo:
                raise refused(_MALFORMED)
            if _TORN.search(value):
                raise refused(_MALFORMED)
            pseudo[name] = value
            continue
        if not _is_sound(name, value):
            raise refused(_MALFORMED)
        if name == b"cookie":
            # Browsers send one field for each (RFC 9113 §8.2.3).
            crumbs.append(value)
        elif name == b"host":
            if host is not None:
                raise refused(BAD_HOST)
            host = value
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    authority = pseudo.get(b":authority")
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise refused(BAD_HOST)
    if len(fields) - len(pseudo) + (authority is not None and host is None) > MAX_FIELDS:
        raise refused(HEAD_TOO_LARGE)
    host = host if authority is None else authority
    line = _request_line(pseudo)
    if host is not None:
        lines.insert(0, b"Host: %b\r\n" % host)
    if crumbs:
        lines.append(b"Cookie: %b\r\n" % b"; ".join(crumbs))
    if len(line) > MAX_HEAD:
        raise refused(TARGET_TOO_LONG)
    head = read_head(b"".join((line, *lines, b"\r\n")), around)
    if not head.is_stream and _is_below(line.split(b" ")[1], around.root):
        # The stream operations answer for control resources and reserved names too.
        head = replace(head, is_stream=True)
    return head


def _is_below(target: bytes, root: bytes) -> bool:
    """Whether a target is below the root of all streams, and none of the operators'."""
    return target.startswith(root) and not target.startswith(b"/-/")


def _is_sound(name: bytes, value: bytes) -> bool:
    """Whether a field is one of HTTP/2's, and one line where it is written as HTTP/1.1."""
    if _NAME.fullmatch(name) is None or _TORN.search(value):
        return False
    if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
        return False
    return name not in _CONNECTION and (name != b"te" or value == b"trailers")


def _request_line(pseudo: dict[bytes, bytes]) -> bytes:
    method = pseudo.get(b":method")
    if method == b"CONNECT":
        raise refused(NOT_A_PROXY)
    path = pseudo.get(b":path")
    if method is None or path is None or pseudo.get(b":scheme") not in (b"http", b"https"):
        raise refused(_MALFORMED)
    if not path.startswith(b"/") and path != b"*":
        raise refused(BAD_TARGET)
    return b"%b %b HTTP/1.1\r\n" % (method, path)


# -- responses ------------------------------------------------------------------------------

# RFC 7541 §6.2.2: a literal without indexing, and its name's place in the static table.
_STATIC: Final[dict[bytes, int]] = {}
_STATUSES: Final[dict[int, bytes]] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _STATIC.setdefault(_name, _index)
    if _name == b":status":
        _STATUSES[int(_value)] = bytes((0x80 | _index,))
_STATUS: Final = b"\x08\x03"
_CONTENT_LENGTH: Final = b"\x0f\x0d"
_DATE: Final = b"\x0f\x12"

# The size of the table that every decoder begins with (RFC 9113 §6.5.2), and what an entry takes
# besides its bytes (RFC 7541 §4.1).
_TABLE_SIZE: Final = 4_096
_ENTRY: Final = 32
# How many sets of common fields are kept encoded: one for each origin that asks.
_COMMON_SETS: Final = 16


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Return an HPACK integer with a prefix of so many bits (RFC 7541 §5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    encoded = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        encoded.append(0x80 | (value & 0x7F))
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@lru_cache(maxsize=512)
def _literal_name(name: bytes, bits: int, first: int) -> bytes:
    name = name.lower()
    index = _STATIC.get(name)
    if index is not None:
        return integer(index, bits, first)
    return bytes((first,)) + integer(len(name), 7) + name


def _literal(field: Header) -> bytes:
    name, value = field
    size = len(value)
    length = bytes((size,)) if size < 127 else integer(size, 7)
    return _literal_name(name, 4, 0) + length + value


class HeadWriter:
    """Encodes the heads of the responses of one connection (RFC 7541).

    Fields that all responses share go into the client's table once, and are one byte each from
    then on. All others are written as they are: nothing is ever evicted, and a secret in a
    field cannot be guessed from the size of another (RFC 7541 §7.1).
    """

    __slots__ = ("_common", "_count", "_places", "_resize", "_room")

    def __init__(self) -> None:
        self._room = _TABLE_SIZE
        self._count = 0
        self._places: dict[Header, int] = {}
        self._common: dict[CommonHeaders, bytes] = {}
        self._resize = b""

    def limit_table(self, size: int) -> None:
        """Obey the client's SETTINGS_HEADER_TABLE_SIZE: a smaller table is not used at all."""
        if size < _TABLE_SIZE and self._room >= 0:
            self._room = -1
            self._places.clear()
            self._common.clear()
            # Dynamic table size update to 0 (RFC 7541 §4.2).
            self._resize = b"\x20"

    def write(
        self, status: int, own: list[Header], common: CommonHeaders, length: int | None, date: bytes
    ) -> bytes:
        """Return the field block of a response.

        ``length`` is the value of Content-Length, None for no such field. Raises `InvalidHeader`.
        """
        shared = self._common.get(common)
        if shared is None:
            shared = self._share(common)
        if own and _TORN.search(b"".join([value for _, value in own])):
            raise InvalidHeader(f"a field of a {status} answer has a line's end in it")
        resize, self._resize = self._resize, b""
        known = _STATUSES.get(status)
        parts = [
            resize,
            _STATUS + b"%d" % status if known is None else known,
            _DATE + bytes((len(date),)) + date,
            *map(_literal, own),
            shared,
        ]
        if length is not None:
            digits = b"%d" % length
            parts.append(_CONTENT_LENGTH + bytes((len(digits),)) + digits)
        return b"".join(parts)

    def _share(self, common: CommonHeaders) -> bytes:
        parts = []
        grown = False
        for field in common.headers:
            place = self._places.get(field)
            size = _ENTRY + len(field[0]) + len(field[1])
            if place is not None:
                # The newest entry has the first index after the static table.
                parts.append(
                    integer(len(HeaderTable.STATIC_TABLE) + 1 + self._count - place, 7, 0x80)
                )
            elif size > self._room:
                parts.append(_literal(field))
            else:
                self._room -= size
                self._count += 1
                self._places[field] = self._count
                parts.append(
                    _literal_name(field[0], 6, 0x40) + integer(len(field[1]), 7) + field[1]
                )
                grown = True
        shared = b"".join(parts)
        if grown:
            # Every index has moved.
            self._common.clear()
        elif len(self._common) < _COMMON_SETS:
            self._common[common] = shared
        return shared


CONTINUE: Final = _STATUS + b"100"
