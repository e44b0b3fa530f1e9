"""docs/architecture.md names files and folders that exist, and every package."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_TOP = Path(__file__).parent.parent
_SOURCES = _TOP / "src" / "durable_streams_tw"


class ArchitecturePageTests(SynchronousTestCase):
    """The page against the source tree."""

    def setUp(self) -> None:
        self.page = (_TOP / "docs" / "architecture.md").read_text("utf-8")
        self.named = set(re.findall(r"`([a-z0-9_/]+(?:\.py|\.md|/))`", self.page))

    def test_files_exist(self) -> None:
        missing = [
            name
            for name in sorted(self.named)
            if not (_TOP / name).exists() and not (_SOURCES / name).exists()
        ]
        self.assertGreater(len(self.named), 60)
        self.assertEqual(missing, [])

    def test_every_package_is_described(self) -> None:
        packages = {path.parent.name for path in _SOURCES.glob("*/__init__.py")}
        described = {name.rstrip("/") for name in self.named if re.fullmatch("[a-z]+/", name)}
        self.assertEqual(sorted(packages - described), [])

    def test_sections_of_the_protocol(self) -> None:
        """The table has rows for sections 4 to 13."""
        _, _, table = self.page.partition("## Sections of PROTOCOL.md")
        numbers = {int(text) for text in re.findall(r"^\| (\d+)", table, re.MULTILINE)}
        self.assertEqual(numbers, set(range(4, 14)))
