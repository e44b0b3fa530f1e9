"""Tests of `durable_streams_tw.protocol.errors`."""

from __future__ import annotations

import re
from http import HTTPStatus

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from tests.protocol.refusal_case import RefusalTestCase


class ProblemTests(RefusalTestCase):
    """Table of problems."""

    def test_distinct(self) -> None:
        """Each problem has its own slug."""
        slugs = [problem.slug for problem in Problem]
        self.assertEqual(len(set(slugs)), len(Problem.__members__))
        for slug in slugs:
            self.assertRegex(slug, re.compile(r"\A[a-z]+(-[a-z]+)*\Z"))

    def test_statuses(self) -> None:
        """Each problem has an error status and a title; those of the protocol have its statuses."""
        for problem in Problem:
            self.assertGreaterEqual(HTTPStatus(problem.status), 400)
            self.assertTrue(problem.title)
        for status, problems in (
            (400, (Problem.MALFORMED_OFFSET, Problem.EMPTY_BODY, Problem.INVALID_JSON)),
            (400, (Problem.MALFORMED_FIELD, Problem.EPOCH_WITHOUT_RESTART, Problem.INVALID_FORK)),
            (403, (Problem.STALE_EPOCH,)),
            (404, (Problem.STREAM_NOT_FOUND,)),
            (409, (Problem.STREAM_CLOSED, Problem.CONTENT_TYPE_MISMATCH, Problem.SEQUENCE_GAP)),
            (409, (Problem.SEQUENCE_REGRESSION, Problem.STREAM_EXISTS, Problem.PATH_HELD)),
            (409, (Problem.SOURCE_GONE,)),
            (410, (Problem.STREAM_GONE,)),
            (413, (Problem.BODY_TOO_LARGE, Problem.TOO_MANY_MESSAGES)),
            (415, (Problem.UNSUPPORTED_ENCODING,)),
            (507, (Problem.STORAGE_FULL,)),
        ):
            self.assertEqual([problem.status for problem in problems], [status] * len(problems))

    def test_types_are_stable(self) -> None:
        """Type URNs are fixed, since clients compare them."""
        self.assertEqual(Problem.STREAM_CLOSED.type, "urn:durable-streams:problem:stream-closed")
        self.assertEqual(Problem.STALE_EPOCH.type, "urn:durable-streams:problem:stale-epoch")


class RefusedTests(RefusalTestCase):
    """`Refused`."""

    def test_refusal(self) -> None:
        """The exception has the refusal and its text."""
        refused = Refused(Problem.NOT_FOUND, "not here", ((b"X", b"1"),))
        self.assertEqual(refused.refusal, Refusal(Problem.NOT_FOUND, "not here", ((b"X", b"1"),)))
        self.assertEqual(str(refused), "not here")
