"""Test case of the committer on an engine that fails on demand."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.limits import MAX_PRODUCERS
from tests.storage.engine.fake_engine import FakeEngine
from tests.storage.fsck_assertions import assert_sound


class CommitterCase(SynchronousTestCase):
    """Test case with a committer on a fake engine; each test ends with a check of the store."""

    quota: int | None = None
    max_producers = MAX_PRODUCERS
    seconds = tick = 0.0

    def setUp(self) -> None:
        self.engine = FakeEngine()
        check_format(self.engine, "the fake", 0)
        self.now = 1_000_000
        self.restart()

    def tearDown(self) -> None:
        self.engine.clear_plan()
        assert_sound(self, self.engine)

    def restart(self) -> None:
        """Simulate a crash: reopen with the content of the disk."""
        self.engine = FakeEngine(self.engine.content)
        self.access = AccessTimes()
        self.committer = Committer(
            self.engine,
            self.access,
            lambda: self.now,
            quota=self.quota,
            clock=self.clock,
            max_producers=self.max_producers,
        )

    def clock(self) -> float:
        """Return the seconds of a clock that advances by ``tick`` per call."""
        self.seconds += self.tick
        return self.seconds

    def step(self, *commands: Command) -> list[Outcome]:
        """Carry out commands in one batch and return their outcomes."""
        return self.committer.step(commands).outcomes

    def sweep(self) -> int:
        """Sweep until no work is left; return the number of steps."""
        steps = 0
        while True:
            committed = self.committer.sweep()
            if committed is None:
                return steps
            self.assertFalse(committed.failed)
            steps += 1

    def problems(self, outcomes: list[Outcome]) -> list[str]:
        """Return the slugs of refusals, an empty string for each success."""
        return [
            outcome.problem.slug if isinstance(outcome, Refusal) else "" for outcome in outcomes
        ]

    def state(self, path: str) -> StreamState | None:
        """Return the state of a stream on disk."""
        with self.engine.snapshot() as view:
            record = reader.load_stream_at(view, path)
            return None if record is None else record.state

    def content(self, path: str) -> bytes:
        """Return the content of a stream on disk."""
        with self.engine.snapshot() as view:
            record = reader.load_stream_at(view, path)
            assert record is not None, path
            state = record.state
            return reader.ViewReader(view).gather(state, 0, state.tail, state.tail)
