"""What readers on the reactor's thread see without asking the disk.

States of streams, each with the number of the commit that it is from, and newest bytes. A
state that a thread read from the disk may be older than one that a commit has published
meanwhile, so the newer number wins, also against states that were dropped for want of room.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.limits import CHUNK_CACHE, CHUNK_CACHE_ENTRY, STATE_CACHE


class NotCached:
    """Stands for a path of which nothing is known here."""


NOT_CACHED: Final = NotCached()


class StateCache:
    """A bounded memory of states by path; None is known absence."""

    def __init__(self, size: int = STATE_CACHE) -> None:
        self._states: BoundedCache[str, tuple[StreamState | None, int]] = BoundedCache(size)
        self._dropped = 0

    def get(self, path: str) -> StreamState | NotCached | None:
        """The state of a path's stream, None where it has none."""
        known = self._states.get(path)
        return NOT_CACHED if known is None else known[0]

    def put(self, path: str, state: StreamState | None, version: int) -> bool:
        """Take in a state that a commit left; whether it is the newest that is known."""
        known = self._states.get(path)
        if known is None:
            if version < self._dropped:
                # What was dropped may have been newer than this.
                return False
        elif known[1] > version:
            return False
        for _, (_, dropped) in self._states.put(path, (state, version)):
            self._dropped = max(self._dropped, dropped)
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


def _weigh(data: bytes) -> int:
    return len(data) + _OVERHEAD


class ChunkCache:
    """Newest bytes by stream id and position, bounded in bytes.

    Bytes at a position never change, so what is here is always right, if not always all
    that there is.
    """

    def __init__(self, size: int = CHUNK_CACHE, largest: int = CHUNK_CACHE_ENTRY) -> None:
        self._largest = largest
        self._chunks: BoundedCache[tuple[int, int], bytes] = BoundedCache(size, _weigh)

    def clear(self) -> None:
        """Remove all entries."""
        self._chunks.clear()

    def get(self, stream_id: int, start: int) -> bytes | None:
        """Return the run of bytes that begins at a position, if it is cached."""
        return self._chunks.get((stream_id, start))

    def put(self, stream_id: int, start: int, data: bytes) -> None:
        """Keep a run of bytes, whole messages in JSON mode."""
        if 0 < len(data) <= self._largest:
            self._chunks.put((stream_id, start), data)
