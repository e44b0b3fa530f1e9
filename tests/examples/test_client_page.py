"""Tests of the commands in docs/client.md."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.programs import TOP, RunningProgram, run_program
from tests.service.black_box import new_directory

_READ = "".join(
    f"\ndurable-streams-server read {name}" for name in ("jobs/1", "logs/app", "events")
)


class ClientPageTests(SynchronousTestCase):
    """The shell blocks of the page, in one shell."""

    def test_commands(self) -> None:
        """All commands succeed in the order of the page, and append what they are given."""
        here = new_directory(self)
        (here / "app.log").write_text("started\n")
        page = (TOP / "docs" / "client.md").read_text("utf-8")
        script = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
        # Replace the two commands that a test cannot run: a build, and a follower that never ends.
        script = script.replace("make 2>&1", "echo built").replace("tail -F app.log", "cat app.log")
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            shell = f"export DURABLE_STREAMS_URL={server.url}\n{script}\n"
            done = run_program(here, "bash", "-ec", shell)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"jobs/1\n", done.stdout)
            shown = run_program(here, "bash", "-ec", shell.splitlines()[0] + _READ)
        self.assertEqual(shown.stdout, b'built\nstarted\n{"n": 1}\n{"n": 2}\n')
        self.assertEqual((here / "jobs-1.log").read_text(), "built\n")
