"""One round of tests/postgres/failover.py."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.failover import run_round
from tests.service.black_box import new_directory


class FailoverTests(SynchronousTestCase):
    def test_promoted_standby_has_every_acknowledged_append_once_and_in_order(self) -> None:
        directory = new_directory(self)
        wrong, report = run_round(directory)
        self.assertEqual(wrong, [], report)
