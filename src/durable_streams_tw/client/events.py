"""Incremental parser for Server-Sent Events (WHATWG HTML, §9.2.5 and §9.2.6).

The parser does not decode data as UTF-8: it returns bytes.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from durable_streams_tw.client.errors import BadResponse

#: Maximum size of one event (bytes); without it, a server could exhaust the client's memory.
MAX_EVENT: Final = 256 * 1024 * 1024

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class Event(Struct, frozen=True):
    """One event: its type, and its data lines joined with line feeds."""

    type: bytes
    data: bytes


class EventParser:
    """Parser of one event stream, fed with bytes as they arrive."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0
        self._begun = False
        self._type = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that the bytes complete.

        Raises `BadResponse` if one exceeds MAX_EVENT.
        """
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise BadResponse(f"an event is larger than {MAX_EVENT} bytes")
        held = bool(self._rest) and self._rest[-1].endswith(b"\r")
        if not held and b"\n" not in data and b"\r" not in data:
            # Joining a long line at each piece would take quadratic time: join it when it ends.
            self._rest.append(data)
            return []
        text = b"".join([*self._rest, data])
        if not self._begun:
            self._begun = True
            text = text.removeprefix(_BOM)
        # A CR at the end may be half of a CR LF: keep it until the next byte arrives, or the LF
        # would end an empty line and dispatch the event early.
        last = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text.removesuffix(b"\r"))
        self._rest = [rest + last]
        return [event for event in map(self._line, lines) if event is not None]

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value
        elif name == b"data":
            self._data.append(value)
        return None

    def _dispatch(self) -> Event | None:
        kind, data = self._type or b"message", self._data
        self._type, self._data, self._size = b"", [], 0
        return Event(kind, b"\n".join(data)) if data else None
