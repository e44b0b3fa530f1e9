"""Test of the modules of the supervisor."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import PATIENCE, environment

_PROGRAM = """
import sys
import durable_streams_tw.service.make_service
import durable_streams_tw.service.workers.supervisor
print(*sys.modules)
"""


class SupervisorImportTests(SynchronousTestCase):
    def test_no_server(self) -> None:
        """The supervisor imports no HTTP server and no store, so that its restart takes less."""
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        loaded = set(done.stdout.split())
        self.assertIn("durable_streams_tw.service.workers.supervisor", loaded)
        unneeded = {"klein", "treq", "h2", "lmdb", "durable_streams_tw.embedded.api"}
        self.assertEqual(unneeded & loaded, set())
