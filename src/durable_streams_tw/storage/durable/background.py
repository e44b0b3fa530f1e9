"""What a durable store does by itself: timers on the reactor's thread, work in the executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Protocol

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.durable.committer import BatchResult, Committer
from durable_streams_tw.storage.durable.executor import Executor
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.limits import (
    ACCESS_FLUSH_INTERVAL,
    ACCESS_STEP,
    FOLD_INTERVAL,
    READER_CHECK_INTERVAL,
    SWEEP_INTERVAL,
)


class BackgroundTask(Struct):
    """Work of the store's own in the committing lane, and what follows on the reactor's
    thread: with None where there was nothing to do, or it failed."""

    run: Callable[[], BatchResult | None]
    then: Callable[[BatchResult | None], None] | None = None


class Checkpointed(Protocol):
    """A engine that keeps a journal."""

    on_checkpoint_due: Callable[[bool], None]

    def checkpoint(self) -> None:
        """Bring the map up to date. Raises `EngineFull` and `EngineFailed`."""

    def check_readers(self) -> None:
        """Free the slots of dead readers. Raises `EngineFailed`."""


class BackgroundTasks:
    """The sweep, the writing down of accesses, the folding of the journal, and what is due once
    a minute. ``now`` tells milliseconds since 1970."""

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
        self._clock = clock
        self._executor = executor
        self._committer = committer
        self._engine = engine
        self._access = access
        self._now = now
        self._timers: dict[str, IDelayedCall] = {}
        self._running = False
        self._sweeping = False
        self._folding = False
        # Whether more was journaled while that was under way.
        self._fold_again = False
        self._fold_fails = False
        # Accesses that are being written down, a step at a time.
        self._accesses: Iterator[tuple[int, int]] | None = None
        # Accesses that are on the disk since the last time that some were written.
        self._written_accesses: dict[int, int] = {}

    def start(self) -> None:
        """Begin."""
        self._running = True
        # The committing lane says when; the reactor's thread sees to it.
        self._engine.on_checkpoint_due = lambda at_once: self._executor.call_from_thread(
            partial(self._fold_due, at_once)
        )
        self._later("sweep", 0, self._sweep)
        self._later("accesses", ACCESS_FLUSH_INTERVAL, self._write_accesses)
        self._later("tend", READER_CHECK_INTERVAL, self._tend)
        # What a crash has left may not have been folded in yet.
        self._fold_due(at_once=False)

    def stop(self) -> None:
        """End, and leave the last of it to the executor."""
        self._running = False
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        self._write_accesses_now()
        self._executor.submit_write(BackgroundTask(self._fold_last))

    def _later(self, name: str, delay: float, what: Callable[[], None]) -> None:
        self._timers[name] = self._clock.callLater(delay, what)

    # -- streams that end ---------------------------------------------------------------------

    def _sweep(self) -> None:
        self._later("sweep", SWEEP_INTERVAL, self._sweep)
        self.sweep_now()

    def sweep_now(self) -> None:
        """Sweep without waiting for the timer, unless a sweep is under way."""
        if not self._sweeping:
            self._sweeping = True
            self._executor.submit_write(BackgroundTask(self._committer.sweep, self._swept))

    def _swept(self, committed: BatchResult | None) -> None:
        self._sweeping = committed is not None and committed.more and self._running
        if self._sweeping:
            self._executor.submit_write(BackgroundTask(self._committer.sweep, self._swept))

    # -- accesses -----------------------------------------------------------------------------

    def _write_accesses(self) -> None:
        self._later("accesses", ACCESS_FLUSH_INTERVAL, self._write_accesses)
        if self._accesses is not None:
            return
        # By now no read is under way that began before these were written.
        self._access.discard_written(self._written_accesses)
        self._written_accesses = {}
        self._accesses = iter(self._access.take_unwritten(self._now()).items())
        self._write_some_accesses()

    def _write_accesses_now(self) -> None:
        """Queue all steps at once: the store closes."""
        left = self._accesses or iter(())
        self._accesses = chain(left, self._access.take_unwritten(self._now()).items())
        while self._accesses is not None:
            self._write_some_accesses()

    def _write_some_accesses(self) -> None:
        """Queue the next step, so that commands which came meanwhile go before the one after."""
        part = dict(islice(self._accesses or (), ACCESS_STEP))
        if not part:
            self._accesses = None
            return
        write = partial(self._committer.write_accesses, part.items())
        self._executor.submit_write(BackgroundTask(write, partial(self._accesses_done, part)))

    def _accesses_done(self, accesses: dict[int, int], committed: BatchResult | None) -> None:
        if committed is None or committed.failed:
            self._access.restore(accesses)
        else:
            self._written_accesses.update(accesses)
        if self._running:
            self._write_some_accesses()

    # -- the journal --------------------------------------------------------------------------

    def _fold_due(self, at_once: bool) -> None:
        if at_once:
            self._fold()
        elif self._running and "fold" not in self._timers:
            self._later("fold", FOLD_INTERVAL, self._fold)

    def _fold(self) -> None:
        timer = self._timers.pop("fold", None)
        if timer is not None and timer.active():
            timer.cancel()
        if not self._running:
            return
        if self._folding:
            self._fold_again = True
            return
        self._folding, self._fold_again = True, False
        self._executor.submit_read(self._engine.checkpoint).addCallbacks(
            self._folded, self._not_folded
        )

    def _folded(self, _: None) -> None:
        if self._fold_fails:
            self._log.info("the journal is folded into the map again")
        self._fold_fails = self._folding = False
        if self._fold_again:
            self._fold_due(at_once=False)

    def _not_folded(self, failure: Failure) -> None:
        self._folding = False
        if failure.check(EngineFull, EngineFailed) is None:
            self._log.failure("folding the journal failed", failure)
        elif not self._fold_fails:
            self._log.error(
                "the journal cannot be folded into the map: {reason}", reason=failure.value
            )
        self._fold_fails = True
        self._fold_due(at_once=False)

    def _fold_last(self) -> None:
        try:
            self._engine.checkpoint()
        except (EngineFull, EngineFailed) as failure:
            # The next start finds it in the journal.
            self._log.error("the journal is not folded in: {reason}", reason=failure)

    # -- once a minute ------------------------------------------------------------------------

    def _tend(self) -> None:
        self._later("tend", READER_CHECK_INTERVAL, self._tend)
        self._executor.submit_write(BackgroundTask(self._tend_keyspace))

    def _tend_keyspace(self) -> None:
        try:
            self._engine.check_readers()
        except (EngineFull, EngineFailed) as failure:
            self._log.error("the store cannot be tended: {reason}", reason=failure)
