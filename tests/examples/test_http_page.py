"""Tests of docs/http.md: its commands, and that it names all headers and parameters."""

from __future__ import annotations

import subprocess

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol import headers
from tests.examples.console_blocks import commands, matches
from tests.examples.programs import TOP, RunningProgram
from tests.service.black_box import new_directory

PAGE = TOP / "docs" / "http.md"

#: Headers that the page leaves to others, because clients do not set them deliberately.
_OMITTED = {"content-encoding", "if-unmodified-since", "origin"}


class HttpPageTests(SynchronousTestCase):
    """The reference of the HTTP API."""

    def test_commands(self) -> None:
        """Every command of the page prints what the page shows, in one shell."""
        here = new_directory(self)
        found = commands(PAGE.read_text("utf-8"))
        self.assertGreater(len(found), 20)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            host = server.url.removesuffix("/v1/stream/")
            marks = [f"echo '=== {number}'" for number in range(len(found) + 1)]
            script = "\n".join(
                f"{mark}\n{command.line.replace('http://localhost:4437', host)}"
                for mark, command in zip(marks, found, strict=False)
            )
            done = subprocess.run(
                ["bash", "-c", f"{script}\nwait"], cwd=here, capture_output=True, text=True
            )
        outputs = done.stdout.split("=== ")[1:]
        self.assertEqual(len(outputs), len(found), done.stderr)
        for command, output in zip(found, outputs, strict=True):
            shown = output.partition("\n")[2]
            self.assertTrue(
                matches(command.output, shown), f"{command.line}\n{command.output!r}\n{shown!r}"
            )

    def test_headers(self) -> None:
        """The page names every header of the protocol that the server reads or sends."""
        page = PAGE.read_text("utf-8").lower()
        names = {
            value.decode("ascii").lower()
            for value in vars(headers).values()
            if isinstance(value, bytes) and b"-" in value
        }
        missing = {name for name in names - _OMITTED if f"`{name}" not in page and name not in page}
        self.assertEqual(missing, set())
