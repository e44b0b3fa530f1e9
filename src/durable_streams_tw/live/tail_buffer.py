"""Buffer of the newest bytes of a followed stream, for readers that keep up."""

from __future__ import annotations

from durable_streams_tw.live.limits import READ_PIECE, TAIL_WINDOW

_STEP = READ_PIECE // 4


class TailBuffer:
    """Stored bytes ``[start, end)`` of one stream, at most `TAIL_WINDOW` bytes.

    Commits add bytes at the end, `trim` removes bytes at the start. A buffer of ``whole`` messages
    (JSON mode) returns ranges that end between appends, because each append is whole messages.
    Such ends are recorded at most once per quarter of `READ_PIECE`, to bound the list of them.
    """

    __slots__ = ("_cuts", "_data", "_whole", "end", "start")

    def __init__(self, position: int, whole: bool) -> None:
        self.start = self.end = position
        self._data = bytearray()
        self._whole = whole
        self._cuts: list[int] = []

    def add(self, start: int, data: bytes) -> None:
        """Add the bytes that a commit appended at ``start``.

        Bytes that the buffer already has are ignored. After a gap the buffer restarts at ``start``.
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
        """Remove the bytes before a position."""
        position = min(position, self.end)
        if position <= self.start:
            return
        del self._data[: position - self.start]
        self.start = position
        if self._cuts:
            self._cuts = [cut for cut in self._cuts if cut > position]

    def slice(self, position: int, limit: int) -> bytes | None:
        """Return at most ``limit`` bytes from a position; empty at or after the end.

        Return None if the bytes are not in the buffer, or if no recorded cut is within the limit;
        then read from the store.
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
