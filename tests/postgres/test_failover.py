"""One round of tests/postgres/failover.py."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.failover import run_round


class FailoverTests(SynchronousTestCase):
    def test_promoted_standby_has_every_acknowledged_append_once_and_in_order(self) -> None:
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        wrong, report = run_round(directory)
        self.assertEqual(wrong, [], report)
