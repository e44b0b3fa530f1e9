"""Tests of a stream of 100 MB with several readers: correct bytes, bounded memory."""

from __future__ import annotations

import os
from zlib import crc32

from twisted.python.runtime import platform
from twisted.trial.unittest import SynchronousTestCase

from tests.crash.processes import DriverProcess
from tests.storage.durable.store_case import scratch_directory

_APPENDS = 100
_APPEND = 2**20
_READERS = 4
_MEMORY = 40 * 2**20
"""Limit of the additional memory of the reading process: a few chunks for each reader."""


class LargeStreamTests(SynchronousTestCase):
    """Store in a process whose memory is measured."""

    if not platform.isLinux():
        skip = "the system does not say how much memory another process takes"

    def test_read_by_four(self) -> None:
        scratch = scratch_directory(self)
        directory = os.path.join(scratch, "data")
        writer = DriverProcess(directory)
        writer.ask("create", "a", "")
        for number in range(_APPENDS):
            self.assertEqual(writer.ask("repeat", "a", f"{number:07d},", _APPEND // 8)[0], "done")
        writer.stop()
        reader = DriverProcess(directory)
        before = reader.resident()
        most = 0
        positions = [0] * _READERS
        tail = _APPENDS * _APPEND
        asked = {reader.send("digest", "a", 0): index for index in range(_READERS)}
        while asked:
            for sent, outcome, *found in reader.answers(60.0):
                self.assertEqual(outcome, "digest")
                size, digest, end = found
                index = asked.pop(sent)
                position = positions[index]
                self.assertEqual(end, tail)
                self.assertEqual(digest, crc32(self.expected(position, size)))
                positions[index] += size
                if positions[index] < tail:
                    asked[reader.send("digest", "a", positions[index])] = index
            most = max(most, reader.resident())
        self.assertEqual(positions, [tail] * _READERS)
        self.assertLess(most - before, _MEMORY)
        reader.stop()

    def expected(self, start: int, size: int) -> bytes:
        """Return the bytes written at a position."""
        first, last = start // _APPEND, (start + size - 1) // _APPEND
        text = "".join([f"{number:07d}," * (_APPEND // 8) for number in range(first, last + 1)])
        return text[start - first * _APPEND :][:size].encode()
