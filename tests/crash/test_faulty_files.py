"""Tests of fault injection: calls are recorded, and fail by rules."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.faulty_files import KILL, SHORT, SUPPORTED, Call, FaultyFiles, Traced, read_trace
from tests.storage.durable.store_case import scratch_directory

_PROGRAM = """
import errno, os, sys
from tests.crash.faulty_files import mark
os.chdir(sys.argv[1])

def attempt(call, *arguments):
    try:
        print(call(*arguments), end=" ")
    except OSError as error:
        print(errno.errorcode[error.errno], end=" ")

file = os.open("draft", os.O_RDWR | os.O_CREAT, 0o600)
attempt(os.posix_fallocate, file, 0, 20)
attempt(os.write, file, b"0123456789")
attempt(os.pwrite, file, b"abc", 5)
attempt(os.fdatasync, file)
attempt(os.fdatasync, file)
attempt(os.ftruncate, file, 12)
attempt(os.fsync, file)
mark("done")
os.close(file)
attempt(os.rename, "draft", "final")
attempt(os.open, "absent", os.O_RDONLY)
"""


class FaultyFilesTests(SynchronousTestCase):
    """One small program with the preload library."""

    if not SUPPORTED:
        skip = "the layer needs Linux and gcc"

    def setUp(self) -> None:
        scratch = scratch_directory(self)
        self.directory = os.path.join(scratch, "data")
        self.layer = FaultyFiles(scratch, self.directory)
        self.addCleanup(self.layer.close)

    def run_program(self) -> tuple[int, list[str]]:
        """Return the exit code of the program and the results of its calls."""
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, self.directory],
            env={
                **os.environ,
                **self.layer.environment,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.returncode, done.stdout.split()

    def calls(self) -> list[Traced]:
        """Return the trace without OPEN and CLOSE."""
        uninteresting = (Call.OPEN, Call.CLOSE)
        return [call for call in read_trace(self.layer.trace) if call.call not in uninteresting]

    def test_recorded(self) -> None:
        """Calls are recorded in order, with paths, bytes and sizes, and marks between them."""
        self.assertEqual(
            self.run_program(),
            (0, ["None", "10", "3", "None", "None", "None", "None", "None", "ENOENT"]),
        )
        found = [(call.call, call.offset, call.data) for call in self.calls()]
        self.assertEqual(
            found,
            [
                (Call.ALLOCATE, 20, b""),
                (Call.WRITE, 0, b"0123456789"),
                (Call.WRITE, 5, b"abc"),
                (Call.FDATASYNC, 0, b""),
                (Call.FDATASYNC, 0, b""),
                (Call.TRUNCATE, 12, b""),
                (Call.FSYNC, 0, b""),
                (Call.MARK, 0, b"done"),
                (Call.RENAME, 0, b""),
            ],
        )
        renamed = self.calls()[-1]
        names = [os.path.basename(renamed.path), os.path.basename(renamed.other)]
        self.assertEqual(names, ["draft", "final"])

    def test_failing(self) -> None:
        """A rule fails ``count`` calls of its kinds and names, after ``skip``."""
        self.layer.fail({Call.FDATASYNC}, errno.EIO, name="dra*", skip=1, count=1)
        self.layer.fail({Call.ALLOCATE, Call.RENAME}, errno.ENOSPC)
        self.layer.fail({Call.FSYNC}, errno.EIO, name="other")
        self.layer.fail({Call.WRITE}, SHORT, count=1)
        self.assertEqual(
            self.run_program(),
            (0, ["ENOSPC", "5", "3", "None", "EIO", "None", "None", "ENOSPC", "ENOENT"]),
        )
        self.assertEqual(self.layer.hits(), 4)
        self.assertEqual(
            [(call.call, call.result) for call in self.calls() if call.result < 0],
            [
                (Call.ALLOCATE, -errno.ENOSPC),
                (Call.FDATASYNC, -errno.EIO),
                (Call.RENAME, -errno.ENOSPC),
            ],
        )
        self.layer.mend()
        self.assertEqual(self.run_program()[1][0], "None")

    def test_time(self) -> None:
        """A rule expires."""
        self.layer.fail({Call.FSYNC}, errno.EIO, seconds=1e-9)
        self.assertEqual(self.run_program()[1][6], "None")

    def test_killed(self) -> None:
        """A killed process dies in a call, which is in the trace."""
        self.layer.fail({Call.WRITE}, KILL, skip=1)
        self.assertEqual(self.run_program()[0], -signal.SIGKILL)
        last = self.calls()[-1]
        self.assertEqual((last.call, last.data, last.killed), (Call.WRITE, b"abc", True))
        with open(os.path.join(self.directory, "draft"), "rb") as file:
            self.assertEqual(file.read(10), b"01234abc89")
