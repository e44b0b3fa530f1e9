"""Tests of `durable_streams_tw.http.body_budget`, without connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.limits import LARGE_BODY


class _Upload:
    """Holder that drops its body when refused."""

    def __init__(self, budget: BodyBudget) -> None:
        self.held = 0
        self.refused = 0
        self._budget = budget

    def refuse_body(self) -> None:
        self.refused += 1
        self._budget.account(self, 0, arriving=False)


class BodyBudgetTests(SynchronousTestCase):
    """Choice of the body to refuse, and counting of bytes."""

    def setUp(self) -> None:
        self.budget = BodyBudget(10 * LARGE_BODY)

    def upload(self, size: int) -> _Upload:
        """Account for a body of this many bytes."""
        upload = _Upload(self.budget)
        self.assertTrue(self.budget.account(upload, size * LARGE_BODY, arriving=True))
        return upload

    def test_the_largest_makes_room(self) -> None:
        """A small body is accepted while large ones use the budget up."""
        large = [self.upload(4), self.upload(5)]
        small = self.upload(2)
        self.assertEqual([one.refused for one in (*large, small)], [0, 1, 0])
        self.assertEqual(self.budget.held, 6 * LARGE_BODY)

    def test_the_largest_itself(self) -> None:
        """The caller is refused if its body is the largest."""
        other, own = self.upload(4), self.upload(5)
        self.assertFalse(self.budget.account(own, 7 * LARGE_BODY, arriving=True))
        self.assertEqual((other.refused, own.refused), (0, 0))

    def test_complete_bodies_stay(self) -> None:
        """A complete body is never dropped, and counts until its response."""
        complete = self.upload(9)
        self.budget.account(complete, 9 * LARGE_BODY, arriving=False)
        own = _Upload(self.budget)
        self.assertFalse(self.budget.account(own, 2 * LARGE_BODY, arriving=True))
        self.assertEqual(complete.refused, 0)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.booleans())))
    def test_bound(self, steps: list[tuple[int, int, bool]]) -> None:
        """Incomplete bodies fit the budget, and its count is the sum of the holders'."""
        budget = BodyBudget(10 * LARGE_BODY)
        uploads = [_Upload(budget) for _ in range(6)]
        for index, size, arriving in steps:
            upload = uploads[index]
            before = budget.held
            if not budget.account(upload, size * LARGE_BODY, arriving):
                upload.refuse_body()
            self.assertEqual(budget.held, sum(one.held for one in uploads))
            if arriving:
                self.assertLessEqual(budget.held, max(budget.limit, before))
        for upload in uploads:
            budget.account(upload, 0, arriving=False)
        self.assertEqual((budget.held, len(budget._large)), (0, 0))
