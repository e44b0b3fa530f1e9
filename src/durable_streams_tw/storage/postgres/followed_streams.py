"""Followed streams of a node, and their changes at other nodes that it has not announced yet."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change
from durable_streams_tw.storage.limits import ACCESS_FLUSH_INTERVAL

_log = Logger()

# A stream with live readers is marked as accessed after a quarter of its TTL at the latest.
_TTL_SHARE = 4


class FollowedStreams:
    """Pinned streams and their newest known states. Used on the reactor's thread."""

    def __init__(self) -> None:
        self._pins: dict[int, int] = {}
        self._known: dict[int, StreamState] = {}
        # Streams whose TTL is so short that their accesses are written at shorter intervals.
        self._short: dict[int, StreamState] = {}

    def pin(self, stream_id: int) -> None:
        """Follow a stream. Calls nest."""
        self._pins[stream_id] = self._pins.get(stream_id, 0) + 1

    def unpin(self, stream_id: int) -> None:
        """Undo one `pin`."""
        self._pins[stream_id] -= 1
        if not self._pins[stream_id]:
            del self._pins[stream_id]
            self._known.pop(stream_id, None)
            self._short.pop(stream_id, None)

    def select(self, ids: set[int] | None) -> dict[int, StreamState | None]:
        """Return the known states of the followed streams among ``ids``; None selects all."""
        chosen = self._pins if ids is None else self._pins.keys() & ids
        return {stream_id: self._known.get(stream_id) for stream_id in chosen}

    def update(self, state: StreamState) -> StreamState | None:
        """Remember a state that a reader was given or that a commit of this node has announced.

        Return the known state if it is newer: the reader may have missed its announcement.
        """
        stream_id = state.id
        if stream_id not in self._pins:
            return None
        known = self._known.get(stream_id)
        if known is not None and (known.tail, known.closed) > (state.tail, state.closed):
            return known
        self._known[stream_id] = state
        ttl = state.lifetime.ttl
        if ttl is not None and ttl < _TTL_SHARE * ACCESS_FLUSH_INTERVAL:
            self._short[stream_id] = state
        return None

    def compare(
        self, before: Mapping[int, StreamState | None], found: Mapping[int, StreamState]
    ) -> list[Change]:
        """Return the changes that have not been announced.

        ``before`` are the streams that `select` returned before the poll, ``found`` their states in
        the database; absent ones have ended. Ignore streams that have been updated meanwhile: what
        was found may be older.
        """
        changes = []
        for stream_id, known in before.items():
            if stream_id not in self._pins or self._known.get(stream_id) is not known:
                continue
            state = found.get(stream_id)
            if state is None or state.deleted:
                if known is not None and not known.deleted:
                    self._known[stream_id] = gone = state or known
                    changes.append(Change(gone, known.tail, b"", gone=True))
                    if state is None:
                        del self._known[stream_id]
                continue
            if known is not None and state.tail < known.tail:
                _log.error(
                    "The database has lost bytes of {path} that readers have seen: its tail was "
                    "{had}, now it is {found}",
                    path=state.path,
                    had=known.tail,
                    found=state.tail,
                )
                self._known[stream_id] = state
            elif known is not None and (state.tail, state.closed) != (known.tail, known.closed):
                changes.append(Change(state, state.tail, b""))
            self.update(state)
        return changes

    def due_accesses(self, now: int) -> dict[int, int]:
        """Return accesses to write for streams with a short TTL (ms since the Unix epoch)."""
        due = {}
        for stream_id, state in self._short.items():
            ttl = state.lifetime.ttl
            assert ttl is not None, "these streams have a TTL"
            if now - state.touched_at >= 1000 * ttl // _TTL_SHARE:
                due[stream_id] = now
        return due
