"""Two nodes with threads, on the reactor: hints, writers on the same streams, and closing."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from msgspec.structs import replace
from psycopg.conninfo import conninfo_to_dict
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change, Chunk
from durable_streams_tw.storage.postgres import background
from durable_streams_tw.storage.postgres import store as postgres_store
from durable_streams_tw.storage.postgres.connection import DatabaseSettings
from durable_streams_tw.storage.postgres.store import PostgresStore
from durable_streams_tw.storage.shared.executor import ThreadExecutor
from tests.postgres.cluster import shared_cluster
from tests.postgres.fault_proxy import FaultProxy
from tests.storage.postgres.store_case import database, empty_database
from tests.storage.store_case import post, put

Step = Generator[Deferred[Any], Any, Any]


def pause(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


def make_store(settings: DatabaseSettings) -> PostgresStore:
    """Return a store with threads that is not open yet."""
    clock: Any = reactor
    return PostgresStore(settings, clock, *[ThreadExecutor(reactor) for _ in range(3)])


class ThreadTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        settings = empty_database()
        self.stores = [make_store(settings) for _ in range(2)]
        for store in self.stores:
            store.open()
        self.addCleanup(self.close)

    def close(self) -> Deferred[Any]:
        closed = gatherResults([store.close() for store in self.stores])
        return closed.addCallback(lambda _: self.assertEqual(shared_cluster().deadlocks(), 0))

    @inlineCallbacks
    def test_hints(self) -> Step:
        """Changes at one node are announced at the other without waiting for a look."""
        self.patch(background, "POLL_INTERVAL", 3600.0)
        here, there = self.stores
        yield there.submit(put())
        # Until each node has seen that the other lives.
        while any(not store._background.other_nodes for store in self.stores):
            yield pause(0.05)
        state: StreamState = yield here.get_state("a")
        here.pin(state.id)
        yield here.get_state("a")
        tails: list[int] = []

        def told(changes: Sequence[Change]) -> None:
            tails.extend(change.state.tail for change in changes)

        here.add_listener(told)
        for number in range(1, 21):
            yield there.submit(post(b"x"))
            end = time.monotonic() + 10
            while (not tails or tails[-1] != number) and time.monotonic() < end:
                yield pause(0.002)
            self.assertEqual(tails[-1], number)
        here.unpin(state.id)

    @inlineCallbacks
    def test_writers_at_both_nodes(self) -> Step:
        """Batches of producers on the same streams are each stored once, in their order."""
        paths = [f"s{number}" for number in range(5)]
        yield self.stores[0].submit(put("s0"))
        yield gatherResults([self.stores[0].submit(put(path)) for path in paths[1:]])
        count = 150

        def write(name: str, store: PostgresStore) -> Deferred[Any]:
            return gatherResults(
                [
                    store.submit(
                        post(f"{name}{number},".encode(), path, producer=(name, 0, number))
                    )
                    for number in range(count)
                    for path in paths
                ]
            )

        outcomes = yield gatherResults(
            [write(f"w{number}:", self.stores[number % 2]) for number in range(4)]
        )
        for each in outcomes:
            for outcome in each:
                self.assertIsInstance(outcome, Appended)
        for path in paths:
            for store in self.stores:
                chunk: Chunk = yield store.read(path, 0, 2**20)
                parts = chunk.data.decode().split(",")[:-1]
                for number in range(4):
                    mine = [part for part in parts if part.startswith(f"w{number}:")]
                    self.assertEqual(mine, [f"w{number}:{index}" for index in range(count)])

    @inlineCallbacks
    def test_close_while_busy(self) -> Step:
        """A store that closes carries out its commands first."""
        here, there = self.stores
        yield here.submit(put())
        submitted = [store.submit(post(b"x")) for _ in range(50) for store in self.stores]
        yield here.close()
        outcomes = yield gatherResults(submitted)
        for outcome in outcomes:
            self.assertIsInstance(outcome, Appended)
        chunk: Chunk = yield there.read("a", 0, 1000)
        self.assertEqual(chunk.data, b"x" * 100)

    @inlineCallbacks
    def test_close_while_the_database_is_frozen(self) -> Step:
        """A store closes although the database does not answer."""
        self.patch(postgres_store, "_CUT_INTERVAL", 0.05)
        with FaultProxy(shared_cluster().port) as proxy:
            name = conninfo_to_dict(database().url)["dbname"]
            url = shared_cluster().url(str(name), port=proxy.port)
            store = make_store(replace(database(), url=url, timeout=0.2))
            store.open()
            yield store.submit(put())
            yield store.get_state("a")
            proxy.freeze()
            read = store.get_state("a")
            yield store.close()
            refusal = yield read
            self.assertEqual(refusal.problem, Problem.STORAGE_UNAVAILABLE)
