"""Test case with assertions on refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused


class RefusalTestCase(SynchronousTestCase):
    """Test case with assertions on refusals."""

    def assertRefused(self, problem: Problem, call: Callable[..., Any], *args: Any) -> Refusal:
        """Assert that a call raises `Refused` with a problem; return the refusal."""
        try:
            result = call(*args)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem, problem)
            return refused.refusal
        raise self.failureException(f"{args!r} was accepted as {result!r}")

    def assertRefusal(self, problem: Problem, outcome: object) -> Refusal:
        """Assert that an outcome is a refusal with a problem; return it."""
        if not isinstance(outcome, Refusal):
            raise self.failureException(f"not refused: {outcome!r}")
        self.assertEqual(outcome.problem, problem)
        return outcome
