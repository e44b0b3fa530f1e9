"""Access times that restart a TTL and are not written to the store yet (PROTOCOL.md §5.1).

A commit for every read would be too expensive, so access times are collected here and written
every `ACCESS_FLUSH_INTERVAL` seconds. A crash shortens a TTL by at most that interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import transitions
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, StreamState


class AccessTimes:
    """Last access times and pins by stream id. Times are ms since the Unix epoch.

    The reactor's thread writes and the committer's thread reads, without a lock: each operation
    is atomic on a dictionary or set. ``lead`` returns by how many ms the wall clock is ahead of
    the store's time (`clocks.StreamTime`).
    """

    def __init__(self, lead: Callable[[], int] = lambda: 0) -> None:
        self.lead = lead
        self._accessed: dict[int, int] = {}
        self._pins: dict[int, int] = {}
        self._ended: set[int] = set()
        self._unwritten: set[int] = set()

    def record(self, stream_id: int, now: int) -> None:
        """Record an access to a stream."""
        self._accessed[stream_id] = now
        self._unwritten.add(stream_id)

    def last_access(self, stream_id: int, now: int) -> int:
        """Return the last access recorded here, 0 if none, ``now`` while the stream is pinned."""
        return now if stream_id in self._pins else self._accessed.get(stream_id, 0)

    def has_ended(self, state: StreamState, now: int) -> bool:
        """Return whether a stream has expired at ``now``, a time of the store.

        A TTL counts from the last access in the store's time, which steps of the wall clock do
        not change. A deadline that a client gave as a date is compared with the wall clock.
        """
        if state.lifetime.ttl is None:
            return state.has_expired(now + self.lead())
        return state.has_expired(now, self.last_access(state.id, now))

    def pin(self, stream_id: int) -> None:
        """Keep a stream from expiring by its TTL until `unpin`. Calls nest."""
        self._pins[stream_id] = self._pins.get(stream_id, 0) + 1

    def unpin(self, stream_id: int, now: int) -> None:
        """Undo one `pin`; the TTL restarts at ``now``."""
        count = self._pins.pop(stream_id) - 1
        if count:
            self._pins[stream_id] = count
        if stream_id not in self._ended:
            self.record(stream_id, now)
        elif not count:
            self._ended.remove(stream_id)

    def forget(self, stream_id: int) -> None:
        """Forget a stream that has ended. Its pins are undone later."""
        if stream_id in self._pins:
            self._ended.add(stream_id)
        self._accessed.pop(stream_id, None)
        self._unwritten.discard(stream_id)

    def take_unwritten(self, now: int) -> dict[int, int]:
        """Return the access times since the last call, ``now`` for pinned streams."""
        taken, self._unwritten = self._unwritten, set()
        taken.update(set(self._pins) - self._ended)
        return {stream_id: self.last_access(stream_id, now) for stream_id in taken}

    def restore(self, accesses: Mapping[int, int]) -> None:
        """Mark access times that could not be written as unwritten again."""
        self._unwritten.update(self._accessed.keys() & accesses.keys())

    def discard_written(self, accesses: Mapping[int, int]) -> None:
        """Forget access times that are written and that every later read of the store returns."""
        for stream_id, accessed_at in accesses.items():
            if self._accessed.get(stream_id) == accessed_at and stream_id not in self._unwritten:
                del self._accessed[stream_id]


def check_usable(state: StreamState | None, access: AccessTimes, now: int) -> StreamState | Refusal:
    """Return the stream, or a refusal if it is missing, deleted or expired at ``now``.

    ``now`` is a time of the store in ms since the Unix epoch.
    """
    # Fast path: most streams have no deadline. A state that was decoded has an object of its own.
    if (
        state is not None
        and (state.lifetime is NO_EXPIRY or state.lifetime == NO_EXPIRY)
        and not state.deleted
    ):
        return state
    missing = transitions.check_usable(state, state is not None and access.has_ended(state, now))
    if missing is not None:
        return missing
    assert state is not None, "a stream that is not absent exists"
    return state
