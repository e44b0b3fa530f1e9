"""Tests of the commands in docs/tutorial.md."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.examples import tutorial
from tests.examples.programs import TOP, RunningProgram, run_program
from tests.service.black_box import new_directory


class TutorialTests(SynchronousTestCase):
    """Commands of the tutorial. `tests.browser.examples` tests its page."""

    def test_commands(self) -> None:
        here = new_directory(self)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            tutorial.write_files(here, server.url)
            sessions = tutorial.sessions()
            self.assertGreater(len(sessions), 12)
            for command, output in sessions:
                line = f"export DURABLE_STREAMS_URL={server.url}; {command}"
                done = run_program(here, "sh", "-c", line)
                said = (done.returncode, done.stderr, done.stdout.decode().rstrip("\n"))
                expected = tutorial.with_server_url(output, server.url).rstrip("\n")
                self.assertEqual((command, *said), (command, 0, b"", expected))

    def test_installing(self) -> None:
        """The first commands equal those of the README, except for starting the server."""
        install, serve = tutorial.blocks("sh")
        self.assertEqual(install.splitlines()[-1], "durable-streams-server dev")
        readme = (TOP / "README.md").read_text("utf-8")
        for line in ("python3 -m venv .venv", "pip install ."):
            self.assertIn(line, install.splitlines())
            self.assertIn(line, readme)
        self.assertEqual(serve, "python -m http.server 8000\n")
