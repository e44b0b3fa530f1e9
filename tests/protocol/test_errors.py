"""Tests of `durable_streams_tw.protocol.errors`."""

from __future__ import annotations

import re

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from tests.protocol.refusing import RefusingTestCase


class ProblemTests(RefusingTestCase):
    """The registry of problems."""

    def test_distinct(self) -> None:
        """Every problem has a slug of its own, and none is an alias of another."""
        slugs = [problem.slug for problem in Problem]
        self.assertEqual(len(set(slugs)), len(Problem.__members__))
        for slug in slugs:
            self.assertRegex(slug, re.compile(r"\A[a-z]+(-[a-z]+)*\Z"))

    def test_statuses(self) -> None:
        """The protocol's statuses, and those of the server's own bounds."""
        statuses = {
            *(400, 401, 403, 404, 405, 408, 409, 410, 413, 414, 415, 429, 431),
            *(500, 503, 507),
        }
        for problem in Problem:
            self.assertIn(problem.status, statuses, problem)
            self.assertTrue(problem.title)

    def test_types_are_stable(self) -> None:
        """Clients may match on them, so they do not change with the enumeration's names."""
        self.assertEqual(Problem.STREAM_CLOSED.type, "urn:durable-streams:problem:stream-closed")
        self.assertEqual(Problem.STALE_EPOCH.type, "urn:durable-streams:problem:stale-epoch")


class RefusedTests(RefusingTestCase):
    """Refusals as exceptions."""

    def test_carries_a_refusal(self) -> None:
        """The value and the exception say the same."""
        refused = Refused(Problem.NOT_FOUND, "not here", ((b"X", b"1"),))
        self.assertEqual(refused.refusal, Refusal(Problem.NOT_FOUND, "not here", ((b"X", b"1"),)))
        self.assertEqual(str(refused), "not here")
