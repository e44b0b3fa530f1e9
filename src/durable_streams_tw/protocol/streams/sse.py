"""Server-Sent Events: framing bytes so that no payload can forge an event (§5.8).

Lines of data are split on CRLF, CR and LF, which is what a parser splits on, and each
begins ``data:``. A parser strips one space behind that, so a line that begins with a space
gets one more and arrives whole. A carriage return reaches the reader as a line feed; the
event stream format has no way to carry one.
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
"""What an idle connection is sent so that nothing on the way closes it."""


class Framing(Enum):
    """How a stream's bytes travel in ``data`` lines."""

    TEXT = "text"
    JSON = "json"
    BASE64 = "base64"


def framing(content_type: str) -> Framing:
    """The framing that a content type asks for (§5.8)."""
    if content_types.is_json(content_type):
        return Framing.JSON
    return Framing.TEXT if content_types.is_text(content_type) else Framing.BASE64


def data_event(kind: Framing, payload: bytes) -> bytes:
    """One ``data`` event of stored bytes: whole messages in JSON mode, whole characters
    in text."""
    if kind is Framing.BASE64:
        text = b2a_base64(payload, newline=False)
    else:
        text = json_mode.document(payload) if kind is Framing.JSON else payload
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = b"\n" + text
        # Every line feed is followed by our own prefix, so the second pattern matches where
        # a line begins with a space, and nothing that a payload says.
        text = text.replace(b"\n", b"\ndata:").replace(b"\ndata: ", b"\ndata:  ")
        return b"event: data" + text + b"\n\n"
    return b"event: data\ndata:" + text + b"\n\n"


def control_event(
    state: StreamState, position: int, cursor: int, up_to_date: bool, closed: bool
) -> bytes:
    """The ``control`` event that follows data, opens a stream and ends it.

    ``closed`` says that the stream ends at ``position``; the cursor, which nobody needs
    then, is left out.
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
    """The line that makes a browser's EventSource resume at ``position``, by its Last-Event-ID.

    It stands before the event that brings the reader there: the data event where there is one, so
    that a connection that is lost before the control event neither loses nor repeats data.
    """
    return b"id:%b\n" % offset_bytes(state, position)


def reconnection_time(chance: float) -> bytes:
    """The line that tells an EventSource how long to wait before it reconnects.

    ``chance`` in [0, 1) spreads the readers that lose their connections together.
    """
    spread = SSE_RETRY_LAST_MS - SSE_RETRY_FIRST_MS
    return b"retry:%d\n" % (SSE_RETRY_FIRST_MS + chance * spread)


def deliverable_size(kind: Framing, payload: bytes, at_tail: bool) -> int:
    """How many of these bytes may go out as one event.

    In text the first bytes of a character that is not complete yet are held back: the rest
    comes with a later append. So is, short of the tail, a CR whose LF may follow.
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
