"""Which streams are followed, and whom a commit wakes.

A commit only marks: its followers are woken in the reactor's next turns, a bounded slice
in each, so that nobody who writes waits for those who read, and whatever else is committed
meanwhile shares the wake. A wake is a hint; who is woken looks for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from durable_streams_tw.live.limits import FANOUT_SLICE, FANOUT_SLICE_IN_BURSTS
from durable_streams_tw.live.sse.tail_buffer import TailBuffer
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change, IStreamStore


class Follower(Protocol):
    """Who is woken when a stream changes."""

    def wake(self, budget: int) -> int:
        """Look, and do about ``budget`` units of work: as many small writes.

        Returns how many it has done, at least one. Whoever has more to do asks for another
        turn (`FollowerRegistry.soon`).
        """


class FollowedStream:
    """The end of one followed stream, as far as commits and looks have told.

    ``gone`` says that the stream was deleted or has expired. ``window`` is where new bytes
    are kept, None where nobody wants them. ``version`` counts what has been told.
    """

    __slots__ = ("followers", "gone", "state", "version", "window")

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.gone = False
        self.version = 0
        self.window: TailBuffer | None = None
        self.followers: dict[Follower, None] = {}

    def saw(self, state: StreamState) -> None:
        """Somebody looked, and this is what the stream was.

        A look that tells nothing new counts as none: it would ask for another.
        """
        known = self.state
        if state.tail > known.tail or (state.closed and not known.closed):
            self.state = state
            self.version += 1

    def take(self, change: Change) -> None:
        """A commit changed the stream."""
        self.saw(change.state)
        self.version += 1
        if change.gone:
            self.gone = True
        elif self.window is not None and change.data:
            self.window.add(change.start, change.data)


class FollowerRegistry:
    """The tails of all followed streams of a store. While followed, none ends by its TTL."""

    _log = Logger()

    def __init__(self, store: IStreamStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._tails: dict[int, FollowedStream] = {}
        self._due: OrderedDict[Follower, None] = OrderedDict()
        self._call: IDelayedCall | None = None
        # Whether a commit came before all were woken for the one before.
        self._burst = False
        store.watch(self._committed)

    @property
    def count(self) -> int:
        """How many streams are followed."""
        return len(self._tails)

    def follow(self, state: StreamState, follower: Follower) -> FollowedStream:
        """Wake ``follower`` after every commit from now on that changes a stream.

        ``state`` is the stream as the follower saw it. It has to look again afterwards: what
        was committed in between wakes nobody.
        """
        tail = self._tails.get(state.id)
        if tail is None:
            tail = self._tails[state.id] = FollowedStream(state)
            self._store.pin(state.id)
        else:
            tail.saw(state)
        tail.followers[follower] = None
        return tail

    def leave(self, tail: FollowedStream, follower: Follower) -> None:
        """Wake ``follower``, which followed ``tail``, no more."""
        self._due.pop(follower, None)
        del tail.followers[follower]
        if not tail.followers:
            stream_id = tail.state.id
            if self._tails.get(stream_id) is tail:
                del self._tails[stream_id]
            self._store.unpin(stream_id)

    def soon(self, follower: Follower) -> None:
        """Wake ``follower`` in one of the next turns."""
        self._due[follower] = None
        self._schedule()

    def forget(self, follower: Follower) -> None:
        """Undo `soon`."""
        self._due.pop(follower, None)

    def _committed(self, changes: Sequence[Change]) -> None:
        tails = self._tails
        if not tails:
            return
        marked: list[FollowedStream] = []
        for change in changes:
            tail = tails.get(change.state.id)
            if tail is None:
                continue
            tail.take(change)
            if change.gone:
                del tails[change.state.id]
            if not marked or marked[-1] is not tail:
                marked.append(tail)
        if marked and self._due:
            self._burst = True
        for tail in marked:
            self._due.update(tail.followers)
        self._schedule()

    def _schedule(self) -> None:
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
            except Exception:  # noqa: BLE001 - one follower's bug is not the others'
                self._log.failure("waking a reader failed")
                budget -= 1
        if not due:
            self._burst = False
        self._schedule()
