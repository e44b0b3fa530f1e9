"""Clusters of tests/postgres/cluster.py: they run, survive, replicate, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.cluster import programs, require, running_cluster, shared_cluster

PATIENCE = 60.0

# Starts a cluster, prints its processes, and waits to be killed.
_OWNER = """
import sys, time
from tests.postgres.cluster import shared_cluster
cluster = shared_cluster(int(sys.argv[1]))
print(*cluster.processes(), flush=True)
time.sleep(600)
"""


class TestClusters(SynchronousTestCase):
    def test_each_version_answers_over_both_transports(self) -> None:
        require()
        if os.environ.get("CI"):
            self.assertGreater(len(programs()), 1, "CI tests a system's version and npm's")
        for version in programs():
            cluster = shared_cluster(version)
            for url in (cluster.url(), cluster.url(tcp=True)):
                with psycopg.connect(url) as session:
                    self.assertEqual(session.info.server_version // 10_000, version)

    def test_databases_are_apart(self) -> None:
        cluster = shared_cluster()
        first, second = cluster.create_database(), cluster.create_database()
        cluster.execute("CREATE TABLE mine (number int)", first)
        found = "SELECT count(*) FROM pg_tables WHERE tablename = 'mine'"
        self.assertEqual(cluster.execute(found, first), [(1,)])
        self.assertEqual(cluster.execute(found, second), [(0,)])

    def test_committed_rows_survive_a_kill_of_the_whole_server(self) -> None:
        for version in programs():
            with running_cluster(version, durable=True) as cluster:
                cluster.execute("CREATE TABLE kept AS SELECT 7 AS number")
                cluster.kill()
                self.assertFalse(cluster.running)
                cluster.start()
                self.assertEqual(cluster.execute("SELECT number FROM kept"), [(7,)])

    def test_promoted_standby_has_every_acknowledged_row(self) -> None:
        for version in programs():
            with running_cluster(version, durable=True) as primary:
                standby = primary.add_standby()
                self.addCleanup(standby.remove)
                primary.execute("CREATE TABLE kept AS SELECT 7 AS number")
                primary.kill()
                standby.promote()
                self.assertEqual(standby.execute("SELECT number FROM kept"), [(7,)])
                standby.execute("INSERT INTO kept VALUES (8)")
                standby.remove()

    def test_killed_run_leaves_no_server(self) -> None:
        version = require()
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(version)], stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        processes = list(map(int, owner.stdout.readline().split()))
        self.assertGreater(len(processes), 1)
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
        deadline = time.monotonic() + PATIENCE
        while left := [number for number in processes if Path(f"/proc/{number}").exists()]:
            self.assertLess(time.monotonic(), deadline, left)
            time.sleep(0.05)
