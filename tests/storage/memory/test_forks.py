"""Model tests of forks on the memory store."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.suites.fork_suite import ForkSuite


class MemoryForkTests(ForkSuite, SynchronousTestCase):
    """Memory store, whose restarts do nothing."""

    def make_fork_store(self) -> IStreamStore:
        return MemoryStore(lambda: self.now)

    def reopen_fork_store(self, store: IStreamStore) -> IStreamStore:
        return store

    def sweep_fork_store(self, store: IStreamStore) -> None:
        assert isinstance(store, MemoryStore)
        store.sweep()

    def finish_fork_store(self, store: IStreamStore, streams: int) -> None:
        assert isinstance(store, MemoryStore)
        store.sweep()
        self.assertEqual(store.count(), streams)

    def now_of(self, deferred: Deferred[Any]) -> Any:
        return self.successResultOf(deferred)


class CountedForkTests(MemoryForkTests):
    """Memory store whose transactions count no messages."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "FORK_INLINE_COUNT", -1)
