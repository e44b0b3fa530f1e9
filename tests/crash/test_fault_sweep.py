"""Tests of a server under a few faults of `fault_sweep`.

``python -m tests.crash.fault_sweep`` runs all of them.
"""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.fault_sweep import META_AND_SYNC, Fault, Sweep
from tests.crash.faulty_files import SHORT, SUPPORTED, Call

_ALL = frozenset(Call) - {Call.MARK}
_FAULTS = (
    Fault(frozenset({Call.FDATASYNC}), "journal.*", errno.EIO, "once"),
    Fault(frozenset({Call.WRITE}), "data.mdb", SHORT, "five times"),
    Fault(_ALL, "*", errno.EIO, "five times"),
    Fault(frozenset({Call.CLOSE, Call.WRITE}), "journal.*", errno.EIO, "five times"),
    Fault(frozenset({Call.WRITE}), "*", errno.ENOSPC, "seconds"),
    Fault(_ALL, "*", errno.EIO, "seconds"),
    META_AND_SYNC,
)


class FaultSweepTests(SynchronousTestCase):
    """Server under load whose disk fails temporarily."""

    if not SUPPORTED:
        skip = "the layer under a server's files needs Linux and gcc"

    def test_faults(self) -> None:
        """Responses are correct during a fault; afterwards the server works and no acknowledged
        message is lost.
        """
        sweep = Sweep(seconds=2.5, within=20)
        self.addCleanup(sweep.close)
        for fault in _FAULTS:
            sweep.run(fault)
        sweep.finish()
