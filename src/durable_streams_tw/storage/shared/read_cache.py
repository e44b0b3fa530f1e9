"""Read caches: newest states and bytes, for reads on the reactor's thread without disk access.

Each state has the version of the commit that it belongs to. A reader thread may return a state that
is older than the one a commit has published meanwhile, so the higher version wins, even over
evicted states.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.limits import CHUNK_CACHE, CHUNK_CACHE_ENTRY, STATE_CACHE


class NotCached:
    """Type of `NOT_CACHED`, the result for a path that is not cached."""


NOT_CACHED: Final = NotCached()


class StateCache:
    """Bounded cache of states by path. None is cached too: the path has no stream."""

    def __init__(self, size: int = STATE_CACHE) -> None:
        self._states: BoundedCache[str, tuple[StreamState | None, int]] = BoundedCache(size)
        self._evicted_version = 0

    def get(self, path: str) -> StreamState | NotCached | None:
        """Return the state of the stream at a path, None if there is none, or `NOT_CACHED`."""
        known = self._states.get(path)
        return NOT_CACHED if known is None else known[0]

    def put(self, path: str, state: StreamState | None, version: int) -> bool:
        """Cache the state of a version; return whether it is the newest known."""
        known = self._states.get(path)
        if known is None:
            if version < self._evicted_version:
                # The evicted state of this path may have been newer.
                return False
        elif known[1] > version:
            return False
        for _, (_, evicted) in self._states.put(path, (state, version)):
            self._evicted_version = max(self._evicted_version, evicted)
        return True

    def distrust(self, version: int) -> None:
        """Clear the cache and ignore states from before a version."""
        self._states.clear()
        self._evicted_version = max(self._evicted_version, version)

    def publish(self, states: dict[str, StreamState | None], version: int) -> None:
        """Cache the states that one commit changed."""
        for path, state in states.items():
            self.put(path, state, version)


_OVERHEAD: Final = 256
"""Memory of an entry besides its bytes: key, objects, slot of the dictionary."""


def _weigh(data: bytes) -> int:
    return len(data) + _OVERHEAD


class ChunkCache:
    """Cache of the newest bytes by stream id and position, bounded in bytes.

    Bytes at a position never change, so entries are never stale.
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

    def response(self, state: StreamState, position: int, limit: int) -> bytes | None:
        """Return the bytes of a whole response to a read, None if they are not cached."""
        if position == state.tail or (limit == 0 and position == 0):
            return b""
        data = self.get(state.id, position)
        if data is not None and position + len(data) == state.tail and len(data) <= limit:
            return data
        return None

    def put(self, stream_id: int, start: int, data: bytes) -> None:
        """Cache bytes from a position; in JSON mode whole messages."""
        if 0 < len(data) <= self._largest:
            self._chunks.put((stream_id, start), data)
