"""Tests with a few rounds of `tests.service.kill_workers`."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from tests.service.kill_workers import run

ROUNDS = int(os.environ.get("KILL_ROUNDS", "3"))


class KillTests(SynchronousTestCase):
    """Nothing acknowledged is lost or repeated, whichever process is killed."""

    def check(self, store: str) -> None:
        printed = StringIO()
        with redirect_stdout(printed):
            # Other tests run beside this one: no figure of a busy machine is asserted here.
            run(ROUNDS, workers=2, store=store, seed="usual", within=60.0)
        self.assertIn(f"{ROUNDS} rounds", printed.getvalue())

    def test_durable_store(self) -> None:
        self.check("lmdb")

    def test_memory_store(self) -> None:
        self.check("memory")
