"""Tasks for a committer thread, and the timers of stores with one: sweep and access times.

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

from durable_streams_tw.clocks import cancel
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.commands.batches import BatchResult
from durable_streams_tw.storage.shared.executor import Executor


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
