"""Tests of the first commands in docs/auth.md."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.programs import TOP, RunningProgram, run_program
from tests.service.black_box import new_directory

PAGE = (TOP / "docs" / "auth.md").read_text("utf-8")


class FirstCommandsTests(SynchronousTestCase):
    """A token, a server that requires it, and requests with it."""

    def test_commands(self) -> None:
        """The printed token creates, appends and reads; without it, the requests get 401."""
        here = new_directory(self)
        first, second = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[:2]
        create, start = first.splitlines()
        made = run_program(here, "sh", "-c", create)
        token = made.stderr.decode().split()[-1]
        with RunningProgram(here, *start.split(), "--port", "0") as server:
            requests = second.replace("http://localhost:4437/v1/stream/", server.url)
            requests = requests.replace("curl", "curl -sSf")
            done = run_program(here, "sh", "-ec", requests.replace("dst_…", token))
            self.assertEqual((done.returncode, done.stdout), (0, b"one"), done.stderr)
            refused = run_program(here, "sh", "-ec", requests)
            self.assertIn(b"401", refused.stderr)
