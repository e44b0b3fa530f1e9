"""HTTP/2 heads: field blocks to request heads, and responses to field blocks.

The headers of a request are written as an HTTP/1.1 head and read by `request_head.read_head`, so
that the same rules hold for all versions of HTTP. The rules of HTTP/2 alone (RFC 9113 §8.2, §8.3)
are checked before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable
from msgspec.structs import replace

from durable_streams_tw.http import refusals
from durable_streams_tw.http.http2.frames import Code, ConnectionFault
from durable_streams_tw.http.limits import MAX_FIELD_BLOCK, MAX_FIELDS, MAX_HEAD, REMEMBERED_HEADS
from durable_streams_tw.http.messages import CommonHeaders, InvalidHeader
from durable_streams_tw.http.request_head import HeadContext, RequestHead, read_head
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.headers import H_CONTENT_TYPE
from durable_streams_tw.protocol.streams.responses import Header

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
_LINE_BREAK: Final = re.compile(rb"[\r\n\0]")

# Headers of one HTTP/1.1 connection (RFC 9113 §8.2.2).
_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))

_MALFORMED: Final = Refusal(
    Problem.MALFORMED_REQUEST, "this is not a well-formed HTTP/2 request (RFC 9113 section 8)"
)

RawFields = list[tuple[bytes, bytes]]


class HeadReader:
    """Decoder of the field blocks of one connection, in order of arrival.

    A block that leaves the decoder's table unchanged means the same when it is repeated, as most
    clients do. Such blocks are cached, which takes 1 µs where decoding takes 30. The table is a
    private attribute of hpack: ``test_decoder_table`` in tests/http/http2/test_heads.py checks
    that it exists.
    """

    __slots__ = ("_context", "_decoder", "_known", "_table")

    def __init__(self, context: HeadContext) -> None:
        self._context = context
        self._decoder = Decoder(max_header_list_size=MAX_FIELD_BLOCK)
        self._table: Any = self._decoder.header_table.dynamic_entries
        self._known: dict[bytes, RequestHead] = {}

    def read(self, block: bytes) -> RequestHead:
        """Return the head of a block.

        Raises `Refused` for a request that is refused, and `ConnectionFault` for a block that
        cannot be decoded.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        fields, same = self._decode(block)
        head = read_fields(fields, self._context)
        if same and len(self._known) < REMEMBERED_HEADS and len(block) <= MAX_HEAD // 16:
            self._known[block] = head
        return head

    def skip(self, block: bytes) -> RawFields:
        """Decode a block that is not used, since the meaning of later blocks depends on it."""
        return self._decode(block)[0]

    def forget(self) -> None:
        """Drop the cached heads of an idle connection."""
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


def read_fields(fields: RawFields, context: HeadContext) -> RequestHead:
    """Return the head of a request with these headers. Raises `Refused`."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    host: bytes | None = None
    for name, value in fields:
        if name.startswith(b":"):
            if lines or cookies or name not in _PSEUDO or name in pseudo:
                raise refusals.refused(_MALFORMED)
            if _LINE_BREAK.search(value):
                raise refusals.refused(_MALFORMED)
            pseudo[name] = value
            continue
        if not _is_valid(name, value):
            raise refusals.refused(_MALFORMED)
        if name == b"cookie":
            # Browsers send one header for each cookie (RFC 9113 §8.2.3).
            cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise refusals.refused(refusals.BAD_HOST)
            host = value
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    authority = pseudo.get(b":authority")
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise refusals.refused(refusals.BAD_HOST)
    if len(fields) - len(pseudo) + (authority is not None and host is None) > MAX_FIELDS:
        raise refusals.refused(refusals.HEAD_TOO_LARGE)
    host = host if authority is None else authority
    line = _request_line(pseudo)
    if host is not None:
        lines.insert(0, b"Host: %b\r\n" % host)
    if cookies:
        lines.append(b"Cookie: %b\r\n" % b"; ".join(cookies))
    if len(line) > MAX_HEAD:
        raise refusals.refused(refusals.TARGET_TOO_LONG)
    head = read_head(b"".join((line, *lines, b"\r\n")), context)
    if not head.is_stream and _is_below(line.split(b" ")[1], context.root):
        # The request handler is responsible for control resources and reserved names too.
        head = replace(head, is_stream=True)
    return head


def _is_below(target: bytes, root: bytes) -> bool:
    """Return whether a target is below the root of all streams and not an operator resource."""
    return target.startswith(root) and not target.startswith(b"/-/")


def _is_valid(name: bytes, value: bytes) -> bool:
    """Return whether a header is valid in HTTP/2 and takes one line in HTTP/1.1."""
    if _NAME.fullmatch(name) is None or _LINE_BREAK.search(value):
        return False
    if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
        return False
    return name not in _CONNECTION and (name != b"te" or value == b"trailers")


def _request_line(pseudo: dict[bytes, bytes]) -> bytes:
    method = pseudo.get(b":method")
    if method == b"CONNECT":
        raise refusals.refused(refusals.NOT_A_PROXY)
    path = pseudo.get(b":path")
    if method is None or path is None or pseudo.get(b":scheme") not in (b"http", b"https"):
        raise refusals.refused(_MALFORMED)
    if not path.startswith(b"/") and path != b"*":
        raise refusals.refused(refusals.BAD_TARGET)
    return b"%b %b HTTP/1.1\r\n" % (method, path)


# -- responses ------------------------------------------------------------------------------

# RFC 7541 §6.2.2: literals without indexing, by the index of their name in the static table.
_STATIC: Final[dict[bytes, int]] = {}
_STATUSES: Final[dict[int, bytes]] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _STATIC.setdefault(_name, _index)
    if _name == b":status":
        _STATUSES[int(_value)] = bytes((0x80 | _index,))
_STATUS: Final = b"\x08\x03"
_CONTENT_LENGTH: Final = b"\x0f\x0d"
_DATE: Final = b"\x0f\x12"

# Initial size of a decoder's table (RFC 9113 §6.5.2), and the size of an entry besides its bytes
# (RFC 7541 §4.1).
_TABLE_SIZE: Final = 4_096
_ENTRY: Final = 32
# Most cached sets of common headers: there is one for each Origin and content type.
_COMMON_SETS: Final = 16


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Return an HPACK integer with a prefix of ``bits`` bits (RFC 7541 §5.1)."""
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
    """Encoder of the response heads of one connection (RFC 7541).

    Headers that all responses share enter the client's table once, and take one byte each from
    then on. All others are literals, the content types of streams too: nothing is evicted, and the
    size of a head reveals nothing about a secret in another one (RFC 7541 §7.1).
    """

    __slots__ = ("_common", "_count", "_positions", "_resize", "_space")

    def __init__(self) -> None:
        self._space = _TABLE_SIZE
        self._count = 0
        self._positions: dict[Header, int] = {}
        self._common: dict[CommonHeaders, bytes] = {}
        self._resize = b""

    def limit_table(self, size: int) -> None:
        """Apply the client's SETTINGS_HEADER_TABLE_SIZE. If it is below ours, use no table."""
        if size < _TABLE_SIZE and self._space >= 0:
            self._space = -1
            self._positions.clear()
            self._common.clear()
            # Dynamic table size update to 0 (RFC 7541 §4.2).
            self._resize = b"\x20"

    def write(
        self, status: int, own: list[Header], common: CommonHeaders, length: int | None, date: bytes
    ) -> bytes:
        """Return the field block of a response.

        ``length`` is the Content-Length, None for no such header. Raises `InvalidHeader`.
        """
        shared = self._common.get(common)
        if shared is None:
            shared = self._share(common)
        if own and _LINE_BREAK.search(b"".join([value for _, value in own])):
            raise InvalidHeader(f"a header of a {status} response has a line break")
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
            place = self._positions.get(field)
            size = _ENTRY + len(field[0]) + len(field[1])
            if place is not None:
                # The newest entry has the first index after the static table.
                parts.append(
                    integer(len(HeaderTable.STATIC_TABLE) + 1 + self._count - place, 7, 0x80)
                )
            elif size > self._space or field[0] == H_CONTENT_TYPE:
                parts.append(_literal(field))
            else:
                self._space -= size
                self._count += 1
                self._positions[field] = self._count
                parts.append(
                    _literal_name(field[0], 6, 0x40) + integer(len(field[1]), 7) + field[1]
                )
                grown = True
        shared = b"".join(parts)
        if grown or len(self._common) >= _COMMON_SETS:
            # New entries shift all indexes.
            self._common.clear()
        else:
            self._common[common] = shared
        return shared


CONTINUE: Final = _STATUS + b"100"
