"""Server-Sent Events as they come: bytes in, in any pieces; events out.

WHATWG HTML, "Server-sent events", §9.2.5 and §9.2.6. Data stay bytes: what the lines of a
text stream carry is nobody's business here.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from durable_streams_tw.client.errors import Broken

#: The most bytes of one event: a server that sends more has no bound of its own.
MAX_EVENT: Final = 256 * 1024 * 1024

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class Event(Struct, frozen=True):
    """One event: its type, and its data lines joined by line feeds."""

    type: bytes
    data: bytes


class EventParser:
    """An event stream that is being read."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0
        self._begun = False
        self._type = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete. Raise `Broken` if one is too large."""
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise Broken(f"the server sends an event of more than {MAX_EVENT} bytes")
        held = bool(self._rest) and self._rest[-1].endswith(b"\r")
        if not held and b"\n" not in data and b"\r" not in data:
            # A long line in many pieces is joined once, when it ends.
            self._rest.append(data)
            return []
        text = b"".join([*self._rest, data])
        if not self._begun:
            self._begun = True
            text = text.removeprefix(_BOM)
        # Whether a CR at the end is a line end of its own, the next byte tells.
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
