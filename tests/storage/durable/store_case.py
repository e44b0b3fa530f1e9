"""Durable store in a directory of its own, without threads and real time."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.limits import MAX_PRODUCERS, SWEEP_INTERVAL
from tests.storage.fsck_assertions import assert_sound_directory
from tests.storage.shared.inline_executor import InlineExecutor
from tests.storage.store_case import StoreCase

T = TypeVar("T")

# A RAM disk: flushes to a real disk would only cost time. Small, so that tests fill the segments
# many times.
_SEGMENT_SIZE = 32 * KIB

_SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def scratch_directory(case: SynchronousTestCase | None = None) -> str:
    """Return a new empty directory, in memory if possible; remove it after the test of a case."""
    directory = tempfile.mkdtemp(prefix="streams-test-", dir=_SCRATCH)
    if case is not None:
        case.addCleanup(shutil.rmtree, directory)
    return directory


class DurableStoreCase(StoreCase):
    """`DurableStore` whose executor runs when a result is needed.

    Commands submitted together share a batch. Each test ends with a check of the store.
    """

    quota: int | None = None
    max_producers = MAX_PRODUCERS
    damaged = False
    """Whether the test has damaged what the checker would look at."""

    _scratch: str | None = None

    def make_store(self) -> DurableStore:
        if self._scratch is None:
            self._scratch = scratch_directory(self)
        self.directory = tempfile.mkdtemp(dir=self._scratch)
        return self.open_store()

    def open_store(self) -> DurableStore:
        """Open the store in the directory."""
        clock, executor = Clock(), InlineExecutor()
        executor.held = True
        store = DurableStore(
            self.directory,
            clock,
            executor,
            quota=self.quota,
            segment_size=_SEGMENT_SIZE,
            now=lambda: self.now,
            lead=lambda: self.lead,
            max_producers=self.max_producers,
        )
        store.open()
        self.clock, self.executor = clock, executor
        return store

    def reopen(self, store: IStreamStore) -> IStreamStore:
        self.result(store.close())
        self.check()
        return self.open_store()

    def sweep(self, store: IStreamStore) -> None:
        self.clock.advance(SWEEP_INTERVAL)
        self.executor.drain()

    def settle(self, store: IStreamStore) -> None:
        self.executor.drain()

    def result(self, deferred: Deferred[T]) -> T:
        while not deferred.called and self.executor.busy:
            self.executor.turn()
        return self.successResultOf(deferred)

    def finish(self) -> None:
        super().finish()
        self.check()

    def check(self) -> None:
        """Check the store on the disk."""
        if not self.damaged:
            assert_sound_directory(self, self.directory)
