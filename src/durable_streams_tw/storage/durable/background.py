"""Background tasks of a durable store: sweep, access times, checkpoints, stale readers.

Timers run on the reactor's thread, the work on the committer thread or a reader thread.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.clocks import cancel
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.commands.batches import BatchResult
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.durable.executor import Executor
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull


class BackgroundTask(Struct):
    """Task for the committer thread.

    ``on_done`` is called on the reactor's thread with the result of ``run``; None if there was
    nothing to do or ``run`` raised.
    """

    run: Callable[[], BatchResult | None]
    on_done: Callable[[BatchResult | None], None] | None = None


def find_obstacle(executor: Executor, look: Callable[[], str | None]) -> Deferred[str | None]:
    """Return why a committer cannot write, which ``look`` finds out on the committer thread."""
    done: Deferred[str | None] = Deferred()
    found: list[str | None] = []
    executor.submit_write(
        BackgroundTask(
            lambda: found.append(look()),
            lambda _: done.callback(found[0] if found else "the committer met a bug"),
        )
    )
    return done


class Checkpointed(Protocol):
    """Engine with a write-ahead log, as the background tasks need it."""

    on_checkpoint_due: Callable[[bool], None]

    def checkpoint(self) -> None:
        """Write the memtable to LMDB. Raises `EngineFull` and `EngineFailed`."""

    def check_readers(self) -> None:
        """Free the reader slots of dead processes. Raises `EngineFailed`."""


class AccessWriter(Protocol):
    """Committer, as the writing of access times needs it."""

    def write_accesses(self, accesses: ItemsView[int, int]) -> BatchResult | None:
        """Write access times (ms) by stream id. Runs on the committer thread."""


@dataclass(eq=False)
class BackgroundTimers:
    """Timers of one store: sweep and writing of access times, which all stores share.

    ``now`` returns ms since the Unix epoch.
    """

    _clock: IReactorTime
    _executor: Executor
    _access: AccessTimes
    _writer: AccessWriter
    _now: Callable[[], int]

    def __post_init__(self) -> None:
        self._timers: dict[str, IDelayedCall] = {}
        self._running = self._sweeping = False
        # Access times that are being written, a step at a time.
        self._accesses: Iterator[tuple[int, int]] | None = None
        # Access times written in the current interval.
        self._written_accesses: dict[int, int] = {}

    def _start_timer(self, name: str, delay: float, function: Callable[[], None]) -> None:
        self._timers[name] = self._clock.callLater(delay, function)

    def _stop_timers(self) -> None:
        self._running = False
        for timer in self._timers.values():
            cancel(timer)
        self._timers.clear()

    # -- sweep --------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self._start_timer("sweep", limits.SWEEP_INTERVAL, self._sweep)
        self.sweep_now()

    def sweep_now(self) -> None:
        """Start a sweep without waiting for the timer, unless one is running."""
        if not self._sweeping:
            self._sweeping = True
            self._begin_sweep()

    def _begin_sweep(self) -> None:
        self._sweep_on(True)

    def _sweep_on(self, more: bool) -> None:
        """Queue a step if there are ``more``, unless the store is closing."""
        self._sweeping = more and self._running
        if self._sweeping:
            self._executor.submit_write(BackgroundTask(self._sweep_step, self._sweep_done))

    def _sweep_done(self, result: BatchResult | None) -> None:
        self._sweep_on(result is not None and result.more)

    def _sweep_step(self) -> BatchResult | None:
        """Run one step of the sweep; None if there is nothing to do. On the committer thread."""
        raise NotImplementedError

    # -- access times -------------------------------------------------------------------------

    def _start_access_timer(self) -> None:
        self._start_timer("accesses", limits.ACCESS_FLUSH_INTERVAL, self._write_accesses)

    def _write_accesses(self) -> None:
        self._start_access_timer()
        if self._accesses is not None:
            return
        # All reads that began before these were written have ended by now.
        self._access.discard_written(self._written_accesses)
        self._written_accesses = {}
        self._accesses = iter(self._access.take_unwritten(self._now()).items())
        self._write_some_accesses()

    def _write_all_accesses(self) -> None:
        """Queue all steps at once, because the store closes."""
        left = self._accesses or iter(())
        self._accesses = chain(left, self._access.take_unwritten(self._now()).items())
        while self._accesses is not None:
            self._write_some_accesses()

    def _write_some_accesses(self) -> None:
        """Queue the next step. One at a time, so that commands are committed in between."""
        part = dict(islice(self._accesses or (), limits.ACCESS_STEP))
        if not part:
            self._accesses = None
            return
        self._queue_accesses(part, partial(self._accesses_written, part))

    def _queue_accesses(
        self, accesses: Mapping[int, int], done: Callable[[BatchResult | None], None]
    ) -> None:
        write = partial(self._writer.write_accesses, accesses.items())
        self._executor.submit_write(BackgroundTask(write, done))

    def _accesses_written(self, accesses: dict[int, int], result: BatchResult | None) -> None:
        if result is None or result.failed:
            self._access.restore(accesses)
        else:
            self._written_accesses.update(accesses)
        if self._running:
            self._write_some_accesses()


class BackgroundTasks(BackgroundTimers):
    """Timers and tasks of one store. ``now`` returns ms since the Unix epoch."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        executor: Executor,
        committer: Committer,
        engine: Checkpointed,
        access: AccessTimes,
        now: Callable[[], int],
    ) -> None:
        BackgroundTimers.__init__(self, clock, executor, access, committer, now)
        self._committer = committer
        self._engine = engine
        self._checkpointing = False
        # Whether another checkpoint became due during the running one.
        self._checkpoint_again = False
        self._checkpoint_failing = False

    def start(self) -> None:
        """Start all timers."""
        self._running = True
        # The committer thread calls it; the checkpoint is scheduled on the reactor's thread.
        self._engine.on_checkpoint_due = lambda at_once: self._executor.call_from_thread(
            partial(self._checkpoint_due, at_once)
        )
        self._start_timer("sweep", 0, self._sweep)
        self._start_access_timer()
        self._start_timer("readers", limits.READER_CHECK_INTERVAL, self._check_readers)
        # After a crash, recovery may have left entries in the memtable.
        self._checkpoint_due(at_once=False)

    def stop(self) -> None:
        """Stop all timers; queue the last access times and the last checkpoint."""
        self._stop_timers()
        self._write_all_accesses()
        self._executor.submit_write(BackgroundTask(self._last_checkpoint))

    def _sweep_step(self) -> BatchResult | None:
        return self._committer.sweep()

    # -- checkpoints --------------------------------------------------------------------------

    def _checkpoint_due(self, at_once: bool) -> None:
        if at_once:
            self._checkpoint()
        elif self._running and "checkpoint" not in self._timers:
            self._start_timer("checkpoint", limits.CHECKPOINT_INTERVAL, self._checkpoint)

    def _checkpoint(self) -> None:
        cancel(self._timers.pop("checkpoint", None))
        if not self._running:
            return
        if self._checkpointing:
            self._checkpoint_again = True
            return
        self._checkpointing, self._checkpoint_again = True, False
        self._executor.submit_read(self._engine.checkpoint).addCallbacks(
            self._checkpoint_done, self._checkpoint_failed
        )

    def _checkpoint_done(self, _: None) -> None:
        if self._checkpoint_failing:
            self._log.info("Checkpoints work again")
        self._checkpoint_failing = self._checkpointing = False
        if self._checkpoint_again:
            self._checkpoint_due(at_once=False)

    def _checkpoint_failed(self, failure: Failure) -> None:
        self._checkpointing = False
        if failure.check(EngineFull, EngineFailed) is None:
            self._log.failure("A checkpoint failed", failure)
        elif not self._checkpoint_failing:
            self._log.error(
                "A checkpoint failed and will be retried: {reason}", reason=failure.value
            )
        self._checkpoint_failing = True
        self._checkpoint_due(at_once=False)

    def _last_checkpoint(self) -> None:
        try:
            self._engine.checkpoint()
        except (EngineFull, EngineFailed) as failure:
            # Nothing is lost: recovery reads the WAL at the next start.
            self._log.error("The last checkpoint failed: {reason}", reason=failure)

    # -- stale readers ------------------------------------------------------------------------

    def _check_readers(self) -> None:
        self._start_timer("readers", limits.READER_CHECK_INTERVAL, self._check_readers)
        self._executor.submit_write(BackgroundTask(self._run_reader_check))

    def _run_reader_check(self) -> None:
        try:
            self._engine.check_readers()
        except (EngineFull, EngineFailed) as failure:
            self._log.error("Checking LMDB's readers failed: {reason}", reason=failure)
