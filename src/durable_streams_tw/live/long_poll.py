"""Long-polls: readers at the tail that wait for an append (PROTOCOL.md §5.7).

A long-poll registers first and then reads: the other way round it would miss a commit in between.
Each wake-up, the timeout included, causes one more read.
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
    """All long-polls of one store; each waits at most ``timeout`` seconds."""

    def __init__(
        self, store: IStreamStore, registry: FollowerRegistry, clock: IReactorTime, timeout: float
    ) -> None:
        self.store = store
        self.registry = registry
        self.timeouts = TimerQueue(clock, timeout)
        self.waiting: dict[LongPoll, None] = {}
        self.stopping = False
        self._stopped: Deferred[None] = Deferred()

    @property
    def count(self) -> int:
        """Return the number of waiting readers."""
        return len(self.waiting)

    def wait(self, chunk: Chunk, limit: int, piece: int | None = None) -> Deferred[Chunk | Refusal]:
        """Wait for bytes after ``chunk``, an empty read at the tail of an open stream.

        Fires with a chunk of about ``limit`` bytes, of which ``piece`` are read (see
        `IStreamStore.read`), as soon as there are any; with an empty chunk when the stream is
        closed or the time is over; with the store's refusal when the stream is gone or cannot be
        read. Cancelling releases all resources. Fails only because of a bug.
        """
        return LongPoll(self, chunk, limit, piece).result

    def stop(self) -> Deferred[None]:
        """End all long-polls after one more read, later ones too.

        Fires when all current ones have ended. Call it once.
        """
        self.stopping = True
        for poll in list(self.waiting):
            poll.read_last()
        self.check_stopped()
        return self._stopped

    def check_stopped(self) -> None:
        """Fire the result of `stop` if no long-poll is left. Called when one has ended."""
        if self.stopping and not self.waiting and not self._stopped.called:
            self._stopped.callback(None)


class LongPoll:
    """One waiting reader."""

    __slots__ = (
        "_again",
        "_chunk",
        "_last",
        "_limit",
        "_piece",
        "_polls",
        "_reading",
        "_stream",
        "_timeout",
        "result",
    )

    def __init__(self, polls: LongPolls, chunk: Chunk, limit: int, piece: int | None) -> None:
        self.result: Deferred[Chunk | Refusal] = Deferred(self._cancelled)
        self._polls = polls
        self._chunk = chunk
        self._limit = limit
        self._piece = piece
        # Whether a read is pending, whether another must follow it, and whether the next result
        # is final even if it is empty.
        self._reading = self._again = False
        self._last = polls.stopping
        polls.waiting[self] = None
        self._stream = polls.registry.follow(chunk.state, self)
        self._timeout = polls.timeouts.add(self.read_last)
        self._read()

    def wake(self, budget: int) -> int:
        """Read again, because the stream may have changed."""
        self._read()
        return 1

    def read_last(self) -> None:
        """Read once more and fire with the result."""
        self._last = True
        self._read()

    def _read(self) -> None:
        if self._reading:
            # The pending read may have begun before the change.
            self._again = True
            return
        self._reading = True
        self._again = False
        state, position = self._chunk.state, self._chunk.end
        read = self._polls.store.read
        maybeDeferred(read, state.path, position, self._limit, state.id, self._piece).addCallbacks(
            self._read_done, self._read_failed
        )

    def _read_done(self, found: Chunk | Refusal) -> None:
        self._reading = False
        if self not in self._polls.waiting:
            return
        if isinstance(found, Chunk) and not found.data and not found.state.closed:
            if self._again:
                self._read()
                return
            if not self._last:
                return
        self._leave()
        self.result.callback(found)
        self._polls.check_stopped()

    def _read_failed(self, failure: Failure) -> None:
        if self in self._polls.waiting:
            self._leave()
            self.result.errback(failure)
            self._polls.check_stopped()

    def _cancelled(self, _: Deferred[Chunk | Refusal]) -> None:
        self._leave()
        self.result.errback(CancelledError())
        self._polls.check_stopped()

    def _leave(self) -> None:
        del self._polls.waiting[self]
        self._timeout.cancel()
        self._polls.registry.unfollow(self._stream, self)
