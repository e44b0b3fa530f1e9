"""Tests of the server process while its wall clock is set."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import Foreground, ask

# The file has the offset of the wall clock from the real one. Twisted imports `time.time`, so the
# patch must come first.
_SERVER = """
import sys, time
real, path = time.time, sys.argv.pop(1)
def stepped():
    with open(path) as file:
        return real() + float(file.read())
time.time = stepped
time.time_ns = lambda: int(stepped() * 1_000_000_000)
from twisted.scripts.twistd import run
run()
"""

HOUR = 3600


class ClockStepTests(SynchronousTestCase):
    """Steps of an hour in both directions, with TTLs, long-polls and writes."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.ahead = self.directory / "ahead"
        self.set_clock(0)

    def set_clock(self, seconds: int) -> None:
        draft = self.directory / "draft"
        draft.write_text(str(seconds))
        draft.replace(self.ahead)

    def server(self, *more: str) -> Foreground:
        line = [sys.executable, "-c", _SERVER, str(self.ahead), "--pidfile=", "-n"]
        line += ["durable-streams", "--port=0", "--interface=127.0.0.1", *more]
        return Foreground(self.directory, line=line)

    def serve(self, *more: str) -> None:
        with self.server("--long-poll-timeout=1s", *more) as server:
            port = server.port
            self.assertEqual(ask(port, "PUT", "ttl", Stream_TTL="600")[0], 201)
            then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + HOUR / 2))
            self.assertEqual(ask(port, "PUT", "date", Stream_Expires_At=then)[0], 201)
            self.assertEqual(ask(port, "HEAD", "date")[0], 200)
            for step in (HOUR, -HOUR, 0):
                self.set_clock(step)
                began = time.monotonic()
                self.assertEqual(ask(port, "POST", "ttl", b"x")[0], 204, step)
                tail = "ttl?offset=now&live=long-poll"
                self.assertEqual(ask(port, "GET", tail)[0], 204, step)
                self.assertEqual(ask(port, "HEAD", "ttl")[0], 200, step)
                if step == HOUR:
                    self.assertEqual(ask(port, "HEAD", "date")[0], 404, "a date has passed")
                # With frozen timers all of this would wait for the length of the step.
                self.assertLess(time.monotonic() - began, 30)

    def test_in_memory(self) -> None:
        self.serve()

    def test_on_disk(self) -> None:
        self.serve(f"--data-dir={self.directory / 'data'}")
