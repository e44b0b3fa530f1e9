"""Tests of the units of docs/how-to/systemd with systemd-analyze."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.examples.blocks import one

_UNITS = Path(__file__).parents[2] / "docs" / "how-to" / "systemd"
_COMMAND = "/opt/durable-streams/bin/durable-streams-server"
# Out of ten. The rest is network access, and memory that is writable and executable.
_EXPOSURE = 2.0


class UnitTests(SynchronousTestCase):
    """Both units in a directory."""

    def setUp(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd-analyze is not installed")
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir(parents=True)
        for unit in _UNITS.iterdir():
            # systemd checks that the command exists, which is not the case here.
            text = unit.read_text("utf-8").replace(_COMMAND, sys.executable)
            (self.directory / unit.name).write_text(text, "utf-8")

    def analyze(self, *arguments: str) -> str:
        """Return the output of systemd-analyze."""
        done = subprocess.run(
            ["systemd-analyze", *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_known_settings(self) -> None:
        """systemd knows all settings, except those that older versions lack."""
        self.assertIn(_COMMAND, (_UNITS / "durable-streams.service").read_text("utf-8"))
        version = int(self.analyze("--version").split()[1].partition(".")[0].partition("~")[0])
        for kind in ("service", "socket"):
            path = str(self.directory / f"durable-streams.{kind}")
            said = self.analyze("verify", "--man=no", path).splitlines()
            if version < 253:
                said = [line for line in said if not line.endswith("ignoring: notify-reload")]
            # It also checks the units that this one depends on.
            ours = [line for line in said if "durable-streams" in line]
            self.assertEqual(ours, [])

    def test_drop_in(self) -> None:
        """systemd knows the settings of the drop-in, and names one that it does not know."""
        place = self.directory / "durable-streams.service.d"
        place.mkdir()
        text = one("docs/how-to/systemd.md", "ini")
        for added, named in (("", 0), ("Nonsense=1", 1)):
            (place / "override.conf").write_text(f"{text}{added}\n", "utf-8")
            path = str(self.directory / "durable-streams.service")
            said = self.analyze("verify", "--man=no", path).splitlines()
            self.assertEqual(len([line for line in said if "override.conf" in line]), named, said)

    def test_hardened(self) -> None:
        """systemd's exposure score of the service is low."""
        path = str(self.directory / "durable-streams.service")
        said = self.analyze("security", "--offline=true", "--no-pager", path)
        found = re.search(r"Overall exposure level for durable-streams\.service: ([0-9.]+)", said)
        assert found is not None, said
        self.assertLess(float(found[1]), _EXPOSURE)
