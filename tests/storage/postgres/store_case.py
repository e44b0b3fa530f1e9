"""`PostgresStore` on the cluster of this process, without threads and real time."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.limits import MAX_PRODUCERS, SWEEP_INTERVAL
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect
from durable_streams_tw.storage.postgres.migrations import migrate
from durable_streams_tw.storage.postgres.store import PostgresStore
from tests.postgres.cluster import shared_cluster
from tests.storage.shared.inline_executor import InlineExecutor
from tests.storage.store_case import START, StoreCase

T = TypeVar("T")

_TABLES = (
    *("node", "stream", "chunk", "producer", "garbage"),
    *("subscription", "link", "cursor", "secret"),
)
_EMPTY = b"; ".join([f"DELETE FROM {table}".encode() for table in _TABLES])


@cache
def database() -> DatabaseSettings:
    """Return the settings of a database of this process, with tables."""
    cluster = shared_cluster()
    settings = DatabaseSettings(cluster.url(cluster.create_database()), unsafe=True)
    with connect(settings) as connection:
        migrate(connection, settings, START)
    return settings


def empty_database() -> DatabaseSettings:
    """Return the settings of the database after removing all streams and subscriptions."""
    settings = database()
    with connect(settings) as connection:
        connection.execute(_EMPTY, prepare=False)
        connection.execute("UPDATE registry SET version = version + 1")
    return settings


class Node:
    """Store with a clock, and executors that run when a result is needed."""

    def __init__(self, case: StoreCase, settings: DatabaseSettings, max_producers: int) -> None:
        self.clock = Clock()
        self.executors = [InlineExecutor() for _ in range(3)]
        for executor in self.executors:
            executor.held = True
        self.store = PostgresStore(
            settings,
            self.clock,
            *self.executors,
            now=lambda: case.now,
            lead=lambda: case.lead,
            max_producers=max_producers,
            listen=False,
        )
        self.store.open()

    @property
    def busy(self) -> bool:
        """Return True if work is queued or due."""
        due = any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls())
        return due or any(executor.busy for executor in self.executors)

    def turn(self) -> None:
        """Run what is due and queued."""
        self.clock.advance(0)
        for executor in self.executors:
            executor.turn()

    def drain(self) -> None:
        """Run what is due and queued, and what follows from it."""
        while self.busy:
            self.turn()

    def sweep(self) -> None:
        """Let a second pass for the background tasks."""
        self.clock.advance(SWEEP_INTERVAL)
        self.drain()


class PostgresStoreCase(StoreCase):
    """`PostgresStore` in a database that each test finds empty.

    Commands submitted together share a batch.
    """

    max_producers = MAX_PRODUCERS

    def make_store(self) -> PostgresStore:
        self.settings = empty_database()
        return self.open_store()

    def open_store(self) -> PostgresStore:
        """Open a store on the database."""
        self.node = Node(self, self.settings, self.max_producers)
        return self.node.store

    def reopen(self, store: IStreamStore) -> IStreamStore:
        self.result(store.close())
        return self.open_store()

    def sweep(self, store: IStreamStore) -> None:
        self.node.sweep()

    def settle(self, store: IStreamStore) -> None:
        self.node.drain()

    def result(self, deferred: Deferred[T]) -> T:
        while not deferred.called and self.node.busy:
            self.node.turn()
        return self.successResultOf(deferred)
