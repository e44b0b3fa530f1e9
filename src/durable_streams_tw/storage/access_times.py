"""Accesses that reset a TTL but are not written down yet (PROTOCOL.md §5.1).

Writing a commit for every read would be absurd, so the last access of each stream is kept
here and written down now and then: a crash may shorten a window by that interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import transitions
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, StreamState


class AccessTimes:
    """Last accesses by stream id, and which streams a live reader holds.

    Written by the reactor's thread and read by the committer's; every operation is one
    that a dictionary carries out whole. ``lead`` returns how many milliseconds the wall clock is
    ahead of the time that the store counts by (`clocks.StreamTime`).
    """

    def __init__(self, lead: Callable[[], int] = lambda: 0) -> None:
        self.lead = lead
        self._noted: dict[int, int] = {}
        self._pins: dict[int, int] = {}
        self._gone: set[int] = set()
        self._unwritten: set[int] = set()

    def note(self, stream_id: int, now: int) -> None:
        """The stream was accessed at a time (milliseconds since 1970)."""
        self._noted[stream_id] = now
        self._unwritten.add(stream_id)

    def last(self, stream_id: int, now: int) -> int:
        """The last access known here; ``now`` while a live reader holds the stream."""
        return now if stream_id in self._pins else self._noted.get(stream_id, 0)

    def has_ended(self, state: StreamState, now: int) -> bool:
        """Return whether a stream has expired at a time of the store (ms since the Unix epoch).

        A TTL counts from the last access by the store's time, which no step of the wall clock
        moves. A deadline that the client gave as a date is one of the wall clock's.
        """
        if state.lifetime.ttl is None:
            return state.has_expired(now + self.lead())
        return state.has_expired(now, self.last(state.id, now))

    def pin(self, stream_id: int) -> None:
        """A live reader came."""
        self._pins[stream_id] = self._pins.get(stream_id, 0) + 1

    def unpin(self, stream_id: int, now: int) -> None:
        """A live reader went at a time (milliseconds since 1970)."""
        count = self._pins.pop(stream_id) - 1
        if count:
            self._pins[stream_id] = count
        if stream_id not in self._gone:
            self.note(stream_id, now)
        elif not count:
            self._gone.remove(stream_id)

    def forget(self, stream_id: int) -> None:
        """The stream is gone; readers that hold it will go later."""
        if stream_id in self._pins:
            self._gone.add(stream_id)
        self._noted.pop(stream_id, None)
        self._unwritten.discard(stream_id)

    def take_unwritten(self, now: int) -> dict[int, int]:
        """The accesses since the last call, pinned streams' as ``now``, to write down."""
        taken, self._unwritten = self._unwritten, set()
        taken.update(set(self._pins) - self._gone)
        return {stream_id: self.last(stream_id, now) for stream_id in taken}

    def give_back(self, accesses: Mapping[int, int]) -> None:
        """These could not be written down: they are to be taken again."""
        self._unwritten.update(self._noted.keys() & accesses.keys())

    def settle(self, accesses: Mapping[int, int]) -> None:
        """These are written down, and known by now to whoever looks."""
        for stream_id, accessed_at in accesses.items():
            if self._noted.get(stream_id) == accessed_at and stream_id not in self._unwritten:
                del self._noted[stream_id]


def usable(state: StreamState | None, access: AccessTimes, now: int) -> StreamState | Refusal:
    """Return the stream that a path has, or why a client cannot use it at a time of the store
    (ms since the Unix epoch)."""
    if state is not None and state.lifetime is NO_EXPIRY and not state.deleted:
        # As are most, and then nothing has to be looked up.
        return state
    missing = transitions.check_usable(state, state is not None and access.has_ended(state, now))
    if missing is not None:
        return missing
    assert state is not None, "what is not missing is there"
    return state
