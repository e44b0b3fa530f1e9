"""Tests of `tools.release` and of the release workflow."""

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
    """Functions of ``python -m tools.release`` that need no network."""

    def refused(self, call: Any, *arguments: Any) -> str:
        """Return the error message of a refused release."""
        return str(self.assertRaises(release.CannotRelease, call, *arguments))

    def test_version(self) -> None:
        self.assertEqual(release.version(), durable_streams_tw.__version__)

    def test_notes(self) -> None:
        """The notes of a version are its section of the changelog."""
        self.assertEqual(release.notes(CHANGELOG, "0.2.0"), "### New\n\n- Much.\n")
        self.assertEqual(release.notes(CHANGELOG, "0.1.0"), "- All of it.\n")
        for missing in ("0.3.0", "0.1", "0.1.00"):
            self.assertIn(missing, self.refused(release.notes, CHANGELOG, missing))

    def test_tag(self) -> None:
        """A release needs a tag equal to the version, and no news fragments."""
        release.check_tag("v0.2.0", "0.2.0", [])
        self.assertIn("0.1.0", self.refused(release.check_tag, "v0.2.0", "0.1.0", []))
        self.assertIn("v0.2", self.refused(release.check_tag, "v0.2", "0.2.0", []))
        self.assertIn("+x.md", self.refused(release.check_tag, "v1.0.0", "1.0.0", ["+x.md"]))

    def test_sums(self) -> None:
        """Checksums have the format of sha256sum, without the checksum file itself."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        (folder / "b").write_bytes(b"two")
        (folder / "a").write_bytes(b"one")
        (folder / release.SUMS).write_bytes(b"old")
        one, two = (hashlib.sha256(data).hexdigest() for data in (b"one", b"two"))
        self.assertEqual(release.sums(folder), f"{one}  a\n{two}  b\n")


class WorkflowTests(SynchronousTestCase):
    """Workflow of a release."""

    def setUp(self) -> None:
        self.text = _WORKFLOW.read_text("utf-8")
        self.jobs: dict[str, Any] = msgspec.yaml.decode(self.text)["jobs"]

    def test_needs_all_jobs(self) -> None:
        """The publishing job needs all other jobs, and it alone has write permissions."""
        last = self.jobs["release"]
        self.assertEqual(sorted([*last["needs"], "release"]), sorted(self.jobs))
        for name in last["needs"]:
            self.assertEqual(self.jobs[name]["permissions"], {"contents": "read"})
        runs = [step.get("run", "") for step in self.jobs["check"]["steps"]]
        self.assertIn(".ci/run", runs)

    def test_scripts_have_no_expressions(self) -> None:
        """Scripts contain no expressions: a tag's name could inject code."""
        for job in self.jobs.values():
            for step in job["steps"]:
                self.assertNotIn("${{", step.get("run", ""))

    def test_calls_the_release_module(self) -> None:
        """The workflow calls the module that is tested here."""
        script = "".join(step.get("run", "") for step in self.jobs["release"]["steps"])
        called = re.findall(r"python -m (tools\.\w+)", script)
        self.assertEqual(called, [release.__name__])
        self.assertIn(release.NOTES, script)
