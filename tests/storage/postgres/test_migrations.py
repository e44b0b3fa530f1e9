"""Tables are created once, used by older compatible programs, and refused by others."""

from __future__ import annotations

from threading import Thread
from typing import Any

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    check_durability,
    connect,
)
from durable_streams_tw.storage.postgres.migrations import migrate
from durable_streams_tw.storage.postgres.schema import FORMAT
from tests.postgres.cluster import shared_cluster

NOW = 1_800_000_000_000


class MigrationTests(SynchronousTestCase):
    """An empty database, and one that has tables."""

    def setUp(self) -> None:
        cluster = shared_cluster()
        self.settings = DatabaseSettings(cluster.url(cluster.create_database()), unsafe=True)

    def migrate(self) -> None:
        with connect(self.settings) as connection:
            migrate(connection, self.settings, NOW)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.settings) as connection:
            return connection.execute(statement.encode()).fetchall()

    def change(self, statement: str) -> None:
        with connect(self.settings) as connection:
            connection.execute(statement.encode())

    def test_empty(self) -> None:
        """The tables are created; a second migration changes nothing."""
        self.migrate()
        known = self.query("SELECT format, version, created_at FROM meta")
        self.assertEqual((known[0][0], known[0][2]), (FORMAT, NOW))
        ((first,),) = self.query("SELECT nextval('ids')")
        self.assertGreater(first, NOW << 20)
        self.migrate()
        self.assertEqual(self.query("SELECT format, version, created_at FROM meta"), known)

    def test_two_nodes_at_once(self) -> None:
        """Nodes that start at the same time create the tables once."""
        failed: list[Exception] = []

        def run() -> None:
            try:
                self.migrate()
            except Exception as error:  # noqa: BLE001 - reported below
                failed.append(error)

        threads = [Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertEqual(self.query("SELECT count(*) FROM registry"), [(1,)])

    def test_newer_tables(self) -> None:
        """A newer format is used while it is compatible, and refused when it is not."""
        self.migrate()
        self.change(f"UPDATE meta SET format = {FORMAT + 1}, version = '9.9'")
        self.migrate()
        self.assertEqual(self.query("SELECT format FROM meta"), [(FORMAT + 1,)])
        self.change(f"UPDATE meta SET compatible = {FORMAT + 1}")
        with self.assertRaisesRegex(StoreUnusable, "was written by version 9.9"):
            self.migrate()

    def test_tables_of_another_program(self) -> None:
        """A schema with other tables is not touched."""
        self.change("CREATE SCHEMA durable_streams")
        self.change("CREATE TABLE stream (x int)")
        with self.assertRaisesRegex(StoreUnusable, "do not belong to this server"):
            self.migrate()
        self.change("DROP TABLE stream")
        self.migrate()

    def test_no_flush(self) -> None:
        """A server with fsync=off is refused unless the operator accepts it."""
        strict = DatabaseSettings(self.settings.url)
        with connect(strict) as connection:
            self.assertRaises(StoreUnusable, check_durability, connection, strict)
            found = check_durability(connection, self.settings)
        self.assertIn("do not survive", found.describe())

    def test_session(self) -> None:
        """A session waits for standbys and is not cut off during a commit."""
        self.assertEqual(
            self.query(
                "SELECT current_setting('synchronous_commit'),"
                " current_setting('statement_timeout'), current_setting('search_path')"
            ),
            [("on", "0", '"durable_streams"')],
        )

    def test_unreachable(self) -> None:
        """A server that cannot be reached raises an error of psycopg."""
        nowhere = DatabaseSettings("postgresql://127.0.0.1:1/x")
        self.assertRaises(psycopg.OperationalError, connect, nowhere)
