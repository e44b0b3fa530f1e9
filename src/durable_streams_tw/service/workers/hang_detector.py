"""Detection of workers that hang: stopped, or in an endless loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from durable_streams_tw.service.workers import limits

W = TypeVar("W")


class HangDetector(Generic[W]):
    """Detector of workers that send nothing for `MAX_SILENCE` periods.

    It counts periods in which the supervisor itself runs, and compares no times: after a step of
    the clock or a suspension of the machine, the time in between counts as one period, and workers
    have the others to send something. ``hung`` is called with each worker that hangs.
    """

    def __init__(self, clock: IReactorTime, hung: Callable[[W], None]) -> None:
        self._hung = hung
        # Periods without a message of each worker that has to send one.
        self._silent: dict[W, int] = {}
        self._periods = LoopingCall(self._count)
        self._periods.clock = clock

    def start(self) -> None:
        """Begin to count."""
        self._periods.start(limits.HEARTBEAT_PERIOD, now=False)

    def stop(self) -> None:
        """Count no more."""
        if self._periods.running:
            self._periods.stop()

    def expect(self, worker: W) -> None:
        """Record that a worker has sent something, and has to send more."""
        self._silent[worker] = 0

    def ignore(self, worker: W) -> None:
        """Record that a worker need not send anything for now."""
        self._silent.pop(worker, None)

    def _count(self) -> None:
        for worker in list(self._silent):
            self._silent[worker] += 1
            if self._silent[worker] >= limits.MAX_SILENCE:
                self.ignore(worker)
                self._hung(worker)
