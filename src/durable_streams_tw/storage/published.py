"""What readers on the reactor's thread see without asking the disk.

States of streams, each with the number of the commit that it is from, and newest bytes. A
state that a thread read from the disk may be older than one that a commit has published
meanwhile, so the newer number wins, also against states that were dropped for want of room.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import CHUNK_CACHE, CHUNK_CACHE_ENTRY, STATE_CACHE
from durable_streams_tw.protocol.state import StreamState


class Unpublished:
    """Stands for a path of which nothing is known here."""


UNPUBLISHED: Final = Unpublished()


class Published:
    """A bounded memory of states by path; None is known absence."""

    def __init__(self, size: int = STATE_CACHE) -> None:
        self._size = size
        self._states: dict[str, tuple[StreamState | None, int]] = {}
        self._dropped = 0

    def get(self, path: str) -> StreamState | Unpublished | None:
        """The state of a path's stream, None where it has none."""
        known = self._states.get(path)
        return UNPUBLISHED if known is None else known[0]

    def put(self, path: str, state: StreamState | None, version: int) -> bool:
        """Take in a state that a commit left; whether it is the newest that is known."""
        known = self._states.get(path)
        if known is None:
            if version < self._dropped:
                # What was dropped may have been newer than this.
                return False
        elif known[1] > version:
            return False
        else:
            # Put in again, and so behind all others in the order of dropping.
            del self._states[path]
        self._states[path] = (state, version)
        if len(self._states) > self._size:
            oldest = next(iter(self._states))
            self._dropped = max(self._dropped, self._states.pop(oldest)[1])
        return True

    def distrust(self, version: int) -> None:
        """Forget everything, and believe nothing that was seen before a version."""
        self._states.clear()
        self._dropped = max(self._dropped, version)

    def publish(self, states: dict[str, StreamState | None], version: int) -> None:
        """Take in all that one commit changed."""
        for path, state in states.items():
            self.put(path, state, version)


_OVERHEAD: Final = 256
"""What an entry costs beside its bytes: key, objects, a slot of the dictionary."""


class RecentChunks:
    """Newest bytes by stream id and position, bounded in bytes.

    Bytes at a position never change, so what is here is always right, if not always all
    that there is.
    """

    def __init__(self, size: int = CHUNK_CACHE, largest: int = CHUNK_CACHE_ENTRY) -> None:
        self._size = size
        self._largest = largest
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._bytes = 0

    def get(self, stream_id: int, start: int) -> bytes | None:
        """A run of bytes that begins at a position."""
        return self._chunks.get((stream_id, start))

    def put(self, stream_id: int, start: int, data: bytes) -> None:
        """Keep a run of bytes, whole messages in JSON mode."""
        if not 0 < len(data) <= self._largest:
            return
        key = (stream_id, start)
        previous = self._chunks.pop(key, None)
        if previous is not None:
            self._bytes -= len(previous) + _OVERHEAD
        self._chunks[key] = data
        self._bytes += len(data) + _OVERHEAD
        while self._bytes > self._size:
            self._bytes -= len(self._chunks.pop(next(iter(self._chunks)))) + _OVERHEAD
