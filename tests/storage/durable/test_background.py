"""What a store does by itself about its journal: when it folds, and what failing comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.durable.background import BackgroundTask, BackgroundTasks
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.limits import CHECKPOINT_INTERVAL, READER_CHECK_INTERVAL
from tests.storage.engine.fake_engine import FakeEngine
from tests.storage.inline_executor import InlineExecutor


class Journaled:
    """Counts how often it is folded."""

    def __init__(self) -> None:
        self.on_checkpoint_due: Callable[[bool], None] = lambda _: None
        self.folds = self.tended = 0
        self.trouble: Exception | None = None

    def checkpoint(self) -> None:
        """Fold, or fail to."""
        self.folds += 1
        if self.trouble is not None:
            raise self.trouble

    def check_readers(self) -> None:
        """The same, once a minute."""
        self.tended += 1
        if self.trouble is not None:
            raise self.trouble


class FoldingTests(SynchronousTestCase):
    """Timers that a test moves, lanes that it holds."""

    def setUp(self) -> None:
        self.clock, self.executor, self.engine = Clock(), InlineExecutor(), Journaled()
        self.executor.start(self.work)
        committer = Committer(FakeEngine(), AccessTimes(), lambda: 0)
        self.chores = BackgroundTasks(
            self.clock, self.executor, committer, self.engine, AccessTimes(), lambda: 0
        )
        self.chores.start()

    def work(self, jobs: list[Any]) -> None:
        """The committing lane."""
        for job in jobs:
            cast(BackgroundTask, job).run()

    def say(self, at_once: bool = False) -> None:
        """The committing lane has journaled something."""
        self.engine.on_checkpoint_due(at_once)
        while self.executor._told:
            self.executor._told.popleft()()

    def test_soon(self) -> None:
        """Once for all that was journaled meanwhile."""
        self.say()
        self.clock.advance(CHECKPOINT_INTERVAL / 2)
        self.say()
        self.assertEqual(self.engine.folds, 0)
        self.clock.advance(CHECKPOINT_INTERVAL / 2)
        self.assertEqual(self.engine.folds, 1)
        self.clock.advance(10 * CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.folds, 1)
        self.say()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.folds, 2)

    def test_at_once(self) -> None:
        """A file is full; what was planned is done with it."""
        self.say()
        self.say(at_once=True)
        self.assertEqual(self.engine.folds, 1)
        self.clock.advance(10 * CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.folds, 1)

    def test_one_at_a_time(self) -> None:
        """What is journaled while somebody folds is folded afterwards."""
        self.executor.held = True
        self.say(at_once=True)
        self.say(at_once=True)
        self.say()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.executor.release()
        self.assertEqual(self.engine.folds, 1)
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.folds, 2)

    def test_fails(self) -> None:
        """It is tried again and again, and told once."""
        self.engine.trouble = EngineFailed("no")
        self.say()
        self.clock.pump([CHECKPOINT_INTERVAL] * 5)
        self.assertEqual(self.engine.folds, 5)
        self.engine.trouble = None
        self.clock.pump([CHECKPOINT_INTERVAL] * 5)
        self.assertEqual(self.engine.folds, 6)

    def test_a_bug(self) -> None:
        """It is logged, and no reason not to try again."""
        self.engine.trouble = ZeroDivisionError()
        self.say()
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.engine.trouble = None
        self.clock.advance(CHECKPOINT_INTERVAL)
        self.assertEqual(self.engine.folds, 2)

    def test_tended(self) -> None:
        """Once a minute, whatever comes of it."""
        self.engine.trouble = EngineFailed("no")
        for number in range(3):
            self.assertEqual(self.engine.tended, number)
            self.clock.advance(READER_CHECK_INTERVAL)

    def test_at_the_end(self) -> None:
        """All is folded, and nothing begins any more."""
        self.say()
        self.chores.stop()
        self.assertEqual(self.engine.folds, 1)
        self.say()
        self.say(at_once=True)
        self.clock.advance(100)
        self.assertEqual(self.engine.folds, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_of_one_that_fails(self) -> None:
        """It stays in the journal; the store closes all the same."""
        self.engine.trouble = EngineFailed("no")
        self.chores.stop()
        self.assertEqual(self.engine.folds, 1)
