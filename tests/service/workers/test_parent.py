"""Tests of `durable_streams_tw.service.workers.parent`."""

from __future__ import annotations

from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.workers.parent import ADOPTS_ORPHANS
from tests.service.black_box import run_python

_PROGRAM = """
import os
from twisted.internet import process
from durable_streams_tw.service.workers.parent import adopt_orphans, reap_orphans

class Known:
    def reapProcess(self):
        del process.reapProcessHandlers[known]
        _, status = os.waitpid(known, 0)
        print("exited with", os.waitstatus_to_exitcode(status))

def fork(work):
    child = os.fork()
    if child:
        return child
    work()
    os._exit(3)

adopt_orphans()
read, write = os.pipe()
known = fork(lambda: None)
process.reapProcessHandlers[known] = Known()
os.waitpid(fork(lambda: os.write(write, b"%d" % fork(lambda: None))), 0)
for pid in (known, int(os.read(read, 20))):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
reap_orphans()
try:
    print("left:", os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("none left")
"""


class OrphanTests(SynchronousTestCase):
    def test_reaped(self) -> None:
        """An orphan that has ended is reaped; the status of another child is left to Twisted."""
        if not ADOPTS_ORPHANS:
            raise SkipTest("the system does not let a process adopt orphans")
        done = run_python(_PROGRAM)
        self.assertEqual((done.stdout, done.stderr), ("exited with 3\nnone left\n", ""))
