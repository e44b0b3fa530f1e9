"""Tests of the Dockerfile without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import PATIENCE, Foreground, new_directory

_TOP = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return each instruction and its arguments, joined to one line."""
    text = re.sub(r"^\s*#.*\n", "", (_TOP / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    pairs = (line.partition(" ") for line in lines if line.strip())
    return [(name, rest.strip()) for name, _, rest in pairs]


class ImageTests(SynchronousTestCase):
    """Properties of the image."""

    def setUp(self) -> None:
        self.given = instructions()

    def arguments_of(self, name: str) -> list[str]:
        """Return the arguments of each instruction of a name."""
        return [rest for given, rest in self.given if given == name]

    def test_base_images_have_versions(self) -> None:
        """Each base image has a version."""
        bases = [rest.split()[0] for rest in self.arguments_of("FROM")]
        self.assertEqual(len(bases), 2)
        for base in bases:
            self.assertRegex(base, r"^python:3\.\d+-slim$")
        self.assertEqual(len(set(bases)), 1, "an environment needs the Python that has made it")

    def test_user(self) -> None:
        """The last user is a number other than 0, and no later instruction runs commands."""
        (user,) = self.arguments_of("USER")
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")
        after = [name for name, _ in self.given[self.given.index(("USER", user)) :]]
        self.assertNotIn("RUN", after)

    def test_exec_form(self) -> None:
        """The entry point has no shell, so the server receives signals."""
        for name in ("ENTRYPOINT", "CMD"):
            (rest,) = self.arguments_of(name)
            self.assertIsInstance(json.loads(rest), list)

    def test_copied_files_exist(self) -> None:
        """Copied files exist and are not ignored by the engine."""
        ignored = (_TOP / ".dockerignore").read_text("utf-8").splitlines()
        shown = [line[1:] for line in ignored if line.startswith("!")]
        for rest in self.arguments_of("COPY"):
            if rest.startswith("--from="):
                continue
            for source in rest.split()[:-1]:
                self.assertTrue((_TOP / source).exists(), source)
                self.assertTrue(any(fnmatch(source, pattern) for pattern in shown), source)

    def test_build_inputs(self) -> None:
        """All files that the build reads are copied."""
        project = (_TOP / "pyproject.toml").read_text("utf-8")
        copied = " ".join(self.arguments_of("COPY"))
        for name in re.findall(r'(?:readme|license-files) = \[?"([^"]+)"', project):
            self.assertIn(name, copied)

    def test_extras(self) -> None:
        """The image has the packages of the settings that need an extra: it has no pip."""
        (install,) = [rest for rest in self.arguments_of("RUN") if "pip install" in rest]
        self.assertIn("'.[postgres,tracing]'", install)

    def test_health(self) -> None:
        """The health check succeeds while the server runs and fails without it."""
        (rest,) = self.arguments_of("HEALTHCHECK")
        program, flag, code = json.loads(rest.partition("CMD ")[2])
        self.assertEqual((program, flag), ("python", "-c"))
        self.assertIn(":4437/", code)

        def check(port: int) -> int:
            command = [sys.executable, flag, code.replace(":4437/", f":{port}/")]
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
            return done.returncode

        directory = new_directory(self)
        listen = "--listen=tcp:0:interface=127.0.0.1"
        with Foreground(directory, "durable-streams", listen) as server:
            port = server.port
            self.assertEqual(check(port), 0)
            server.stop()
        self.assertNotEqual(check(port), 0)
