"""Tests of the pause before a worker restarts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.workers.limits import (
    MAX_RESTART_PAUSE,
    QUICK_RESTARTS,
    RESTART_WINDOW,
)
from durable_streams_tw.service.workers.restarts import RestartBackoff


class RestartBackoffTests(SynchronousTestCase):
    def test_pauses_grow(self) -> None:
        """A worker that ends at once restarts ten times at once, and then later and later."""
        backoff = RestartBackoff()
        now, pauses = 0.0, []
        for _ in range(QUICK_RESTARTS + 8):
            pauses.append(backoff.pause(now, now + 0.5))
            now += 0.5 + pauses[-1]
        self.assertEqual(pauses, [0] * QUICK_RESTARTS + [1, 2, 4, 8, 16, 30, 30, 30])
        self.assertEqual(pauses[-1], MAX_RESTART_PAUSE)

    def test_rare_ends(self) -> None:
        """A worker that runs for a while between its ends restarts at once."""
        backoff = RestartBackoff()
        ends = [number * RESTART_WINDOW for number in range(1, 9)]
        pauses = {backoff.pause(end - RESTART_WINDOW, end) for end in ends}
        self.assertEqual(pauses, {0.0})

    def test_recovery(self) -> None:
        """A worker that has run for a while after a pause restarts at once again."""
        backoff = RestartBackoff()
        pauses = [backoff.pause(0, 0.1) for _ in range(QUICK_RESTARTS + 1)]
        self.assertEqual(pauses, [0] * QUICK_RESTARTS + [1])
        self.assertEqual(backoff.pause(100, 100 + RESTART_WINDOW), 0)
