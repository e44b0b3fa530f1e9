"""Checks of ``doctor`` for a PostgreSQL database."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from click.testing import CliRunner
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from durable_streams_tw.cli.doctor_database import DatabaseStats, judge, measure
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, Durability
from tests.postgres.cluster import shared_cluster
from tests.postgres.pgbouncer import pgbouncer

GOOD = DatabaseStats(
    durability=Durability(150004, True, True, "on", "", True),
    clock_offset=0.01,
    pooled=False,
    mixed=False,
    unset=("search_path",),
    synchronous=0,
    connections=100,
    free=90,
    autovacuum=True,
    snapshot_age=1.0,
    holder="",
    dead=10,
    live=100,
)
SETTINGS = DatabaseSettings("postgresql://db/streams")


class JudgementTests(SynchronousTestCase):
    """Results for measured values."""

    def grade(self, name: str, settings: DatabaseSettings = SETTINGS, **facts: Any) -> str:
        changed = replace(GOOD, **facts)
        (found,) = [grade for what, grade, _ in judge(changed, settings) if what == name]
        return found

    def durable(self, **changes: Any) -> Durability:
        return replace(GOOD.durability, **changes)

    def test_good_database_passes_all_checks(self) -> None:
        self.assertEqual({grade for _, grade, _ in judge(GOOD, SETTINGS)}, {"good"})

    def test_unsafe_settings_are_errors(self) -> None:
        for changes in ({"fsync": False}, {"full_page_writes": False}):
            self.assertEqual(self.grade("durability", durability=self.durable(**changes)), "bad")
        self.assertEqual(self.grade("autovacuum", autovacuum=False), "bad")
        self.assertEqual(self.grade("connections", free=7), "bad")

    def test_each_worker_needs_connections(self) -> None:
        """A server with more nodes than the free connections allow gets an error."""
        for nodes, grade in ((10, "good"), (11, "bad")):
            results = judge(replace(GOOD, free=80), SETTINGS, nodes)
            self.assertIn(("connections", grade), [(name, found) for name, found, _ in results])

    def test_missing_synchronous_standby_is_an_error(self) -> None:
        pair = self.durable(standbys="ANY 1 (a, b)")
        for synchronous, grade in ((0, "bad"), (1, "good"), (None, "warning")):
            found = self.grade("synchronous standbys", durability=pair, synchronous=synchronous)
            self.assertEqual(found, grade)

    def test_conditions_that_slow_the_server_are_warnings(self) -> None:
        self.assertEqual(self.grade("clock", clock_offset=-1.5), "warning")
        self.assertEqual(
            self.grade("checksums", durability=self.durable(checksums=False)), "warning"
        )
        self.assertEqual(self.grade("autovacuum", dead=60_000, live=50_000), "warning")
        self.assertEqual(self.grade("autovacuum", dead=60_000, live=70_000), "good")
        self.assertEqual(self.grade("long snapshots", snapshot_age=3600.0), "warning")

    def test_pooler_of_transactions_needs_a_url_for_notifications(self) -> None:
        self.assertEqual(self.grade("pooler", pooled=True), "good")
        self.assertEqual(self.grade("pooler", pooled=True, mixed=True), "warning")
        direct = replace(SETTINGS, listen_url="postgresql://primary/streams")
        self.assertEqual(self.grade("pooler", direct, pooled=True, mixed=True), "good")

    def test_pooler_of_transactions_needs_settings_of_the_role(self) -> None:
        self.assertEqual(self.grade("session settings", pooled=True, mixed=True), "bad")
        grade = self.grade("session settings", pooled=True, mixed=True, unset=())
        self.assertEqual(grade, "good")


class CommandTests(SynchronousTestCase):
    """The command with a real server."""

    def run_doctor(self, *arguments: str) -> dict[str, dict[str, str]]:
        result = CliRunner().invoke(commands, ["doctor", "--json", *arguments])
        return {check["name"]: check for check in json.loads(result.output)}

    def test_real_server(self) -> None:
        """The suite's server does not flush, which the doctor reports."""
        cluster = shared_cluster()
        url = cluster.url(cluster.create_database())
        self.assertIn("fsync=off", self.run_doctor("--database", url)["database"]["sentence"])
        checks = self.run_doctor("--database", url, "--unsafe-database")
        self.assertEqual(checks["durability"]["grade"], "bad")
        for name in ("database", "clock", "pooler", "connections", "autovacuum"):
            self.assertEqual(checks[name]["grade"], "good", checks[name])
        self.assertEqual(checks["synchronous standbys"]["grade"], "good")

    def test_pooler_of_sessions(self) -> None:
        """PgBouncer in session mode is accepted."""
        cluster = shared_cluster()
        with pgbouncer(cluster, "session") as port:
            url = cluster.url(cluster.create_database(), port=port)
            checks = self.run_doctor("--database", url, "--unsafe-database")
        self.assertEqual(checks["pooler"]["grade"], "good", checks)
        self.assertIn("session mode", checks["pooler"]["sentence"])

    def test_pooler_of_transactions(self) -> None:
        """PgBouncer in transaction mode loses prepared statements or settings of sessions."""
        cluster = shared_cluster()
        with pgbouncer(cluster, "transaction") as port:
            url = cluster.url(cluster.create_database(), port=port)
            checks = self.run_doctor("--database", url, "--unsafe-database")
        found = checks.get("session settings", checks["database"])
        self.assertEqual(found["grade"], "bad", checks)
        self.assertIn("the pooler does not keep", found["sentence"])

    def test_settings_through_a_pooler_of_transactions(self) -> None:
        """Settings of a session reach another client of PgBouncer; those of the role hold."""
        cluster = shared_cluster()
        name = cluster.create_database()
        settings = replace(SETTINGS, unsafe=True)

        def facts_at(port: int) -> DatabaseStats:
            one, other = (
                psycopg.connect(
                    cluster.url(name, port=port), autocommit=True, prepare_threshold=None
                )
                for _ in range(2)
            )
            with one, other:
                return measure(one, other, settings)

        with pgbouncer(cluster, "transaction") as port:
            facts = facts_at(port)
        self.assertTrue(facts.pooled and facts.mixed)
        self.assertIn("search_path", facts.unset)
        for setting in (
            f"search_path = {settings.schema}",
            "idle_in_transaction_session_timeout = '5s'",
            "lock_timeout = '2s'",
        ):
            cluster.execute(f'ALTER DATABASE "{name}" SET {setting}')
        with pgbouncer(cluster, "transaction") as port:
            self.assertEqual(facts_at(port).unset, ())

    def test_unreachable_server_is_an_error_without_the_password(self) -> None:
        url = "postgresql://streams:geheim@127.0.0.1:1/streams"
        check = self.run_doctor("--database", url)["database"]
        self.assertEqual(check["grade"], "bad")
        self.assertIn("127.0.0.1", check["sentence"])
        self.assertNotIn("geheim", check["sentence"])
