"""The remote store passes the suites of all stores, over the memory store and the durable one."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.memory.test_store import MemoryStoreCase
from tests.storage.remote.remote_case import RemoteCase
from tests.storage.suites.fork_suite import StoreCaseForkSuite
from tests.storage.suites.producer_suite import MOST, ProducerSuite
from tests.storage.suites.store_suite import StoreSuite
from tests.storage.suites.subscription_suite import SubscriptionSuite


class RemoteMemoryTests(RemoteCase, MemoryStoreCase, StoreSuite, SynchronousTestCase):
    """All tests of the suite over the memory store."""


class RemoteDurableTests(RemoteCase, DurableStoreCase, StoreSuite, SynchronousTestCase):
    """All tests of the suite over the durable store, with real restarts."""


class MemoryProducerCase(MemoryStoreCase):
    """Memory store with few producers per stream."""

    def make_store(self) -> IStreamStore:
        return MemoryStore(lambda: self.now, max_producers=MOST)


class RemoteMemoryProducerTests(RemoteCase, ProducerSuite, MemoryProducerCase, SynchronousTestCase):
    """Bounded numbers of producers over the memory store."""


class RemoteDurableProducerTests(RemoteCase, ProducerSuite, DurableStoreCase, SynchronousTestCase):
    """Bounded numbers of producers over the durable store."""

    max_producers = MOST


class RemoteMemorySubscriptionTests(
    RemoteCase, SubscriptionSuite, MemoryStoreCase, SynchronousTestCase
):
    """Commands of subscriptions over the memory store."""


class RemoteDurableSubscriptionTests(
    RemoteCase, SubscriptionSuite, DurableStoreCase, SynchronousTestCase
):
    """Commands of subscriptions over the durable store, with real restarts."""


class RemoteForkCase(StoreCaseForkSuite, RemoteCase):
    """Random trees of forks."""

    def finish_fork_store(self, store: IStreamStore, streams: int) -> None:
        self.sweep(store)
        self.store = store
        self.finish()


class RemoteMemoryForkTests(RemoteForkCase, MemoryStoreCase, SynchronousTestCase):
    """Random trees of forks over the memory store."""


class RemoteDurableForkTests(RemoteForkCase, DurableStoreCase, SynchronousTestCase):
    """Random trees of forks over the durable store."""
