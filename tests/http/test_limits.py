"""Tests of `durable_streams_tw.http.limits`: limits that have to fit each other."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http import limits
from durable_streams_tw.live.limits import LONG_POLL_TIMEOUT
from durable_streams_tw.storage.limits import MAX_QUEUE


class LimitsTests(SynchronousTestCase):
    """Relations between limits of different parts."""

    def test_values_are_positive_numbers(self) -> None:
        for name, value in vars(limits).items():
            if name.isupper():
                self.assertIsInstance(value, (int, float), name)
                self.assertGreater(value, 0, name)

    def test_largest_body_fits_the_queue_of_the_store(self) -> None:
        self.assertLessEqual(limits.MAX_BODY, MAX_QUEUE)

    def test_idle_connection_outlives_a_long_poll(self) -> None:
        self.assertLess(LONG_POLL_TIMEOUT, limits.IDLE_TIMEOUT)
