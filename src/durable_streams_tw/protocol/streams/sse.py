"""Encoding of Server-Sent Events (PROTOCOL.md §5.8).

No payload can forge an event: it is split at CRLF, CR and LF, as a parser splits it, and each
line is prefixed with ``data:``. A parser strips one space after the prefix, so a line that
begins with a space gets a second one. A carriage return arrives as a line feed; the format
cannot carry it.
"""

from __future__ import annotations

from binascii import b2a_base64
from enum import Enum
from typing import Final

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.limits import SSE_RETRY_FIRST_MS, SSE_RETRY_LAST_MS
from durable_streams_tw.protocol.streams.offsets import format_offset, offset_bytes
from durable_streams_tw.protocol.streams.state import StreamState

COMMENT: Final = b": keep-alive\n\n"
"""Sent on an idle connection, so that no proxy closes it."""


class Framing(Enum):
    """Encoding of a stream's bytes in ``data`` lines."""

    TEXT = "text"
    JSON = "json"
    BASE64 = "base64"


def framing(content_type: str) -> Framing:
    """Return the framing of streams of a content type (§5.8)."""
    if content_types.is_json(content_type):
        return Framing.JSON
    return Framing.TEXT if content_types.is_text(content_type) else Framing.BASE64


def data_event(kind: Framing, payload: bytes) -> bytes:
    """Return a ``data`` event of stored bytes.

    ``payload`` is whole messages in JSON mode and whole characters in text.
    """
    if kind is Framing.BASE64:
        text = b2a_base64(payload, newline=False)
    else:
        text = json_mode.document(payload) if kind is Framing.JSON else payload
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = b"\n" + text
        # After the first replacement every line feed precedes a prefix, so the second pattern
        # matches only lines that begin with a space.
        text = text.replace(b"\n", b"\ndata:").replace(b"\ndata: ", b"\ndata:  ")
        return b"event: data" + text + b"\n\n"
    return b"event: data\ndata:" + text + b"\n\n"


def control_event(
    state: StreamState, position: int, cursor: int, up_to_date: bool, closed: bool
) -> bytes:
    """Return a ``control`` event: the first event, the last one, and the one after data.

    ``closed`` means that the stream is closed and ``position`` is its tail; the event then has
    no cursor, because no request follows.
    """
    offset = format_offset(state, position)
    if closed:
        rest = ',"upToDate":true,"streamClosed":true'
    elif up_to_date:
        rest = f',"streamCursor":"{cursor}","upToDate":true'
    else:
        rest = f',"streamCursor":"{cursor}"'
    return f'event: control\ndata:{{"streamNextOffset":"{offset}"{rest}}}\n\n'.encode("ascii")


def event_id(state: StreamState, position: int) -> bytes:
    """Return the ``id`` line by which an EventSource resumes at ``position`` (Last-Event-ID).

    Send it before the data event, or before the control event if there is no data: a connection
    that is lost between the two events then neither loses nor repeats data.
    """
    return b"id:%b\n" % offset_bytes(state, position)


def reconnection_time(chance: float) -> bytes:
    """Return the ``retry`` line with the delay before an EventSource reconnects.

    ``chance``, a random number in [0, 1), spreads readers that are disconnected together.
    """
    spread = SSE_RETRY_LAST_MS - SSE_RETRY_FIRST_MS
    return b"retry:%d\n" % (SSE_RETRY_FIRST_MS + chance * spread)


def deliverable_size(kind: Framing, payload: bytes, at_tail: bool) -> int:
    """Return how many bytes of a payload can be sent as one event.

    In text an incomplete character at the end is held back until a later append completes it,
    and so is a CR before the tail, because an LF may follow it.
    """
    size = len(payload)
    if kind is not Framing.TEXT or not size:
        return size
    if payload[-1] < 0x80:
        return size - 1 if not at_tail and payload[-1] == 0x0D else size
    # RFC 3629 §3: a lead byte says how many continuation bytes (10xxxxxx) follow it.
    for back in range(1, min(4, size + 1)):
        byte = payload[-back]
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 1
            return size - back if back < width else size
        if byte < 0x80:
            break
    return size
