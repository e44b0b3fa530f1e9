"""Tests of the detection of workers that hang."""

from __future__ import annotations

import os
import signal
import sys
from unittest import SkipTest

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.workers.hang_detector import HangDetector
from durable_streams_tw.service.workers.limits import HEARTBEAT_PERIOD, MAX_SILENCE
from tests.service.black_box import Foreground, ask
from tests.service.test_twistd import wait_for
from tests.service.workers.server import WorkersTestCase, workers_in

# twistd with a shorter limit in the supervisor.
_TWISTD = """
from durable_streams_tw.service.workers import limits
limits.MAX_SILENCE = 2
from twisted.scripts.twistd import run
run()
"""


class HangDetectorTests(SynchronousTestCase):
    """Two workers, of which one sends something in each period."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hung: list[str] = []
        self.detector: HangDetector[str] = HangDetector(self.clock, self.hung.append)
        self.detector.start()
        for worker in ("owner", "front"):
            self.detector.expect(worker)

    def wait(self, periods: int) -> None:
        """Advance the clock, with a message of the owner in each period."""
        for _ in range(periods):
            self.clock.advance(HEARTBEAT_PERIOD)
            self.detector.expect("owner")

    def test_silent_worker(self) -> None:
        """A worker hangs once it has sent nothing for all periods, and is reported once."""
        self.wait(MAX_SILENCE - 1)
        self.assertEqual(self.hung, [])
        self.wait(1)
        self.assertEqual(self.hung, ["front"])
        self.wait(2 * MAX_SILENCE)
        self.assertEqual(self.hung, ["front"])

    def test_late_message(self) -> None:
        """A message within the last period begins all periods again."""
        self.wait(MAX_SILENCE - 1)
        self.detector.expect("front")
        self.wait(MAX_SILENCE - 1)
        self.assertEqual(self.hung, [])

    def test_suspension(self) -> None:
        """A step of the clock counts as one period, so a suspended machine ends no worker."""
        self.clock.advance(1000 * HEARTBEAT_PERIOD * MAX_SILENCE)
        self.wait(MAX_SILENCE - 2)
        self.assertEqual(self.hung, [])
        self.wait(1)
        self.assertEqual(self.hung, ["front"])

    def test_ignored_worker(self) -> None:
        """A worker that need not send anything does not hang, nor does any after the stop."""
        self.detector.ignore("front")
        self.wait(2 * MAX_SILENCE)
        self.detector.stop()
        self.clock.advance(1000)
        self.assertEqual(self.hung, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StoppedProcessTests(WorkersTestCase):
    """Processes that SIGSTOP has stopped are killed and replaced."""

    def serve_impatiently(self) -> Foreground:
        """Return a server with a short limit."""
        line = [sys.executable, "-c", _TWISTD, "--pidfile=", "-n", "durable-streams"]
        line += ["--workers=2", "--data-dir=data", "--listen=tcp:0:interface=127.0.0.1"]
        return self.serve(line=line)

    def test_workers(self) -> None:
        """The server recovers from a suspended front and a suspended owner."""
        with self.serve_impatiently() as server:
            pids = workers_in(server.log)
            self.assertEqual(ask(server.port, "PUT", "a", b"x")[0], 201)
            os.kill(pids["front-1"], signal.SIGSTOP)
            os.kill(pids["owner"], signal.SIGSTOP)
            wait_for(lambda: ask(server.port, "POST", "a", b"y")[0] == 204)
            server.stop()
        for name in ("front-1", "owner"):
            self.assertIn(f"{name} (process {pids[name]}) has not answered", server.log)
        self.assert_clean(server.log)

    def test_template(self) -> None:
        """A stopped template is replaced as soon as a worker has to be forked."""
        if "WORKERS_STOPPED_TEMPLATE" not in os.environ:
            raise SkipTest("WORKERS_STOPPED_TEMPLATE is not set")
        with self.serve_impatiently() as server:
            template = workers_in(server.log)["template"]
            os.kill(template, signal.SIGSTOP)
            # The spare process replaces the first.
            for name in ("front-1", "front-2"):
                self.kill(server, name)
            server.stop()
        self.assertIn(f"template (process {template}) has not answered", server.log)
        self.assert_clean(server.log)
