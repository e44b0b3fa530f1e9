"""Tests of `tests.conformance.verdict`: failed, skipped and missing tests of the suite
are faults.
"""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.verdict import SUITE_SIZE, judge, pattern

GROUPS = {"Fork - ": "not served yet", "Reserved (APIs)": "not served yet"}


def test_of(group: str, status: str) -> dict[str, Any]:
    """Return a test of a vitest report."""
    return {"ancestorTitles": [group], "title": "does it", "status": status}


def report_of(*tests: dict[str, Any], size: int = SUITE_SIZE) -> dict[str, Any]:
    """Return a vitest report of one file."""
    results = [{"name": "public.test.js", "assertionResults": list(tests)}]
    return {"testResults": results, "numTotalTests": size}


class JudgeTests(SynchronousTestCase):
    """`judge`."""

    left_out = (test_of("Fork - Reading", "skipped"), test_of("Reserved (APIs)", "skipped"))

    def test_good(self) -> None:
        """A report in which all tests pass, except excluded groups, has no faults."""
        verdict = judge(report_of(test_of("Reading", "passed"), *self.left_out), GROUPS)
        self.assertEqual(verdict.faults, ())
        self.assertEqual(verdict.passed, 1)
        self.assertEqual(dict(verdict.excluded), {"Fork - ": 1, "Reserved (APIs)": 1})

    def test_failed(self) -> None:
        """A failed test is a fault, also in an excluded group."""
        for group in ("Reading", "Fork - Reading"):
            verdict = judge(report_of(test_of(group, "failed"), *self.left_out), GROUPS)
            self.assertEqual(verdict.faults, (f"failed: {group} does it",))

    def test_skipped(self) -> None:
        """A skipped test outside the excluded groups is a fault."""
        for status in ("skipped", "pending", "todo"):
            verdict = judge(report_of(test_of("Reading", status), *self.left_out), GROUPS)
            self.assertEqual(len(verdict.faults), 1)
            self.assertIn("not named in excluded.json", verdict.faults[0])

    def test_ran_although_excluded(self) -> None:
        """An excluded test that ran is a fault: the exclusion is no longer needed."""
        verdict = judge(report_of(test_of("Fork - Reading", "passed"), *self.left_out), GROUPS)
        self.assertEqual(verdict.faults, ("ran although it is excluded: Fork - Reading does it",))

    def test_stale_exclusion(self) -> None:
        """An exclusion without tests is a fault."""
        verdict = judge(report_of(test_of("Reading", "passed"), self.left_out[0]), GROUPS)
        self.assertEqual(verdict.faults, ("excluded.json names 'Reserved (APIs)', but no test",))

    def test_suite_size(self) -> None:
        """A report with fewer tests than the pinned suite is a fault."""
        verdict = judge(report_of(*self.left_out, size=2), GROUPS)
        self.assertEqual(verdict.faults, (f"the suite has 2 tests, {SUITE_SIZE} were expected",))
        verdict = judge(report_of(size=0), {})
        self.assertEqual(len(verdict.faults), 2)


class PatternTests(SynchronousTestCase):
    """`pattern`."""

    def test_names_are_literal(self) -> None:
        """Names of groups are matched literally, brackets included."""
        self.assertEqual(pattern(GROUPS), r"^(?!Fork - |Reserved \(APIs\))")

    def test_no_exclusions(self) -> None:
        """Without exclusions every name matches."""
        self.assertEqual(pattern({}), "^")
