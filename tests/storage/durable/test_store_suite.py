"""Tests of the durable store with the suite of all stores."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.suites.fork_suite import ForkSuite
from tests.storage.suites.store_suite import StoreSuite


class DurableStoreTests(DurableStoreCase, StoreSuite, SynchronousTestCase):
    """All tests of the suite, with real restarts."""


class LMDBForkTests(DurableStoreCase, ForkSuite, SynchronousTestCase):
    """Random trees of forks; ended streams leave no records."""

    def setUp(self) -> None:
        """Do nothing: the suite creates its stores."""

    def make_fork_store(self) -> IStreamStore:
        return self.make_store()

    def reopen_fork_store(self, store: IStreamStore) -> IStreamStore:
        return self.reopen(store)

    def sweep_fork_store(self, store: IStreamStore) -> None:
        self.sweep(store)

    def finish_fork_store(self, store: IStreamStore, streams: int) -> None:
        self.sweep(store)
        self.result(store.close())
        self.check()
        engine = LMDBEngine(self.directory)
        with engine.snapshot() as view:
            left = [bytes(key) for key, _ in view.scan(b"\x00", b"\xff")]
        engine.close()
        self.assertEqual(len([key for key in left if key[:1] == b"s"]), streams)
        self.assertEqual(len([key for key in left if key[:1] in b"dgq"]), 0)
        self.assertIn(codec.META_KEY, left)

    def now_of(self, deferred: Deferred[Any]) -> Any:
        return self.result(deferred)
