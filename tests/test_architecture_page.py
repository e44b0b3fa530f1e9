"""docs/architecture.md names files and folders that exist, and every package."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_TOP = Path(__file__).parent.parent
_SOURCES = _TOP / "src" / "durable_streams_tw"

# Sections of PROTOCOL.md from 4 on, without those that only introduce others.
_SECTIONS = (
    *("4", "4.1", "4.2"),
    *("5.1", "5.2", "5.2.1", "5.3", "5.4", "5.5", "5.6", "5.7", "5.8"),
    *("6", "6.1", "6.2", "6.3", "6.4", "6.5"),
    *("7", "7.1", "7.2", "7.3"),
    *("8", "9", "9.1", "10.1", "10.2", "11.1", "11.2"),
    *(f"12.{number}" for number in range(1, 12)),
    *("13.1", "13.2"),
)


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
        """The table names each section that a server implements once, or in a range."""
        _, _, table = self.page.partition("## Sections of PROTOCOL.md")
        numbers = []
        for cell in re.findall(r"^\| (\d[^|]*)", table, re.MULTILINE):
            for first, last in re.findall(r"([\d.]*\d)(?:-([\d.]*\d))?", cell):
                chapter, _, number = first.rpartition(".")
                stop = int(last.rpartition(".")[2] or number)
                numbers += [
                    f"{chapter}.{each}".lstrip(".") for each in range(int(number), stop + 1)
                ]
        self.assertEqual(sorted(numbers), sorted(_SECTIONS))
