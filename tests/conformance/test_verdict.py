"""A run of the public suite counts as good only when nothing failed and nothing hid."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.verdict import SUITE_SIZE, judge, pattern

GROUPS = {"Fork - ": "not served yet", "Reserved (APIs)": "not served yet"}


def test_of(group: str, status: str) -> dict[str, Any]:
    """One test of a vitest report."""
    return {"ancestorTitles": [group], "title": "does it", "status": status}


def report_of(*tests: dict[str, Any], size: int = SUITE_SIZE) -> dict[str, Any]:
    """A vitest report of one file."""
    results = [{"name": "public.test.js", "assertionResults": list(tests)}]
    return {"testResults": results, "numTotalTests": size}


class JudgeTests(SynchronousTestCase):
    """``judge``."""

    left_out = (test_of("Fork - Reading", "skipped"), test_of("Reserved (APIs)", "skipped"))

    def test_good(self) -> None:
        """All passed but the groups that are left out by name."""
        verdict = judge(report_of(test_of("Reading", "passed"), *self.left_out), GROUPS)
        self.assertEqual(verdict.faults, ())
        self.assertEqual(verdict.passed, 1)
        self.assertEqual(dict(verdict.excluded), {"Fork - ": 1, "Reserved (APIs)": 1})

    def test_failed(self) -> None:
        """A failed test is a fault, in an excluded group too."""
        for group in ("Reading", "Fork - Reading"):
            verdict = judge(report_of(test_of(group, "failed"), *self.left_out), GROUPS)
            self.assertEqual(verdict.faults, (f"failed: {group} does it",))

    def test_skipped_in_silence(self) -> None:
        """A test that did not run, and that nobody named, is a fault."""
        for status in ("skipped", "pending", "todo"):
            verdict = judge(report_of(test_of("Reading", status), *self.left_out), GROUPS)
            self.assertEqual(len(verdict.faults), 1)
            self.assertIn("not named in excluded.json", verdict.faults[0])

    def test_ran_although_excluded(self) -> None:
        """An exclusion that did not take effect is a fault: its reason has gone."""
        verdict = judge(report_of(test_of("Fork - Reading", "passed"), *self.left_out), GROUPS)
        self.assertEqual(verdict.faults, ("ran although it is excluded: Fork - Reading does it",))

    def test_stale_exclusion(self) -> None:
        """An exclusion that names no test is a fault."""
        verdict = judge(report_of(test_of("Reading", "passed"), self.left_out[0]), GROUPS)
        self.assertEqual(verdict.faults, ("excluded.json names 'Reserved (APIs)', but no test",))

    def test_shrunken_suite(self) -> None:
        """Fewer tests than the pinned suite has, or none at all, are a fault."""
        verdict = judge(report_of(*self.left_out, size=2), GROUPS)
        self.assertEqual(verdict.faults, (f"the suite has 2 tests, {SUITE_SIZE} were expected",))
        verdict = judge(report_of(size=0), {})
        self.assertEqual(len(verdict.faults), 2)


class PatternTests(SynchronousTestCase):
    """``pattern``."""

    def test_names_are_literal(self) -> None:
        """A group's name is text; its brackets group nothing."""
        self.assertEqual(pattern(GROUPS), r"^(?!Fork - |Reserved \(APIs\))")

    def test_nothing_left_out(self) -> None:
        """Without exclusions every name matches."""
        self.assertEqual(pattern({}), "^")
