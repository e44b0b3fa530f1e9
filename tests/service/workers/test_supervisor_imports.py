"""Test of the modules of the supervisor."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import run_python

_PROGRAM = """
import sys
import durable_streams_tw.service.make_service
import durable_streams_tw.service.workers.supervisor
print(*sys.modules)
"""


class SupervisorImportTests(SynchronousTestCase):
    def test_no_server(self) -> None:
        """The supervisor imports no HTTP server and no store, so that its restart takes less."""
        done = run_python(_PROGRAM)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        loaded = set(done.stdout.split())
        self.assertIn("durable_streams_tw.service.workers.supervisor", loaded)
        unneeded = {"klein", "treq", "h2", "lmdb", "durable_streams_tw.embedded.api"}
        self.assertEqual(unneeded & loaded, set())
