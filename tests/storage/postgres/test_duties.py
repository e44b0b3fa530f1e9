"""Rows of subscriptions give each duty to one node, and to another when the first is late."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import psycopg
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.subscriptions.state import Config, Kind, Subscription
from durable_streams_tw.storage.limits import DUTY_HELD
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect
from durable_streams_tw.storage.postgres.duties import DEADLINE, SubscriptionDuties
from durable_streams_tw.storage.postgres.migrations import migrate
from tests.postgres.cluster import shared_cluster

NOW = 1_800_000_000_000
_SAVE = f"""INSERT INTO subscription (key, record, due, node, until)
VALUES (%s, %s, %s, %s, {DEADLINE})"""


class DutyTests(SynchronousTestCase):
    def setUp(self) -> None:
        cluster = shared_cluster()
        self.settings = DatabaseSettings(cluster.url(cluster.create_database()), unsafe=True)
        self.connection = self.connect()
        migrate(self.connection, self.settings, NOW)
        self.one, self.two = self.node("one"), self.node("two")

    def connect(self) -> psycopg.Connection[Any]:
        connection = connect(self.settings)
        self.addCleanup(connection.close)
        return connection

    def node(self, name: str) -> SubscriptionDuties:
        connection = self.connect()

        def run(function: Any) -> Deferred[Any]:
            return succeed(function(connection))

        return SubscriptionDuties(run, name)

    def save(self, name: str, node: str, delay: int = 0) -> Subscription:
        """Store a subscription whose action is due in ``delay`` ms, as a commit of a node does."""
        config = Config(Kind.WEBHOOK, "events/*", "https://hook.example/", None, 30_000, None)
        state = Subscription(7, name, config, b"digest", NOW, 0)
        row = (name.encode(), msgspec.msgpack.encode(state), NOW + delay, node, delay)
        self.connection.execute(_SAVE.encode(), row)
        return state

    def pass_time(self, seconds: float) -> None:
        """Move all deadlines back, as if the time had passed."""
        self.connection.execute(
            "UPDATE subscription SET until = until - %s", (round(seconds * 1000),)
        )

    def took(self, node: SubscriptionDuties) -> list[str]:
        taken: Any = self.successResultOf(node.take())
        return sorted(state.id for state in taken)

    def test_duty_is_taken_once_after_its_deadline(self) -> None:
        saved = self.save("s", "one")
        self.assertEqual(self.took(self.two), [])
        self.pass_time(DUTY_HELD + 1)
        self.assertEqual(self.successResultOf(self.two.take()), [saved])
        self.assertEqual(self.took(self.one), [])
        self.assertEqual(self.successResultOf(self.one.hold(["s"])), [])
        self.assertEqual(self.successResultOf(self.two.hold(["s", "unknown"])), [saved])

    def test_deadline_follows_the_time_at_which_the_action_is_due(self) -> None:
        self.save("later", "one", delay=60_000)
        self.pass_time(60)
        self.assertEqual(self.took(self.two), [])
        self.pass_time(DUTY_HELD + 1)
        self.assertEqual(self.took(self.two), ["later"])

    def test_renewed_duty_is_not_taken(self) -> None:
        self.save("s", "one")
        self.pass_time(DUTY_HELD - 1)
        self.successResultOf(self.one.hold(["s"]))
        self.pass_time(DUTY_HELD - 1)
        self.assertEqual(self.took(self.two), [])

    def test_released_duties_are_taken_at_once(self) -> None:
        self.save("a", "one", delay=60_000)
        self.save("b", "one")
        self.save("c", "two")
        self.successResultOf(self.one.release())
        self.assertEqual(self.took(self.two), ["a", "b"])

    def test_nodes_that_look_at_once_take_different_duties(self) -> None:
        names = [f"s{number:03}" for number in range(200)]
        for name in names:
            self.save(name, "dead")
        self.pass_time(DUTY_HELD + 1)
        taken: list[list[str]] = []
        nodes = [self.node(f"n{number}") for number in range(4)]
        threads = [
            threading.Thread(target=lambda node=node: taken.append(self.took(node)))
            for node in nodes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(name for names in taken for name in names), names)

    def test_duty_that_a_batch_has_locked_is_left_to_it(self) -> None:
        self.save("s", "dead")
        self.pass_time(DUTY_HELD + 1)
        with self.connection.transaction():
            self.connection.execute("SELECT FROM subscription FOR UPDATE")
            self.assertEqual(self.took(self.two), [])
        self.assertEqual(self.took(self.two), ["s"])
