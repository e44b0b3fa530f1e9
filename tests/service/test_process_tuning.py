"""Tests of the process settings: limit of open files, connections, memory allocator."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.process_tuning import (
    MOST_FILES,
    OWN_FILES,
    connections_within,
    raise_file_limit,
)


class FileLimitTests(SynchronousTestCase):
    """Soft limit of open files."""

    def limits(self, soft: int, hard: int) -> list[tuple[int, int]]:
        """Patch the limits of the process; return a list of the limits that it sets."""
        applied: list[tuple[int, int]] = []
        self.patch(resource, "getrlimit", lambda kind: (soft, hard))
        self.patch(resource, "setrlimit", lambda kind, pair: applied.append(pair))
        return applied

    def test_raised(self) -> None:
        for soft, hard, expected in (
            (1024, 524_288, 524_288),
            (1024, 1 << 30, MOST_FILES),
            (1024, resource.RLIM_INFINITY, MOST_FILES),
        ):
            applied = self.limits(soft, hard)
            self.assertEqual(raise_file_limit(), expected)
            self.assertEqual(applied, [(expected, hard)])

    def test_enough(self) -> None:
        """A sufficient limit is not lowered."""
        for soft, hard in ((4096, 4096), (1 << 21, 1 << 21), (resource.RLIM_INFINITY,) * 2):
            applied = self.limits(soft, hard)
            self.assertEqual(raise_file_limit(), MOST_FILES if soft < 0 else soft)
            self.assertEqual(applied, [])

    def test_refused(self) -> None:
        """If the limit cannot be raised, a warning is logged and the server continues."""

        def refuse(kind: int, pair: tuple[int, int]) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.limits(1024, 4096)
        self.patch(resource, "setrlimit", refuse)
        with capturedLogs() as events:
            self.assertEqual(raise_file_limit(), 1024)
        self.assertEqual(events[0]["reason"], "not allowed to raise maximum limit")

    def test_connections(self) -> None:
        """The maximum of connections reserves file descriptors for the server."""
        self.assertEqual(connections_within(1024, 100), 100)
        self.assertEqual(connections_within(1024, 100_000), 1024 - OWN_FILES)
        self.assertEqual(connections_within(1024, 0), 1024 - OWN_FILES)
        self.assertEqual(connections_within(64, 0), 32)
        self.assertEqual(connections_within(1, 0), 1)


#: Frees a buffer of 24 MiB, then prints the resident KiB before and after freeing one of 16 MiB
#: that lies below a small block.
FREE_BUFFERS = """
import ctypes, re
from durable_streams_tw.service import process_tuning
{tune}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
def allocate(size):
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    return ctypes.c_void_p(block)
libc.free(allocate(24 << 20))
large, small = allocate(16 << 20), allocate(1000)
before = resident()
libc.free(large)
print(before, resident())
"""


class AllocatorTests(SynchronousTestCase):
    """Return of freed buffers to the system."""

    def freed(self, tune: str) -> int:
        """Run `FREE_BUFFERS` in a process; return the bytes that its last call of free returned."""
        program = FREE_BUFFERS.format(tune=tune)
        output = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        before, after = map(int, re.findall(r"\d+", output))
        return (before - after) << 10

    def test_large_buffer(self) -> None:
        """A tuned process returns a freed buffer to the system; glibc's default keeps it."""
        self.assertGreater(self.freed("process_tuning.tune()"), 15 << 20)
        self.assertLess(self.freed(""), 1 << 20)
