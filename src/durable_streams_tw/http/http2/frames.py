"""HTTP/2 frames: bytes to frames and frames to bytes, without I/O (RFC 9113 §4, §6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

#: The first bytes of every client (RFC 9113 §3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: The largest frame payload that this server accepts, and that any client must accept.
MAX_FRAME: Final = 16_384

#: The largest flow-control window.
MAX_WINDOW: Final = 2**31 - 1

#: Both windows of a connection before anything changes them.
DEFAULT_WINDOW: Final = 65_535

FRAME_HEAD: Final = 9

# Frame types.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags. ACK and END_STREAM share a bit.
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# Settings.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

_HEAD: Final = Struct(">BHBBL")
_SETTING: Final = Struct(">HL")
_NUMBER: Final = Struct(">L")


class Code(IntEnum):
    """Error codes (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """Violation of the protocol that ends the connection. ``code`` goes into the GOAWAY frame."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Frame(NamedTuple):
    """One frame. ``kind`` is its type, ``stream`` the identifier of its stream."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass(slots=True, eq=False)
class FrameReader:
    """Incremental parser of the frames of one client.

    It holds less than one frame between calls once `next` has returned None.
    """

    _data: bytes = b""
    _at: int = 0
    in_preface: bool = True

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        left = self._data[self._at :] if self._at < len(self._data) else b""
        self._data = left + data if left else data
        self._at = 0

    @property
    def pending(self) -> int:
        """Number of bytes that `next` has not returned."""
        return len(self._data) - self._at

    @property
    def in_data(self) -> int:
        """Stream of an incomplete DATA frame, 0 if there is none."""
        if self.in_preface or self.pending < FRAME_HEAD:
            return 0
        _, _, kind, _, stream = _HEAD.unpack_from(self._data, self._at)
        return stream & MAX_WINDOW if kind == DATA else 0

    def next(self) -> Frame | None:
        """Return the next complete frame, None if more bytes are needed.

        Raises `ConnectionFault` for a wrong preface or a frame that is too large.
        """
        data, at = self._data, self._at
        if self.in_preface:
            given = data[at : at + len(PREFACE)]
            if not PREFACE.startswith(given):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "this is not the preface of HTTP/2")
            if len(given) < len(PREFACE):
                return None
            self.in_preface = False
            at = self._at = at + len(PREFACE)
        left = len(data) - at
        if left < FRAME_HEAD:
            return None
        high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
        length = (high << 16) | low
        if length > MAX_FRAME:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is too large")
        if left < FRAME_HEAD + length:
            return None
        begin = at + FRAME_HEAD
        self._at = end = begin + length
        payload = data[begin:end]
        if end == len(data):
            self._data = b""
            self._at = 0
        return Frame(kind, flags, stream & MAX_WINDOW, payload)


def unpadded(frame: Frame) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding.

    Raises `ConnectionFault` if the padding is longer than the payload.
    """
    if not frame.flags & PADDED:
        return frame.payload
    payload = frame.payload
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame is empty")
    end = len(payload) - payload[0]
    if end < 1:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1:end]


def fragment(frame: Frame) -> bytes:
    """Return the part of a field block that a HEADERS frame carries. Raises `ConnectionFault`."""
    payload = unpadded(frame)
    if not frame.flags & WITH_PRIORITY:
        return payload
    if len(payload) < 5:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a HEADERS frame is too short")
    check_priority(frame.stream, payload)
    return payload[5:]


def check_priority(stream: int, payload: bytes) -> None:
    """Check the priority fields at the start of a payload. Raises `ConnectionFault`.

    Priorities are ignored otherwise (RFC 9113 §5.3.2 deprecates them).
    """
    if _NUMBER.unpack_from(payload)[0] & MAX_WINDOW == stream:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream depends on itself")


def number(payload: bytes) -> int:
    """Return the 32-bit number that a payload consists of. Raises `ConnectionFault`."""
    if len(payload) != 4:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame has the wrong length")
    value: int = _NUMBER.unpack(payload)[0]
    return value


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the identifiers and values of a SETTINGS frame. Raises `ConnectionFault`."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a SETTINGS frame has the wrong length")
    settings = list(_SETTING.iter_unpack(payload))
    for name, value in settings:
        if name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if name == MAX_FRAME_SIZE and not MAX_FRAME <= value < 2**24:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
    return settings


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes before a payload of this length."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def settings(*values: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join([_SETTING.pack(*value) for value in values])
    return head(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = head(0, SETTINGS, ACK, 0)


def ping_ack(payload: bytes) -> bytes:
    """Return the acknowledgement of a PING frame."""
    return head(len(payload), PING, ACK, 0) + payload


def rst_stream(stream: int, code: Code) -> bytes:
    """Return a frame that resets a stream."""
    return head(4, RST_STREAM, 0, stream) + _NUMBER.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    """Return a frame that opens the window of a stream, or of the connection for stream 0."""
    return head(4, WINDOW_UPDATE, 0, stream) + _NUMBER.pack(increment)


def goaway(last: int, code: Code, detail: str = "") -> bytes:
    """Return a frame that refuses all streams after ``last``."""
    payload = _NUMBER.pack(last) + _NUMBER.pack(code) + detail.encode("ascii")
    return head(len(payload), GOAWAY, 0, 0) + payload


def headers(stream: int, block: bytes, end: bool) -> bytes:
    """Return the frames of a field block; ``end`` is true if no body follows."""
    flags = END_STREAM if end else 0
    if len(block) <= MAX_FRAME:
        return head(len(block), HEADERS, flags | END_HEADERS, stream) + block
    parts: list[bytes] = []
    kind = HEADERS
    for start in range(0, len(block), MAX_FRAME):
        part = block[start : start + MAX_FRAME]
        if start + MAX_FRAME >= len(block):
            flags |= END_HEADERS
        parts += (head(len(part), kind, flags, stream), part)
        kind, flags = CONTINUATION, 0
    return b"".join(parts)
