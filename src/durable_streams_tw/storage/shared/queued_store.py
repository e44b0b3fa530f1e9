"""Base of stores with a committing thread: the queue of commands, and reports of commits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import Settle
from durable_streams_tw.storage import api
from durable_streams_tw.storage.access_times import AccessTimes, check_usable
from durable_streams_tw.storage.commands import forks
from durable_streams_tw.storage.commands.batches import BUG, BatchResult
from durable_streams_tw.storage.commands.forks import Counting, ForkCounter
from durable_streams_tw.storage.limits import INLINE_ACKS, MAX_QUEUE, MAX_QUEUED_COMMANDS
from durable_streams_tw.storage.shared.background_timers import BackgroundTask
from durable_streams_tw.storage.shared.executor import Executor

T = TypeVar("T")

_OVERLOADED: Final = Refusal(
    Problem.OVERLOADED, "too many writes are waiting for the disk", ((b"Retry-After", b"1"),)
)


class QueuedCommand(Struct):
    """Command that waits for a committing thread; ``size`` is that of its body in bytes."""

    command: api.Command
    size: int
    callback: Callable[[api.Outcome], object]


class QueuedStore(api.ObservedStore):
    """Store whose commands wait for a committing thread. All methods are those of `IStreamStore`.

    A subclass starts the executor's threads, takes `QueuedCommand` jobs from it, and calls
    `_report` and `_observe` with each batch. ``now`` returns ms since the Unix epoch, by default
    of the wall clock; ``lead`` is that of `AccessTimes`.
    """

    _log = Logger()

    def __init__(
        self, executor: Executor, now: Callable[[], int] | None, lead: Callable[[], int]
    ) -> None:
        super().__init__()
        self._executor = executor
        self._now = now or _wall_clock
        self._access = AccessTimes(lead)
        self._open = False
        self._closed: Deferred[None] | None = None
        self._queued = self._queued_bytes = 0
        self._counter = ForkCounter(self._count)
        # `perf_counter` when the oldest command was queued that the committer thread has not taken.
        self._queued_since = 0.0

    def close(self) -> Deferred[None]:
        """Commit all queued commands, then release all resources."""
        if not self._open:
            if self._closed is not None and not self._closed.called:
                # Another call is closing the store: wait for the same end.
                again: Deferred[None] = Deferred()
                self._closed.chainDeferred(again)
                return again
            return succeed(None)
        self._open = False
        self._closed = stop_all(lambda: self._counter.stop(api.STOPPING), *self._closing_steps())
        return self._closed

    def _closing_steps(self) -> Sequence[Callable[[], object]]:
        """Return what closes the store, in order; a step may return a Deferred."""
        raise NotImplementedError

    # -- commands -------------------------------------------------------------------------------

    def execute(self, command: api.Command, callback: Callable[[api.Outcome], object]) -> None:
        """Queue a command for the committer thread and call ``callback`` with its outcome."""
        if not self._open:
            callback(api.STOPPING)
            return
        size = api.body_size(command)
        if self._queued_bytes + size > MAX_QUEUE or self._queued >= MAX_QUEUED_COMMANDS:
            if self._observer is not None:
                self._observer.record_refusal(command, _OVERLOADED)
            callback(_OVERLOADED)
            return
        self._queued += 1
        self._queued_bytes += size
        if isinstance(command, Create) and forks.needs_count(command):
            self._counter.count(command, partial(self._prepared, size, callback))
        elif isinstance(command, Settle) and len(command.acks) > INLINE_ACKS:
            checked = self._submit_read(partial(self._check_acks, command))
            checked.addErrback(self._check_failed).addCallback(
                partial(self._prepared, size, callback)
            )
        else:
            self._queue_command(QueuedCommand(command, size, callback))

    def _queue_command(self, queued: QueuedCommand) -> None:
        if not self._queued_since:
            self._queued_since = perf_counter()
        self._executor.submit_write(queued)

    def _prepared(
        self,
        size: int,
        callback: Callable[[api.Outcome], object],
        command: Create | Settle | Refusal,
    ) -> None:
        """Queue a command that reader threads have prepared, or report their refusal."""
        if self._open and not isinstance(command, Refusal):
            self._queue_command(QueuedCommand(command, size, callback))
            return
        self._queued -= 1
        self._queued_bytes -= size
        callback(command if isinstance(command, Refusal) else api.STOPPING)

    def _check_failed(self, failure: Failure) -> Refusal:
        self._log.failure("Checking acks failed", failure)
        return BUG

    def _count(
        self, command: Create, counting: Counting | None
    ) -> Deferred[Create | Counting | Refusal]:
        return self._submit_read(partial(self._count_some, command, counting))

    def _count_some(
        self, command: Create, counting: Counting | None
    ) -> Create | Counting | Refusal:
        """Count messages of a fork's source. Runs on a reader thread."""
        raise NotImplementedError

    def _check_acks(self, command: Settle) -> Settle | Refusal:
        """Check that acks lie between messages. Runs on a reader thread."""
        raise NotImplementedError

    def _run_guarded(self, work: Callable[[], T]) -> T | None:
        """Call a function and log what it raises: a bug must not end the committer thread."""
        try:
            return work()
        except Exception:  # noqa: BLE001
            self._executor.call_from_thread(
                partial(self._log.failure, "The committer failed", Failure())
            )
            return None

    def _task_done(self, task: BackgroundTask, result: BatchResult | None) -> None:
        """Publish the changes of a background task. Runs on the reactor's thread."""
        if result is not None:
            self._publish([], result)
        if task.on_done is not None:
            task.on_done(result)

    def _publish(self, batch: Sequence[QueuedCommand], result: BatchResult) -> None:
        """Make a commit visible, then call `_report`."""
        raise NotImplementedError

    def _report(self, batch: Sequence[QueuedCommand], result: BatchResult) -> None:
        """Notify record listeners, report outcomes, then notify listeners, in this order."""
        api.notify_listeners(self._record_listeners, result.notes)
        self._queued -= len(batch)
        for job, outcome in zip(batch, result.outcomes, strict=True):
            self._queued_bytes -= job.size
            job.callback(outcome)
        api.notify_listeners(self._listeners, result.changes)

    def _observe(
        self, batch: Sequence[QueuedCommand], result: BatchResult, waited: float, took: float
    ) -> None:
        """Record the measurements of a batch; durations are in seconds."""
        if self._observer is not None:
            commands, outcomes = [job.command for job in batch], result.outcomes
            measured = api.MeasuredBatch(
                commands, outcomes, result.changes, waited, took, result.seconds, result.failed
            )
            self._observer.record_batch(measured)

    # -- reads ----------------------------------------------------------------------------------

    def pin(self, stream_id: int) -> None:
        """Keep a stream from expiring by its TTL."""
        self._access.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """Undo one `pin`."""
        self._access.unpin(stream_id, self._now())

    def _submit_read(self, function: Callable[[], T]) -> Deferred[T]:
        observer, submit = self._observer, self._executor.submit_read
        return submit(function) if observer is None else observer.time_read(submit, function)

    def _check_usable(self, state: StreamState | None) -> StreamState | Refusal:
        return check_usable(state, self._access, self._now())

    def _is_usable(self, state: StreamState) -> bool:
        return not isinstance(self._check_usable(state), Refusal)


def _wall_clock() -> int:
    """Return the time in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000
