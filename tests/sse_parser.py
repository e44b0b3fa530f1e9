"""Parser of event streams according to the HTML standard, independent of the server.

WHATWG HTML, "Server-sent events", §9.2.5 and §9.2.6. Browsers parse the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """Dispatched event: type and data."""

    type: str
    data: str


class Parser:
    """Incremental parser. Comments are counted."""

    def __init__(self) -> None:
        self.comments = 0
        self.last_event_id = ""
        self.retry: int | None = None
        self._buffer = b""
        self._begun = False
        self._type = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete."""
        self._buffer += data
        if not self._begun:
            if len(self._buffer) < 3 and b"\xef\xbb\xbf".startswith(self._buffer):
                return []
            self._begun = True
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
        # A line feed that follows a CR belongs to the same line end.
        held = b"\r" if self._buffer.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(self._buffer.removesuffix(b"\r"))
        self._buffer = rest + held
        events = [self._line(line.decode("utf-8", "replace")) for line in lines]
        return [event for event in events if event is not None]

    @property
    def pending(self) -> bool:
        """Return True if an incomplete event is buffered, which the end of the stream
        would drop.
        """
        return bool(self._buffer.strip(b"\r\n") or self._data or self._type)

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments += 1
            return None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._type = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id
        kind, data = self._type or "message", self._data
        self._type, self._data = "", []
        # Without a data line there is no event.
        return Event(kind, "\n".join(data)) if data else None


def parse(data: bytes) -> list[Event]:
    """Return the events of a complete event stream."""
    parser = Parser()
    events = parser.feed(data)
    # A lone CR at the end is completed by the end of the stream.
    return events + (parser.feed(b"\n") if data.endswith(b"\r") else [])
