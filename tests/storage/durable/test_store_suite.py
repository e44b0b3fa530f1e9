"""Tests of the durable store with the suite of all stores."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.suites.fork_suite import StoreCaseForkSuite
from tests.storage.suites.store_suite import StoreSuite


class DurableStoreTests(DurableStoreCase, StoreSuite, SynchronousTestCase):
    """All tests of the suite, with real restarts."""


class LMDBForkTests(StoreCaseForkSuite, DurableStoreCase, SynchronousTestCase):
    """Random trees of forks; ended streams leave no records."""

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
