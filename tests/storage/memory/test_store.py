"""Tests of `durable_streams_tw.storage.memory.store`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.limits import BATCH_TIME, SWEEP_INTERVAL
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.store_case import StoreCase, post, put
from tests.storage.suites.store_suite import StoreSuite


class MemoryStoreCase(StoreCase):
    def make_store(self) -> IStreamStore:
        self.clock = Clock()
        store = MemoryStore(lambda: self.now, self.clock, lambda: self.lead)
        store.open()
        return store

    def sweep(self, store: IStreamStore) -> None:
        assert isinstance(store, MemoryStore)
        store.sweep()


class MemoryStoreTests(MemoryStoreCase, StoreSuite, SynchronousTestCase):
    """Behaviour that all stores share."""


class MemoryTests(MemoryStoreCase, SynchronousTestCase):
    """Behaviour of the memory store alone."""

    def test_interface(self) -> None:
        verifyObject(IStreamStore, self.store)

    def test_sweeps_by_itself(self) -> None:
        """The store sweeps while it is open and has a clock."""
        self.created(put(lifetime=Lifetime(ttl=1)))
        self.announced.clear()
        self.sleep(1)
        self.clock.advance(SWEEP_INTERVAL)
        self.assertEqual([change.gone for changes in self.announced for change in changes], [True])
        self.result(self.store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_sweep_of_many(self) -> None:
        """A sweep takes several turns, and requests run in between."""
        self.submit_all(*[put(f"a{number}", lifetime=Lifetime(ttl=1)) for number in range(50)])
        self.submit(put("b"))
        self.sleep(1)
        self.announced.clear()
        now = 0.0

        def seconds() -> float:
            nonlocal now
            now += BATCH_TIME / 4
            return now

        later: list[Callable[[], object]] = []

        def call_later(delay: float, call: Callable[[], object]) -> None:
            later.append(call)

        self.patch(self.clock, "seconds", seconds)
        self.patch(self.clock, "callLater", call_later)
        self.sweep(self.store)
        turns = 0
        while later:
            # The next sweep is due while this one runs.
            self.sweep(self.store)
            self.assertEqual(len(later), 1)
            later.pop()()
            self.appended(post(b"x", "b"))
            turns += 1
        self.assertGreater(turns, 10)
        assert isinstance(self.store, MemoryStore)
        self.assertEqual(self.store.count(), 1)

    def test_without_a_clock(self) -> None:
        """Without a clock expired streams are hidden, but stay in memory."""
        store = MemoryStore(lambda: self.now)
        store.open()
        self.store = store
        self.created(put(lifetime=Lifetime(ttl=1)))
        self.sleep(1)
        self.assertGone()
        self.assertEqual(store.count(), 1)
        store.sweep()
        self.assertEqual(store.count(), 0)

    def test_ids_of_another_process(self) -> None:
        """Ids are not repeated after a restart, so entity tags of clients stay valid or fail."""
        before = [self.created(put(f"s{number}")).id for number in range(10)]
        self.sleep(0.001)
        self.store = self.make_store()
        after = [self.created(put(f"s{number}")).id for number in range(10)]
        self.assertGreater(min(after), max(before))
        self.assertLess(max(after), 2**63)

    def test_ended_streams_are_freed(self) -> None:
        """Ended streams leave no bytes and no pins."""
        store = self.store
        assert isinstance(store, MemoryStore)
        for number in range(20):
            state = self.created(put(raw=b"x" * 1000, lifetime=Lifetime(ttl=1)))
            self.appended(post(b"x", producer=(f"p{number}", 0, 0)))
            store.pin(state.id)
            self.read()
            if number % 2:
                self.deleted()
            else:
                store.unpin(state.id)
                self.sleep(1)
                store.sweep()
                store.pin(state.id)
            store.unpin(state.id)
        self.assertEqual(store.count(), 0)
