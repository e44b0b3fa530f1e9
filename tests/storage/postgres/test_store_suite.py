"""The PostgreSQL store passes the suites of all stores."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.postgres.connection import connect
from durable_streams_tw.storage.postgres.transaction import CHUNK_SIZE
from tests.storage.postgres.store_case import PostgresStoreCase
from tests.storage.suites.fork_suite import StoreCaseForkSuite
from tests.storage.suites.producer_suite import MOST, ProducerSuite
from tests.storage.suites.store_suite import StoreSuite
from tests.storage.suites.subscription_suite import SubscriptionSuite


class PostgresStoreTests(PostgresStoreCase, StoreSuite, SynchronousTestCase):
    """All tests of the suite, with real restarts."""

    record_size = CHUNK_SIZE

    def sort_key(self, name: str) -> bytes:
        return name.encode("utf-8")


class PostgresProducerTests(ProducerSuite, PostgresStoreCase, SynchronousTestCase):
    """A bounded number of producers."""

    max_producers = MOST


class PostgresSubscriptionTests(SubscriptionSuite, PostgresStoreCase, SynchronousTestCase):
    """Subscriptions, with real restarts."""


class PostgresForkTests(StoreCaseForkSuite, PostgresStoreCase, SynchronousTestCase):
    """Random trees of forks; ended streams leave no rows."""

    def finish_fork_store(self, store: IStreamStore, streams: int) -> None:
        self.sweep(store)
        self.result(store.close())
        with connect(self.settings) as connection:
            left = [
                connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
                for table in ("stream", "chunk", "garbage", "producer")
            ]
        self.assertEqual(left[0], (streams,))
        if not streams:
            self.assertEqual(left[1:], [(0,)] * 3)
