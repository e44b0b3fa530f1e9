"""Start and stop in order, and what an operator is told when there is no start."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service import process_tuning
from durable_streams_tw.service.startup import CannotStart, ServiceGroup, StderrReporter
from durable_streams_tw.storage.errors import StoreUnusable
from tests.service.black_box import PATIENCE, environment


class Part(Service):
    """A service that writes down what happens to it."""

    def __init__(self, name: str, diary: list[str], trouble: Exception | None = None) -> None:
        self.label = name
        self.diary = diary
        self.trouble = trouble
        self.stopped: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        """Open."""
        self.diary.append(f"open {self.label}")

    def startService(self) -> None:
        """Start, or not."""
        if self.trouble is not None:
            raise self.trouble
        self.diary.append(f"start {self.label}")

    def stopService(self) -> Deferred[None]:
        """Stop, when the test says."""
        self.diary.append(f"stop {self.label}")
        return self.stopped


class PreloadTests(SynchronousTestCase):
    """A running server imports nothing."""

    def test_no_late_imports(self) -> None:
        """An upgrade in place and a lack of file descriptors do not harm it."""
        program = Path(__file__).with_name("late_imports.py")
        done = subprocess.run(
            [sys.executable, program, self.mktemp()],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(json.loads(done.stdout.splitlines()[-1]), [], done.stderr)


class StartupTests(SynchronousTestCase):
    """Services in a row."""

    def setUp(self) -> None:
        self.patch(sys, "excepthook", sys.excepthook)
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        self.diary: list[str] = []
        self.said: list[str] = []
        self.service = ServiceGroup(self.said.append, lambda: self.diary.append("started"))

    def part(self, name: str, trouble: Exception | None = None) -> Part:
        """One more service."""
        part = Part(name, self.diary, trouble)
        part.setServiceParent(self.service)
        return part

    def test_order(self) -> None:
        """In the order in which they were added; all of them open before any starts."""
        self.part("a")
        self.part("b")
        self.service.privilegedStartService()
        self.service.startService()
        self.assertEqual(self.diary, ["open a", "open b", "start a", "start b", "started"])
        self.assertAlmostEqual(sys.getswitchinterval(), process_tuning.SWITCH_INTERVAL)
        self.assertEqual(gc.get_threshold(), process_tuning.COLLECTIONS)
        self.assertGreater(gc.get_freeze_count(), 0)
        self.assertEqual(self.said, [])

    def test_stop(self) -> None:
        """One after the other, in reverse."""
        a, b = self.part("a"), self.part("b")
        self.service.startService()
        self.diary.clear()
        stopped = self.service.stopService()
        self.assertEqual(self.diary, ["stop b"])
        b.stopped.callback(None)
        self.assertEqual(self.diary, ["stop b", "stop a"])
        self.assertNoResult(stopped)
        a.stopped.callback(None)
        self.successResultOf(stopped)

    def test_stop_with_trouble(self) -> None:
        """What cannot stop holds nobody up, and is logged."""
        a, b = self.part("a"), self.part("b")
        self.service.startService()
        stopped = self.service.stopService()
        b.stopped.errback(RuntimeError("stuck"))
        a.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_no_start(self) -> None:
        """A sentence, no traceback; what twistd passes on points to it."""
        for trouble in (StoreUnusable("the disk is full of sand"), CannotStart("no such port")):
            self.said.clear()
            self.setUp()
            self.part("a", trouble)
            error = self.assertRaises(CannotStart, self.service.startService)
            self.assertEqual(self.said, [str(trouble)])
            self.assertNotIn("started", self.diary)
            self.assertIsNone(error.__cause__)
            # What the process_tuning does at its end prints nothing, so that status 1 is all.
            self.assertEqual(self.printed(error), b"")
            self.assertIn(b"ValueError: a bug", self.printed(ValueError("a bug")))

    def test_bug(self) -> None:
        """A bug stays what it is."""
        before = sys.excepthook
        self.part("a", ZeroDivisionError("a bug"))
        self.assertRaises(ZeroDivisionError, self.service.startService)
        self.assertEqual(self.said, [])
        self.assertIs(sys.excepthook, before)

    def printed(self, error: Exception) -> bytes:
        """What the process_tuning would print, ended by this."""
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as stream:
            self.patch(sys, "stderr", stream)
            sys.excepthook(type(error), error, None)
        with os.fdopen(reading, "rb") as result:
            return result.read()


class MouthTests(SynchronousTestCase):
    """stderr, or a copy of it."""

    def test_copy(self) -> None:
        """The copy says what it has to say, and is let go."""
        mouth = StderrReporter(keep=True)
        copy = mouth._descriptor
        self.assertTrue(os.path.sameopenfile(copy, 2))
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.dup2(writing, copy)
        os.close(writing)
        mouth.report("it is late")
        mouth.close()
        self.assertEqual(os.read(reading, 100), b"durable-streams: it is late\n")
        self.assertEqual(os.read(reading, 100), b"")
        self.assertRaises(OSError, os.fstat, copy)

    def test_stderr_itself(self) -> None:
        """In the foreground there is nothing to copy, or to close."""
        mouth = StderrReporter(keep=False)
        self.assertEqual(mouth._descriptor, 2)
        mouth.close()
        os.fstat(2)
