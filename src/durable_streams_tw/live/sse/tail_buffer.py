"""The newest bytes of a followed stream, held for readers that keep up."""

from __future__ import annotations

from durable_streams_tw.live.limits import READ_PIECE, TAIL_WINDOW

_STEP = READ_PIECE // 4


class TailBuffer:
    """Stored bytes ``[start, end)`` of one stream, at most `TAIL_WINDOW` of them.

    It grows at the end with commits and is trimmed at the start. ``whole`` streams (JSON
    mode) are cut between appends only, since an append is whole messages; a cut is
    remembered every quarter of a chunk, so that tiny appends cost no list of their own.
    """

    __slots__ = ("_cuts", "_data", "_whole", "end", "start")

    def __init__(self, position: int, whole: bool) -> None:
        self.start = self.end = position
        self._data = bytearray()
        self._whole = whole
        self._cuts: list[int] = []

    def add(self, start: int, data: bytes) -> None:
        """Take the bytes that a commit appended at ``start``.

        After a gap the window begins anew; what it has already is ignored.
        """
        if start != self.end:
            if start < self.end:
                return
            self.trim(self.end)
            self.start = start
        self.end = start + len(data)
        if len(data) > TAIL_WINDOW:
            self._data.clear()
            self._cuts.clear()
            self.start = self.end
            return
        self._data += data
        if self._whole:
            cuts = self._cuts
            if cuts and self.end - (cuts[-2] if len(cuts) > 1 else self.start) <= _STEP:
                cuts[-1] = self.end
            else:
                cuts.append(self.end)
        if len(self._data) > TAIL_WINDOW:
            self.trim(self.end - TAIL_WINDOW)

    def trim(self, position: int) -> None:
        """Let go of what lies before a position."""
        position = min(position, self.end)
        if position <= self.start:
            return
        del self._data[: position - self.start]
        self.start = position
        if self._cuts:
            self._cuts = [cut for cut in self._cuts if cut > position]

    def slice(self, position: int, limit: int) -> bytes | None:
        """About ``limit`` bytes from a position at most; none at the end and beyond it.

        None where the window does not have them, or cannot cut them so short: the store can.
        """
        if position >= self.end:
            return b""
        if position < self.start:
            return None
        stop = self.end
        if stop - position > limit:
            stop = position + limit
            if self._whole:
                stop = max((cut for cut in self._cuts if cut <= stop), default=position)
                if stop <= position:
                    return None
        with memoryview(self._data) as view:
            return bytes(view[position - self.start : stop - self.start])
