"""Tests that the commands of docs/how-to/workers.md are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.twistd_options import Options

_PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "workers.md"
_COMMAND = re.compile(r"(?:durable-streams-server run|twistd -n durable-streams) ([^`\n]+)")


class PageTests(SynchronousTestCase):
    def test_commands(self) -> None:
        """Both commands accept the options that the page shows."""
        commands = _COMMAND.findall(_PAGE.read_text("utf-8"))
        self.assertEqual(len(commands), 2)
        for command in commands:
            options = Options()
            options.environment = {}  # type: ignore[misc]
            options.parseOptions([*shlex.split(command), "--port=0"])
            self.assertGreaterEqual(options.configuration["workers"], 1)
