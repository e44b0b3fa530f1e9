"""Pieces: bytes of a stream from one position, framed once for all who need them."""

from __future__ import annotations

from typing import Final

from durable_streams_tw.live.limits import TAIL_WINDOW
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.protocol.streams.sse import Framing
from durable_streams_tw.protocol.streams.state import StreamState

_CR: Final = 0x0D
_LF: Final = 0x0A


class EventBatch:
    """What readers at ``start`` are sent next, of a stream that is ``state``.

    ``data`` are the bytes from there; ``drained`` says that whoever had them had no more.
    ``reach`` is their end. ``end``, where readers are afterwards, is before it where it lies
    inside a character of text: the rest comes later. ``last`` says that the stream is closed
    and ends here.

    ``after_cr`` says that the text shown before ended with a carriage return: a line feed
    that follows belongs to that line end and is not shown again. ``leaves_cr`` is the same
    for what comes after this piece.
    """

    __slots__ = (
        "_event",
        "_frames",
        "_held",
        "_state",
        "_up_to_date",
        "end",
        "last",
        "leaves_cr",
        "reach",
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
        self.reach = start + len(data)
        at_tail = self.reach >= state.tail
        self.last = at_tail and state.closed
        if not self.last:
            stop = sse.deliverable_size(kind, data, at_tail)
            # Where there is more and this is but the start of a character, holding it back
            # would be reading it again for ever.
            if stop or drained:
                data = data[:stop]
        self.end = start + len(data)
        self._up_to_date = self.end >= state.tail
        self.leaves_cr = after_cr
        if data and kind is Framing.TEXT:
            self.leaves_cr = data[-1] == _CR
            if after_cr and data[0] == _LF:
                data = data[1:]
        self._event = sse.data_event(kind, data) if data else b""
        self._state = state
        self._frames: dict[int, bytes] = {}
        self._held = 0

    def says_something(self, start: int) -> bool:
        """Whether readers at ``start`` learn anything from it."""
        return self.end > start or self.last

    def frame(self, cursor: int) -> bytes:
        """The data event, where there is data to show, and the control event behind it."""
        frame = self._frames.get(cursor)
        if frame is None:
            control = sse.control_event(self._state, self.end, cursor, self._up_to_date, self.last)
            frame = sse.event_id(self._state, self.end) + self._event + control
            self._held += len(frame)
            if self._held > TAIL_WINDOW:
                self._frames.clear()
                self._held = len(frame)
            self._frames[cursor] = frame
        return frame
