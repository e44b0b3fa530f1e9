"""What is released, and what is not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
from tools import release
from twisted.trial.unittest import SynchronousTestCase

import durable_streams_tw

_WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "release.yml"

CHANGELOG = """# Changelog

<!-- release notes start -->
## 0.2.0 (2027-01-02)

### New

- Much.

## 0.1.0 (2026-12-01)

- All of it.
"""


class ReleaseTests(SynchronousTestCase):
    """The parts of ``python -m tools.release`` that need no network."""

    def refused(self, call: Any, *arguments: Any) -> str:
        """The sentence that something is refused with."""
        return str(self.assertRaises(release.CannotRelease, call, *arguments))

    def test_version(self) -> None:
        self.assertEqual(release.version(), durable_streams_tw.__version__)

    def test_notes(self) -> None:
        """One version's section, up to the next."""
        self.assertEqual(release.notes(CHANGELOG, "0.2.0"), "### New\n\n- Much.\n")
        self.assertEqual(release.notes(CHANGELOG, "0.1.0"), "- All of it.\n")
        for missing in ("0.3.0", "0.1", "0.1.00"):
            self.assertIn(missing, self.refused(release.notes, CHANGELOG, missing))

    def test_tag(self) -> None:
        """A tag, a version and an empty folder of news belong together."""
        release.check_tag("v0.2.0", "0.2.0", [])
        self.assertIn("0.1.0", self.refused(release.check_tag, "v0.2.0", "0.1.0", []))
        self.assertIn("v0.2", self.refused(release.check_tag, "v0.2", "0.2.0", []))
        self.assertIn("+x.md", self.refused(release.check_tag, "v1.0.0", "1.0.0", ["+x.md"]))

    def test_sums(self) -> None:
        """As sha256sum writes them, and not of themselves."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        (folder / "b").write_bytes(b"two")
        (folder / "a").write_bytes(b"one")
        (folder / release.SUMS).write_bytes(b"old")
        one, two = (hashlib.sha256(data).hexdigest() for data in (b"one", b"two"))
        self.assertEqual(release.sums(folder), f"{one}  a\n{two}  b\n")


class WorkflowTests(SynchronousTestCase):
    """The file that a forge reads."""

    def setUp(self) -> None:
        self.text = _WORKFLOW.read_text("utf-8")
        self.jobs: dict[str, Any] = msgspec.yaml.decode(self.text)["jobs"]

    def test_nothing_is_released_unchecked(self) -> None:
        """All other jobs come first, and only the last may write."""
        last = self.jobs["release"]
        self.assertEqual(sorted([*last["needs"], "release"]), sorted(self.jobs))
        for name in last["needs"]:
            self.assertEqual(self.jobs[name]["permissions"], {"contents": "read"})
        runs = [step.get("run", "") for step in self.jobs["check"]["steps"]]
        self.assertIn(".ci/run", runs)

    def test_no_expressions_in_scripts(self) -> None:
        """A tag's name is data: in a script it would be code."""
        for job in self.jobs.values():
            for step in job["steps"]:
                self.assertNotIn("${{", step.get("run", ""))

    def test_what_it_calls_is_there(self) -> None:
        """The release is made by the module that is tested here."""
        script = "".join(step.get("run", "") for step in self.jobs["release"]["steps"])
        called = re.findall(r"python -m (tools\.\w+)", script)
        self.assertEqual(called, [release.__name__])
        self.assertIn(release.NOTES, script)
