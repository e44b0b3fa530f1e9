"""Registry of followed streams, and the wake-ups of their followers after commits.

A commit only marks followers. They are woken in later reactor turns, a bounded slice per turn, so
that fan-out does not delay writers and several commits share one wake-up. A wake-up is a hint: the
follower reads the current state itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from durable_streams_tw.live.limits import FANOUT_SLICE, FANOUT_SLICE_IN_BURSTS
from durable_streams_tw.live.tail_buffer import TailBuffer
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change, IStreamStore


class Follower(Protocol):
    """Reader that is woken when a stream changes."""

    def wake(self, budget: int) -> int:
        """Do about ``budget`` units of work and return the number done, at least 1.

        One unit is one small write. A follower with more to do calls `FollowerRegistry.schedule`.
        """


@dataclass(slots=True, eq=False)
class FollowedStream:
    """Newest known state of one followed stream.

    ``gone`` is true once the stream was deleted or has expired. ``buffer`` collects appended bytes
    if a feed needs them. ``version`` increases with each change.
    """

    state: StreamState
    gone: bool = False
    version: int = 0
    buffer: TailBuffer | None = None
    followers: dict[Follower, None] = field(default_factory=dict)

    def update_from_read(self, state: StreamState) -> None:
        """Update the known state from a read.

        Ignored unless the state is newer: a new version would wake the followers again.
        """
        known = self.state
        if state.tail > known.tail or (state.closed and not known.closed):
            self.state = state
            self.version += 1

    def apply_change(self, change: Change) -> None:
        """Update the known state from a commit."""
        self.update_from_read(change.state)
        self.version += 1
        if change.gone:
            self.gone = True
        elif self.buffer is not None and change.data:
            self.buffer.add(change.start, change.data)


class FollowerRegistry:
    """All followed streams of a store. A followed stream does not expire by its TTL."""

    _log = Logger()

    def __init__(self, store: IStreamStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._streams: dict[int, FollowedStream] = {}
        self._due: OrderedDict[Follower, None] = OrderedDict()
        self._call: IDelayedCall | None = None
        # Whether a commit arrived before all followers were woken for the previous one.
        self._burst = False
        store.add_listener(self._committed)

    @property
    def count(self) -> int:
        """Return the number of followed streams."""
        return len(self._streams)

    def follow(self, state: StreamState, follower: Follower) -> FollowedStream:
        """Wake ``follower`` after each later commit that changes the stream.

        ``state`` is the state that the follower read. The follower must read again after this
        call, because commits in between do not wake it.
        """
        stream = self._streams.get(state.id)
        if stream is None:
            stream = self._streams[state.id] = FollowedStream(state)
            self._store.pin(state.id)
        else:
            stream.update_from_read(state)
        stream.followers[follower] = None
        return stream

    def unfollow(self, stream: FollowedStream, follower: Follower) -> None:
        """Undo `follow`."""
        self._due.pop(follower, None)
        del stream.followers[follower]
        if not stream.followers:
            stream_id = stream.state.id
            if self._streams.get(stream_id) is stream:
                del self._streams[stream_id]
            self._store.unpin(stream_id)

    def look_again(self) -> None:
        """Read the states of all followed streams, because changes may have been lost."""
        for stream in list(self._streams.values()):
            self._store.get_state(stream.state.path).addCallback(self._looked, stream)

    def _looked(self, found: StreamState | Refusal, stream: FollowedStream) -> None:
        known = stream.state
        if isinstance(found, StreamState) and found.id == known.id:
            self._committed([Change(found, found.tail, b"")])
        elif isinstance(found, StreamState) or found.problem.status in (404, 410):
            self._committed([Change(known, known.tail, b"", gone=True)])

    def schedule(self, follower: Follower) -> None:
        """Wake ``follower`` in one of the next reactor turns."""
        self._due[follower] = None
        self._schedule_turn()

    def unschedule(self, follower: Follower) -> None:
        """Undo `schedule`."""
        self._due.pop(follower, None)

    def _committed(self, changes: Sequence[Change]) -> None:
        streams = self._streams
        if not streams:
            return
        marked: list[FollowedStream] = []
        for change in changes:
            stream = streams.get(change.state.id)
            if stream is None:
                continue
            stream.apply_change(change)
            if change.gone:
                del streams[change.state.id]
            if not marked or marked[-1] is not stream:
                marked.append(stream)
        if marked and self._due:
            self._burst = True
        for stream in marked:
            self._due.update(stream.followers)
        self._schedule_turn()

    def _schedule_turn(self) -> None:
        if self._call is None and self._due:
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._call = None
        due = self._due
        budget = FANOUT_SLICE_IN_BURSTS if self._burst else FANOUT_SLICE
        while due and budget > 0:
            follower, _ = due.popitem(last=False)
            try:
                budget -= follower.wake(budget)
            except Exception:  # noqa: BLE001 - one follower's bug must not stop the others
                self._log.failure("Waking a reader failed")
                budget -= 1
        if not due:
            self._burst = False
        self._schedule_turn()
