"""Tests of progress bars on a terminal."""

from __future__ import annotations

import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.progress import SMALL, ReadProgress


class ReadProgressTests(SynchronousTestCase):
    """`ReadProgress` with a pseudo-terminal as standard error."""

    def shown(self, *batches: tuple[int, int | None], descriptor: int | None = None) -> str:
        """Return the text on the terminal after batches of a read."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        with (
            open(theirs, "w") as terminal,
            open(os.devnull, "wb") as output,
            patch("sys.stderr", terminal),
            ReadProgress(theirs if descriptor else output.fileno()) as progress,
        ):
            for size, remaining in batches:
                progress.update(size, remaining)
            terminal.write("|")
            terminal.flush()
            shown = ""
            while not shown.endswith("|"):
                shown += os.read(ours, 100_000).decode()
            return shown

    def test_large_read(self) -> None:
        """The bar of a large response ends at 100 %, with the last of its batches."""
        shown = self.shown((SMALL, SMALL), (SMALL, 0), (0, 0))
        self.assertIn("Reading", shown)
        self.assertIn(" 50%", shown)
        self.assertRegex(shown, r"100%[^%]*\|$")

    def test_no_bar(self) -> None:
        """Small responses, unknown lengths and data on a terminal have no bar."""
        self.assertEqual(self.shown((SMALL, 0), (SMALL - 1, 1)), "|")
        self.assertEqual(self.shown((2 * SMALL, None), (2 * SMALL, None)), "|")
        self.assertEqual(self.shown((SMALL, SMALL), descriptor=1), "|")
