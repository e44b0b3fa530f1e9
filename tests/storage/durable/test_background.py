"""Tests of `durable_streams_tw.storage.durable.background`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.durable.background import BackgroundTasks
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.limits import CHECKPOINT_INTERVAL, READER_CHECK_INTERVAL
from durable_streams_tw.storage.shared.background_timers import BackgroundTask
from tests.storage.engine.fake_engine import FakeEngine
from tests.storage.shared.inline_executor import InlineExecutor


class CountingEngine:
    """Engine that counts checkpoints and reader checks."""

    def __init__(self) -> None:
        self.on_checkpoint_due: Callable[[bool], None] = lambda _: None
        self.checkpoints = self.reader_checks = 0
        self.failure: Exception | None = None

    def checkpoint(self) -> None:
        """Count a checkpoint, or fail."""
        self.checkpoints += 1
        if self.failure is not None:
            raise self.failure

    def check_readers(self) -> None:
        """Count a reader check, or fail."""
        self.reader_checks += 1
        if self.failure is not None:
            raise self.failure


class CheckpointTests(SynchronousTestCase):
    """Checkpoints and reader checks."""

    def setUp(self) -> None:
        self.clock, self.executor, self.engine = Clock(), InlineExecutor(), CountingEngine()
        self.executor.start(self.work)
        committer = Committer(FakeEngine(), AccessTimes(), lambda: 0)
        self.background = BackgroundTasks(
            self.clock, self.executor, committer, self.engine, AccessTimes(), lambda: 0
        )
        self.background.start()

    def work(self, jobs: list[Any]) -> None:
        """Run jobs as the committer thread does."""
        for job in jobs:
            cast(BackgroundTask, job).run()

    def announce(self, at_once: bool = False) -> None:
        """Announce that a checkpoint is due."""
        self.engine.on_checkpoint_due(at_once)
        while self.executor._told:
            self.executor._told.popleft()()

    def test_soon(self) -> None:
        """Several commits within the interval share a checkpoint."""
        self.announce()
        self.clock.advance(CHECKPOINT_INTERVAL / 2)
        self.announce()
        self.assertEqual(self.engine.checkpoints, 0)
        self.clock.advance(CHECKPOINT_INTERVAL / 2)
        self.assertEqual(self.engine.checkpoints, 1)
        self.clock.advance(10 * CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.checkpoints, 1)
        self.announce()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.checkpoints, 2)

    def test_at_once(self) -> None:
        """A full segment is checkpointed at once; the scheduled checkpoint is dropped."""
        self.announce()
        self.announce(at_once=True)
        self.assertEqual(self.engine.checkpoints, 1)
        self.clock.advance(10 * CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.checkpoints, 1)

    def test_one_at_a_time(self) -> None:
        """A checkpoint that becomes due during another one runs after it."""
        self.executor.held = True
        self.announce(at_once=True)
        self.announce(at_once=True)
        self.announce()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.executor.release()
        self.assertEqual(self.engine.checkpoints, 1)
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.checkpoints, 2)

    def test_fails(self) -> None:
        """A failed checkpoint is retried until it succeeds."""
        self.engine.failure = EngineFailed("no")
        self.announce()
        self.clock.pump([CHECKPOINT_INTERVAL] * 5)
        self.assertEqual(self.engine.checkpoints, 5)
        self.engine.failure = None
        self.clock.pump([CHECKPOINT_INTERVAL] * 5)
        self.assertEqual(self.engine.checkpoints, 6)

    def test_a_bug(self) -> None:
        """An exception is logged, and the checkpoint retried."""
        self.engine.failure = ZeroDivisionError()
        self.announce()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.engine.failure = None
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.checkpoints, 2)

    def test_tended(self) -> None:
        """Readers are checked once a minute, also after a failure."""
        self.engine.failure = EngineFailed("no")
        for number in range(3):
            self.assertEqual(self.engine.reader_checks, number)
            self.clock.advance(READER_CHECK_INTERVAL)

    def test_at_the_end(self) -> None:
        """Stopping runs a last checkpoint and schedules no other."""
        self.announce()
        self.background.stop()
        self.assertEqual(self.engine.checkpoints, 1)
        self.announce()
        self.announce(at_once=True)
        self.clock.advance(100)
        self.assertEqual(self.engine.checkpoints, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_of_one_that_fails(self) -> None:
        """A failure of the last checkpoint does not keep the store from closing."""
        self.engine.failure = EngineFailed("no")
        self.background.stop()
        self.assertEqual(self.engine.checkpoints, 1)
