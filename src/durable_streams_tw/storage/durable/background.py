"""Background tasks of a durable store: sweep, access times, checkpoints, stale readers.

Timers run on the reactor's thread, the work on the committer thread or a reader thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.clocks import cancel
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.commands.batches import BatchResult
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.shared.background_timers import BackgroundTask, BackgroundTimers
from durable_streams_tw.storage.shared.executor import Executor


class Checkpointed(Protocol):
    """Engine with a write-ahead log, as the background tasks need it."""

    on_checkpoint_due: Callable[[bool], None]

    def checkpoint(self) -> None:
        """Write the memtable to LMDB. Raises `EngineFull` and `EngineFailed`."""

    def check_readers(self) -> None:
        """Free the reader slots of dead processes. Raises `EngineFailed`."""


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
