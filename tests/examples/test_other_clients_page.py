"""Tests of the programs in docs/other-clients.md."""

from __future__ import annotations

import os
import shutil

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.examples.blocks import one
from tests.examples.programs import RunningProgram, run_program
from tests.service.black_box import PATIENCE, ask, new_directory

PAGE = "docs/other-clients.md"
_GO = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")


class OtherClientsPageTests(SynchronousTestCase):
    """Followers without a client library, as they are on the page."""

    def follow(self, name: str, text: str, *command: str) -> None:
        """Run a program against a closed stream of two appends; compare its output."""
        here = new_directory(self)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            ask(server.port, "PUT", "notes", b"one ")
            ask(server.port, "POST", "notes", b"two", Stream_Closed="true")
            text = text.replace("http://localhost:4437/v1/stream/", server.url)
            (here / name).write_text(text, "utf-8")
            # With an empty cache, `go run` compiles its HTTP library first.
            done = run_program(here, *command, name, timeout=10 * PATIENCE)
        self.assertEqual((done.returncode, done.stdout), (0, b"one two\n"), done.stderr)

    def test_javascript(self) -> None:
        """The program for Node prints the stream and ends with it."""
        if shutil.which("node") is None:
            raise SkipTest("Node is not installed")
        self.follow("follow.mjs", one(PAGE, "javascript"), "node")

    def test_go(self) -> None:
        """The Go program prints the stream and ends with it."""
        if _GO is None:
            raise SkipTest("Go is not installed")
        self.follow("follow.go", one(PAGE, "go"), _GO, "run")
