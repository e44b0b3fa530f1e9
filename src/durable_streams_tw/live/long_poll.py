"""Long-polls: readers at the tail that wait for what comes next (PROTOCOL.md §5.7).

Register first, then look: a waiter that looked first would miss what is committed in
between. Every wake, the timeout too, is but a reason to look once more.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.timer_queue import TimerQueue
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.storage.api import Chunk, IStreamStore


class LongPolls:
    """The long-polls of one store; each waits ``timeout`` seconds at most."""

    def __init__(
        self, store: IStreamStore, tails: FollowerRegistry, clock: IReactorTime, timeout: float
    ) -> None:
        self.store = store
        self.tails = tails
        self.timeouts = TimerQueue(clock, timeout)
        self.waiting: dict[LongPoll, None] = {}
        self.stopping = False
        self._all_answered: Deferred[None] = Deferred()

    @property
    def count(self) -> int:
        """How many readers wait."""
        return len(self.waiting)

    def wait(self, chunk: Chunk, limit: int, piece: int | None = None) -> Deferred[Chunk | Refusal]:
        """What a reader finds who found nothing at the tail of an open stream.

        ``chunk`` is what it found. Fires with a chunk of about ``limit`` bytes, of which ``piece``
        are read (see `IStreamStore.read`), as soon as there are any; with an empty one when the
        stream has been closed or the time is over; with the store's refusal when the stream is
        gone or cannot be read. Cancelling it frees all. Fails only where the store does, which is
        a bug.
        """
        return LongPoll(self, chunk, limit, piece).answer

    def stop(self) -> Deferred[None]:
        """Let all waiters look once more and answer, and whoever comes later too.

        Fires when those who waited have answered. To be called once.
        """
        self.stopping = True
        for waiter in list(self.waiting):
            waiter.look_last()
        self.left()
        return self._all_answered

    def left(self) -> None:
        """A waiter has gone, perhaps the last one."""
        if self.stopping and not self.waiting and not self._all_answered.called:
            self._all_answered.callback(None)


class LongPoll:
    """One long-poll."""

    __slots__ = (
        "_again",
        "_chunk",
        "_last",
        "_limit",
        "_piece",
        "_polls",
        "_reading",
        "_tail",
        "_timeout",
        "answer",
    )

    def __init__(self, polls: LongPolls, chunk: Chunk, limit: int, piece: int | None) -> None:
        self.answer: Deferred[Chunk | Refusal] = Deferred(self._cancelled)
        self._polls = polls
        self._chunk = chunk
        self._limit = limit
        self._piece = piece
        # Whether a look is under way, whether another has to follow, and whether that, or
        # this one, is the last.
        self._reading = self._again = False
        self._last = polls.stopping
        polls.waiting[self] = None
        self._tail = polls.tails.follow(chunk.state, self)
        self._timeout = polls.timeouts.add(self.look_last)
        self._look()

    def wake(self, budget: int) -> int:
        """The stream has changed, perhaps."""
        self._look()
        return 1

    def look_last(self) -> None:
        """Look once more, and answer whatever is there."""
        self._last = True
        self._look()

    def _look(self) -> None:
        if self._reading:
            # What is under way may have looked too early.
            self._again = True
            return
        self._reading = True
        self._again = False
        state, position = self._chunk.state, self._chunk.end
        read = self._polls.store.read
        maybeDeferred(read, state.path, position, self._limit, state.id, self._piece).addCallbacks(
            self._looked, self._failed
        )

    def _looked(self, found: Chunk | Refusal) -> None:
        self._reading = False
        if self not in self._polls.waiting:
            return
        if isinstance(found, Chunk) and not found.data and not found.state.closed:
            if self._again:
                self._look()
                return
            if not self._last:
                return
        self._leave()
        self.answer.callback(found)
        self._polls.left()

    def _failed(self, failure: Failure) -> None:
        if self in self._polls.waiting:
            self._leave()
            self.answer.errback(failure)
            self._polls.left()

    def _cancelled(self, _: Deferred[Chunk | Refusal]) -> None:
        self._leave()
        self.answer.errback(CancelledError())
        self._polls.left()

    def _leave(self) -> None:
        del self._polls.waiting[self]
        self._timeout.cancel()
        self._polls.tails.leave(self._tail, self)
