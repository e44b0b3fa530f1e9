"""Tests of `durable_streams_tw.protocol.subscriptions.retries`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import RETRY_JITTER, RETRY_LAST_MS
from durable_streams_tw.protocol.subscriptions.retries import retry_delay


class RetryDelayTests(SynchronousTestCase):
    """`retry_delay`."""

    @given(st.integers(1, 10**6), st.floats(0, 1))
    def test_delay(self, failures: int, chance: float) -> None:
        """The delay doubles from one second to sixty, with 20 % jitter."""
        base = min(1000 * 2 ** min(failures - 1, 20), RETRY_LAST_MS)
        delay = retry_delay(failures, chance)
        self.assertLessEqual(abs(delay - base), base * RETRY_JITTER + 0.5)
        self.assertLessEqual(delay, retry_delay(failures, 1.0))
        self.assertGreaterEqual(delay, retry_delay(failures, 0.0))
