"""Tests of subscriptions on both stores."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.suites.subscription_suite import SubscriptionSuite


class MemorySubscriptionTests(SubscriptionSuite, SynchronousTestCase):
    """Memory store."""

    def make_store(self) -> IStreamStore:
        store = MemoryStore(lambda: self.now, Clock())
        store.open()
        return store

    def sweep(self, store: IStreamStore) -> None:
        assert isinstance(store, MemoryStore)
        store.sweep()


class LMDBSubscriptionTests(SubscriptionSuite, DurableStoreCase, SynchronousTestCase):
    """Durable store with restarts; each test ends with a check."""
