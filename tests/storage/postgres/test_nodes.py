"""Several nodes on one database behave like one store: requests go to the nodes in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.streams.state import Lifetime, StreamState
from durable_streams_tw.storage.api import Change, Command, IStreamStore, NodeStats, Outcome
from durable_streams_tw.storage.postgres.store import PostgresStore
from tests.postgres.cluster import shared_cluster
from tests.storage.postgres.store_case import Node, PostgresStoreCase, empty_database
from tests.storage.store_case import post, put
from tests.storage.suites.incarnation_suite import IncarnationSuite
from tests.storage.suites.model_suite import ModelSuite
from tests.storage.suites.producer_suite import MOST, ProducerSuite
from tests.storage.suites.subscription_suite import SubscriptionSuite

T = TypeVar("T")


class _Balancer:
    """Store that passes each call to a node chosen at random."""

    def __init__(self, stores: Callable[[], Sequence[PostgresStore]]) -> None:
        self._stores = stores

    def __getattr__(self, name: str) -> Any:
        if name.startswith("add_"):
            return lambda listener: [getattr(store, name)(listener) for store in self._stores()]
        return getattr(random.choice(self._stores()), name)


class NodesCase(PostgresStoreCase):
    """``count`` nodes; commands that are submitted together go to one of them."""

    count = 2
    nodes: list[Node]

    def make_store(self) -> Any:
        self.settings = empty_database()
        self.nodes = [self.open_node() for _ in range(self.count)]
        return _Balancer(lambda: [node.store for node in self.nodes])

    def open_node(self) -> Node:
        return Node(self, self.settings, self.max_producers)

    def reopen(self, store: IStreamStore) -> IStreamStore:
        """Restart one node; the others go on."""
        place = random.randrange(self.count)
        self.result(self.nodes[place].store.close())
        self.nodes[place] = self.open_node()
        made = self.nodes[place].store
        made.add_listener(self.announced.append)
        notes = getattr(self, "notes", None)
        if notes is not None:
            made.add_record_listener(notes.extend)
        return store

    def submit_all(self, *commands: Command) -> list[Outcome]:
        store = random.choice(self.nodes).store
        submitted = list(map(store.submit, commands))
        return [self.result(deferred) for deferred in submitted]

    def sweep(self, store: IStreamStore) -> None:
        random.choice(self.nodes).sweep()

    def settle(self, store: IStreamStore) -> None:
        for node in self.nodes:
            node.drain()

    def result(self, deferred: Deferred[T]) -> T:
        while not deferred.called and any(node.busy for node in self.nodes):
            for node in self.nodes:
                if node.busy:
                    node.turn()
        return self.successResultOf(deferred)

    def finish(self) -> None:
        self.settle(self.store)
        for node in self.nodes:
            self.result(node.store.close())
        self.assertEqual(shared_cluster().deadlocks(), 0)


class ThreeNodesTests(NodesCase, ModelSuite, SynchronousTestCase):
    """Random histories, dealt to three nodes at random."""

    count = 3


class NodeSubscriptionTests(SubscriptionSuite, NodesCase, SynchronousTestCase):
    """Subscriptions, whose index each node has in memory."""


class NodeProducerTests(ProducerSuite, NodesCase, SynchronousTestCase):
    """Producers whose batches arrive at different nodes."""

    max_producers = MOST


class NodeIncarnationTests(NodesCase, IncarnationSuite, SynchronousTestCase):
    """Ids of two nodes order the incarnations of a stream."""


class FollowingTests(NodesCase, SynchronousTestCase):
    """Readers of one node, changes of another."""

    def setUp(self) -> None:
        super().setUp()
        self.here, self.there = self.nodes
        self.changes: list[Change] = []
        self.here.store.add_listener(self.changes.extend)

    def at(self, node: Node, command: Command) -> Outcome:
        return self.result(node.store.submit(command))

    def follow(self, path: str = "a") -> StreamState:
        """Pin a stream at one node as a live reader does."""
        state = self.result(self.here.store.get_state(path))
        assert isinstance(state, StreamState), state
        self.here.store.pin(state.id)
        self.result(self.here.store.get_state(path))
        self.changes.clear()
        return state

    def poll(self) -> list[tuple[int, int, bytes, bool]]:
        """Let a second pass at the readers' node; return the announced changes."""
        self.here.clock.advance(1)
        self.here.drain()
        found = [(c.start, c.state.tail, c.data, c.gone) for c in self.changes]
        self.changes.clear()
        return found

    def test_append_at_another_node(self) -> None:
        """A look announces a followed stream that another node changed, once and without bytes."""
        self.at(self.there, put(raw=b"one"))
        self.follow()
        self.assertEqual(self.poll(), [])
        self.at(self.there, post(b"two"))
        self.at(self.there, post(b"three"))
        self.assertEqual(self.poll(), [(11, 11, b"", False)])
        self.assertEqual(self.poll(), [])

    def test_own_append(self) -> None:
        """An append of the readers' node is announced with its bytes, and not again by a look."""
        self.at(self.there, put())
        self.follow()
        self.at(self.here, post(b"x"))
        self.assertEqual([(c.start, c.data) for c in self.changes], [(0, b"x")])
        self.changes.clear()
        self.assertEqual(self.poll(), [])

    def test_close_and_end(self) -> None:
        """A look announces that a stream was closed or deleted elsewhere."""
        self.at(self.there, put())
        state = self.follow()
        self.at(self.there, post(closed=True))
        self.assertEqual(self.poll(), [(0, 0, b"", False)])
        self.at(self.there, Delete("a"))
        self.assertEqual(self.poll(), [(0, 0, b"", True)])
        self.assertEqual(self.poll(), [])
        self.here.store.unpin(state.id)

    def test_streams_without_readers(self) -> None:
        """Nothing is asked for streams that are not followed."""
        self.at(self.there, put())
        self.assertEqual(self.poll(), [])

    def test_stats_count_nodes(self) -> None:
        """The statistics of a node have the number of nodes, which is unknown at first."""
        stats = self.result(self.here.store.stats())
        assert isinstance(stats, NodeStats), stats
        self.assertIsNone(stats.nodes)
        for node in self.nodes:
            node.sweep()
        for expected in (2, 1):
            self.here.sweep()
            stats = self.result(self.here.store.stats())
            assert isinstance(stats, NodeStats), stats
            self.assertEqual(stats.nodes, expected)
            self.result(self.there.store.close())

    def test_reader_that_was_given_an_older_state(self) -> None:
        """A change between a reader's query and its answer is announced once it has the answer."""
        self.at(self.there, put())
        state = self.follow()
        self.at(self.there, post(b"x"))
        newer = self.result(self.there.store.get_state("a"))
        assert isinstance(newer, StreamState)
        self.here.store._followed.update(newer)
        self.here.store._update_followed(state)
        self.assertEqual([(c.start, c.data) for c in self.changes], [(1, b"")])

    def test_reader_keeps_a_stream_from_expiring(self) -> None:
        """A read at one node is known to the sweep of another before the old deadline."""
        self.at(self.there, put(raw=b"x", lifetime=Lifetime(ttl=2)))
        for _ in range(5):
            self.sleep(1.5)
            chunk = self.result(self.here.store.read("a", 0, 10))
            self.assertEqual(getattr(chunk, "data", chunk), b"x")
            self.there.sweep()
        self.sleep(2)
        self.there.sweep()
        found = self.result(self.here.store.get_state("a"))
        self.assertRefused(Problem.STREAM_NOT_FOUND, found)

    def test_live_reader_keeps_a_stream_from_expiring(self) -> None:
        """A pin at one node renews the TTL in the database while the reader waits."""
        self.at(self.there, put(lifetime=Lifetime(ttl=2)))
        self.follow()
        for _ in range(20):
            self.sleep(0.5)
            self.here.clock.advance(0.5)
            self.here.drain()
            self.there.sweep()
        self.assertIsInstance(self.result(self.there.store.get_state("a")), StreamState)
