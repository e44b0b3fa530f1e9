"""Event batch: SSE encoding of a stream's bytes from one position, shared by its subscribers."""

from __future__ import annotations

from typing import Final

from durable_streams_tw.live.limits import TAIL_WINDOW
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.protocol.streams.sse import Framing
from durable_streams_tw.protocol.streams.state import StreamState

_CR: Final = 0x0D
_LF: Final = 0x0A


class EventBatch:
    """Events for subscribers at position ``start`` of a stream in a given ``state``.

    ``data`` are the bytes from ``start``; ``drained`` says that their source had no more.
    ``read_end`` is the position after them. ``end`` is the position of the subscribers after the
    batch: it is less than ``read_end`` if the bytes end inside a character of text. ``last`` says
    that the stream is closed and ends here.

    ``after_cr`` says that the text sent before ended with a carriage return; a line feed that
    follows belongs to the same line end and is left out. ``ends_with_cr`` says the same about this
    batch.
    """

    __slots__ = (
        "_event",
        "_frames",
        "_frames_size",
        "_state",
        "_up_to_date",
        "end",
        "ends_with_cr",
        "last",
        "read_end",
    )

    def __init__(
        self,
        kind: Framing,
        state: StreamState,
        start: int,
        data: bytes,
        drained: bool,
        after_cr: bool,
    ) -> None:
        self.read_end = start + len(data)
        at_tail = self.read_end >= state.tail
        self.last = at_tail and state.closed
        if not self.last:
            stop = sse.deliverable_size(kind, data, at_tail)
            # Without this, a source that returns only the start of a character and has more
            # would be read at the same position forever.
            if stop or drained:
                data = data[:stop]
        self.end = start + len(data)
        self._up_to_date = self.end >= state.tail
        self.ends_with_cr = after_cr
        if data and kind is Framing.TEXT:
            self.ends_with_cr = data[-1] == _CR
            if after_cr and data[0] == _LF:
                data = data[1:]
        self._event = sse.data_event(kind, data) if data else b""
        self._state = state
        self._frames: dict[int, bytes] = {}
        self._frames_size = 0

    def has_news(self, start: int) -> bool:
        """Return whether the batch moves a subscriber at ``start``, or ends its stream."""
        return self.end > start or self.last

    def frame(self, cursor: int) -> bytes:
        """Return the data event, if there is data, followed by a control event with ``cursor``."""
        frame = self._frames.get(cursor)
        if frame is None:
            control = sse.control_event(self._state, self.end, cursor, self._up_to_date, self.last)
            frame = sse.event_id(self._state, self.end) + self._event + control
            self._frames_size += len(frame)
            if self._frames_size > TAIL_WINDOW:
                self._frames.clear()
                self._frames_size = len(frame)
            self._frames[cursor] = frame
        return frame
