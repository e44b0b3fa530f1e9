"""The Dockerfile, read and followed as far as that goes without an engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import PATIENCE, Foreground

_TOP = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Each instruction and what follows it, on one line."""
    text = re.sub(r"^\s*#.*\n", "", (_TOP / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    pairs = (line.partition(" ") for line in lines if line.strip())
    return [(name, rest.strip()) for name, _, rest in pairs]


class ImageTests(SynchronousTestCase):
    """What has to hold of the image that would be built."""

    def setUp(self) -> None:
        self.given = instructions()

    def of(self, name: str) -> list[str]:
        """What follows each instruction of a name."""
        return [rest for given, rest in self.given if given == name]

    def test_bases_are_named_with_a_version(self) -> None:
        """An image without one is another tomorrow."""
        bases = [rest.split()[0] for rest in self.of("FROM")]
        self.assertEqual(len(bases), 2)
        for base in bases:
            self.assertRegex(base, r"^python:3\.\d+-slim$")
        self.assertEqual(len(set(bases)), 1, "an environment needs the Python that has made it")

    def test_not_root(self) -> None:
        """The last user is a number other than root's, and nothing is run after it."""
        (user,) = self.of("USER")
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")
        after = [name for name, _ in self.given[self.given.index(("USER", user)) :]]
        self.assertNotIn("RUN", after)

    def test_the_process_gets_signals(self) -> None:
        """No shell stands between the engine and the server."""
        for name in ("ENTRYPOINT", "CMD"):
            (rest,) = self.of(name)
            self.assertIsInstance(json.loads(rest), list)

    def test_copied_files_are_there(self) -> None:
        """And nothing hides them from the engine."""
        ignored = (_TOP / ".dockerignore").read_text("utf-8").splitlines()
        shown = [line[1:] for line in ignored if line.startswith("!")]
        for rest in self.of("COPY"):
            if rest.startswith("--from="):
                continue
            for source in rest.split()[:-1]:
                self.assertTrue((_TOP / source).exists(), source)
                self.assertTrue(any(fnmatch(source, pattern) for pattern in shown), source)

    def test_packaging_needs_no_more(self) -> None:
        """What the build reads beside the sources is copied."""
        project = (_TOP / "pyproject.toml").read_text("utf-8")
        copied = " ".join(self.of("COPY"))
        for name in re.findall(r'(?:readme|license-files) = \[?"([^"]+)"', project):
            self.assertIn(name, copied)

    def test_health(self) -> None:
        """The check succeeds beside a server that serves, and fails where none does."""
        (rest,) = self.of("HEALTHCHECK")
        program, flag, code = json.loads(rest.partition("CMD ")[2])
        self.assertEqual((program, flag), ("python", "-c"))
        self.assertIn(":4437/", code)

        def check(port: int) -> int:
            command = [sys.executable, flag, code.replace(":4437/", f":{port}/")]
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
            return done.returncode

        directory = Path(self.mktemp()).resolve()
        directory.mkdir(parents=True)
        listen = "--listen=tcp:0:interface=127.0.0.1"
        with Foreground(directory, "durable-streams", listen) as server:
            port = server.port
            self.assertEqual(check(port), 0)
            server.stop()
        self.assertNotEqual(check(port), 0)
