"""Tests of workers that are nodes of a PostgreSQL database."""

from __future__ import annotations

import os
import signal

from tests.postgres.cluster import shared_cluster
from tests.service.black_box import ask
from tests.service.test_twistd import wait_for
from tests.service.workers.server import Follower, WorkersTestCase, workers_in


class DatabaseTests(WorkersTestCase):
    def test_nodes(self) -> None:
        """Each worker is a node with a name of its own; one that is killed is replaced."""
        cluster = shared_cluster()
        url = cluster.url(cluster.create_database())
        with self.serve("--database", url, "--unsafe-database", "--node=a") as server:
            pids = workers_in(server.log)
            self.assertEqual(sorted(pids), ["node-1", "node-2", "template"])
            port = server.port
            self.assertEqual(ask(port, "PUT", "a", b"0;")[0], 201)
            follower = Follower(port, "a")
            follower.until(b"event: control")
            for number in range(1, 21):
                self.assertEqual(ask(port, "POST", "a", b"%d;" % number)[0], 204)
            follower.until(b"20;")
            os.kill(pids["node-1"], signal.SIGKILL)
            server.until("node-1 serves")
            wait_for(lambda: ask(port, "POST", "a", b"21;")[0] == 204)
            self.assertEqual(ask(port, "GET", "a")[1].count(b";"), 22)
            for pid in workers_in(server.log).values():
                with open(f"/proc/{pid}/cmdline") as line:
                    self.assertNotIn("postgresql:", line.read())
            server.stop()
        self.assert_clean(server.log)
