"""Tests of `durable_streams_tw.service.startup`: order of start and stop, and start errors."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import PredicateResult
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service import process_tuning
from durable_streams_tw.service.run import _not_reported
from durable_streams_tw.service.startup import (
    NOT_STARTED,
    CannotStart,
    ServiceGroup,
    StderrReporter,
)
from durable_streams_tw.storage.errors import StoreUnusable
from tests.service.black_box import PATIENCE, environment


class RecordedService(Service):
    """Service that records its calls."""

    def __init__(self, name: str, events: list[str], error: Exception | None = None) -> None:
        self.label = name
        self.events = events
        self.error = error
        self.stopped: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        """Record the opening."""
        self.events.append(f"open {self.label}")

    def startService(self) -> None:
        """Record the start, or raise."""
        if self.error is not None:
            raise self.error
        self.events.append(f"start {self.label}")

    def stopService(self) -> Deferred[None]:
        """Record the stop; its Deferred is the test's."""
        self.events.append(f"stop {self.label}")
        return self.stopped


class LogFilterTests(SynchronousTestCase):
    """Filter of the log of ``run``."""

    def test_only_the_failed_start_is_dropped(self) -> None:
        """The event about a failed start is dropped, since stderr has it; others are logged."""
        self.assertIs(_not_reported({"log_format": NOT_STARTED, "reason": "x"}), PredicateResult.no)
        for event in ({"log_format": "{reason}", "reason": "x"}, {"sentence": "x"}, {}):
            self.assertIs(_not_reported(event), PredicateResult.maybe)


class PreloadTests(SynchronousTestCase):
    """Imports of a running server."""

    def test_no_late_imports(self) -> None:
        """A running server imports nothing: an upgraded package or exhausted descriptors do not
        break it.
        """
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
    """`ServiceGroup`."""

    def setUp(self) -> None:
        self.patch(sys, "excepthook", sys.excepthook)
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        self.events: list[str] = []
        self.reported: list[str] = []
        self.service = ServiceGroup(self.reported.append, lambda: self.events.append("started"))

    def part(self, name: str, error: Exception | None = None) -> RecordedService:
        """Add a service."""
        part = RecordedService(name, self.events, error)
        part.setServiceParent(self.service)
        return part

    def test_order(self) -> None:
        """All services open before the first one starts, in the order of their addition."""
        self.part("a")
        self.part("b")
        self.service.privilegedStartService()
        self.service.startService()
        self.assertEqual(self.events, ["open a", "open b", "start a", "start b", "started"])
        self.assertAlmostEqual(sys.getswitchinterval(), process_tuning.SWITCH_INTERVAL)
        self.assertEqual(gc.get_threshold(), process_tuning.COLLECTIONS)
        self.assertGreater(gc.get_freeze_count(), 0)
        self.assertEqual(self.reported, [])

    def test_stop(self) -> None:
        """Services stop one after the other, in reverse order."""
        a, b = self.part("a"), self.part("b")
        self.service.startService()
        self.events.clear()
        stopped = self.service.stopService()
        self.assertEqual(self.events, ["stop b"])
        b.stopped.callback(None)
        self.assertEqual(self.events, ["stop b", "stop a"])
        self.assertNoResult(stopped)
        a.stopped.callback(None)
        self.successResultOf(stopped)

    def test_failing_stop(self) -> None:
        """A service that fails to stop is logged, and the others stop."""
        a, b = self.part("a"), self.part("b")
        self.service.startService()
        stopped = self.service.stopService()
        b.stopped.errback(RuntimeError("stuck"))
        a.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_start_error(self) -> None:
        """An expected error is printed in one line without a traceback, and raised as
        `CannotStart`.
        """
        for error in (StoreUnusable("the disk is full of sand"), CannotStart("no such port")):
            self.reported.clear()
            self.setUp()
            self.part("a", error)
            raised = self.assertRaises(CannotStart, self.service.startService)
            self.assertEqual(self.reported, [str(error)])
            self.assertNotIn("started", self.events)
            self.assertIsNone(raised.__cause__)
            # The interpreter prints nothing at its exit, so status 1 is the only result.
            self.assertEqual(self.printed(raised), b"")
            self.assertIn(b"ValueError: a bug", self.printed(ValueError("a bug")))

    def test_bug(self) -> None:
        """An unexpected exception is raised unchanged."""
        before = sys.excepthook
        self.part("a", ZeroDivisionError("a bug"))
        self.assertRaises(ZeroDivisionError, self.service.startService)
        self.assertEqual(self.reported, [])
        self.assertIs(sys.excepthook, before)

    def printed(self, error: Exception) -> bytes:
        """Return what the interpreter prints when this exception ends it."""
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as stream:
            self.patch(sys, "stderr", stream)
            sys.excepthook(type(error), error, None)
        with os.fdopen(reading, "rb") as result:
            return result.read()


class StderrReporterTests(SynchronousTestCase):
    """`StderrReporter`."""

    def test_copy(self) -> None:
        """With ``keep`` the reporter writes to a duplicate of stderr, and closes it."""
        reporter = StderrReporter(keep=True)
        copy = reporter._descriptor
        self.assertTrue(os.path.sameopenfile(copy, 2))
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.dup2(writing, copy)
        os.close(writing)
        reporter.report("it is late")
        reporter.close()
        self.assertEqual(os.read(reading, 100), b"durable-streams: it is late\n")
        self.assertEqual(os.read(reading, 100), b"")
        self.assertRaises(OSError, os.fstat, copy)

    def test_foreground(self) -> None:
        """Without ``keep`` the reporter uses stderr itself and leaves it open."""
        reporter = StderrReporter(keep=False)
        self.assertEqual(reporter._descriptor, 2)
        reporter.close()
        os.fstat(2)
