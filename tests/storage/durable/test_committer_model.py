"""Model test of the committer: random batches, failures and crashes.

The model is a memory store with exactly the commands that the disk must have. After each step both
must have the same content.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, note
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.commands.streams import apply
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.limits import RECORD_PAYLOAD
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.command_builders import BYTES, JSON, append, create
from tests.storage.engine.fake_engine import FakeEngine, Fault, nth
from tests.storage.fsck_assertions import assert_sound

PATHS = ["a", "b", "long/" + "x" * 600 + "1", "long/" + "x" * 600 + "2"]

paths = st.sampled_from(PATHS)
sizes = st.one_of(
    st.integers(1, 40), st.integers(1800, 2100), st.sampled_from([RECORD_PAYLOAD, 40_000])
)
lifetimes = st.sampled_from([NO_EXPIRY, NO_EXPIRY, Lifetime(ttl=3), Lifetime(ttl=8)])
producers = st.none() | st.tuples(
    st.sampled_from(["p", "q" * 300]), st.integers(0, 1), st.integers(0, 3)
)


@st.composite
def payloads(draw: st.DrawFn, content_type: str) -> bytes:
    """Draw a body: sizes around the limits of records, or several messages."""
    size = draw(sizes)
    filling = draw(st.sampled_from([b"a", b"b", b"c"]))
    if content_type == BYTES:
        return filling * size
    messages = [b'"' + filling * size + b'"'] * draw(st.integers(1, 3))
    return b"[" + b",".join(messages) + b"]"


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """Draw a command on one of a few paths; many are refused."""
    path = draw(paths)
    # JSON streams have separate paths, so that most appends have the stream's type.
    content_type = JSON if path in PATHS[1::2] else BYTES
    kind = draw(st.sampled_from(["create", "append", "append", "append", "delete", "fork"]))
    if kind == "delete":
        return Delete(path)
    data = draw(payloads(content_type))
    if kind == "append":
        return append(
            path,
            data,
            content_type=content_type,
            producer=draw(producers),
            closed=draw(st.integers(0, 9)) == 0,
        )
    made = create(path, draw(st.sampled_from([b"", data])), content_type=content_type)
    lifetime = draw(lifetimes)
    if kind == "create":
        return Create(path, content_type, lifetime, False, made.body)
    source = draw(st.sampled_from(PATHS[PATHS.index(path) % 2 :: 2]))
    offset = draw(st.none() | st.sampled_from([0, 3, 40]))
    return Create(
        path, None, lifetime, False, Body(b""), ForkRequest(source, offset, draw(st.integers(0, 2)))
    )


faults = st.one_of(
    st.just(None),
    st.tuples(st.sampled_from(["begin", "has_space"]), st.just(0), st.just(Fault(EngineFailed))),
    st.tuples(
        st.sampled_from(["get", "put", "delete", "scan"]),
        st.integers(0, 8),
        st.just(Fault(EngineFailed)),
    ),
    st.tuples(st.sampled_from(["put", "delete"]), st.integers(0, 8), st.just(Fault(EngineFull))),
    st.tuples(
        st.just("commit"),
        st.just(0),
        st.sampled_from(
            [Fault(EngineFull), Fault(EngineFailed), Fault(EngineFailed, applied=True)]
        ),
    ),
)


@dataclass(frozen=True)
class Step:
    """Step of a history: time passes, an optional crash, then a batch or (if empty) a sweep."""

    batch: list[Command]
    fault: tuple[str, int, Fault] | None
    room: bool
    crash: bool
    wait: int


steps = st.builds(
    Step,
    st.lists(commands(), max_size=6),
    faults,
    st.integers(0, 9).map(bool),
    st.booleans(),
    st.sampled_from([0, 500, 1500]),
)


def comparable(outcome: Outcome) -> tuple[object, ...]:
    """Return the part of an outcome that a client sees; ids differ between store and model."""
    if isinstance(outcome, Refusal):
        return (outcome.problem,)
    assert isinstance(outcome, Created | Appended | Deleted), outcome
    told: tuple[object, ...] = (type(outcome), outcome.state.tail, outcome.state.closed)
    if isinstance(outcome, Appended):
        told += (outcome.producer, outcome.duplicate)
    return told


class ModelTests(SynchronousTestCase):
    """Committer compared with the memory store."""

    @given(st.lists(steps, min_size=1, max_size=12))
    def test_disk_has_what_was_acknowledged(self, script: list[Step]) -> None:
        self.now = 1_000_000
        self.model = MemoryStore(lambda: self.now)
        self.engine = FakeEngine()
        check_format(self.engine, "the fake", 0)
        self.open()
        for step in script:
            self.now += step.wait
            if step.crash:
                self.engine = FakeEngine(self.engine.content)
                self.open()
            self.engine.room = step.room
            self.engine.fired = 0
            if step.fault is not None:
                self.engine.plan = nth(*step.fault)
            if step.batch:
                self.run_batch(step)
            else:
                self.run_sweep(step)
            self.engine.clear_plan()
            self.compare()
        while self.committer.sweep() is not None:
            self.model.sweep()
        self.compare()
        self.assertEqual([key for key in self.engine.content if key[:1] == b"g"], [])

    def open(self) -> None:
        self.committer = Committer(self.engine, AccessTimes(), lambda: self.now, clock=lambda: 0.0)

    def run_batch(self, step: Step) -> None:
        committed = self.committer.step(step.batch)
        outcomes = committed.outcomes
        self.assertEqual(len(outcomes), len(step.batch))
        fault = step.fault[2] if step.fault is not None and self.engine.fired else None
        note(f"{step} -> {[comparable(outcome) for outcome in outcomes]}")
        full = not step.room
        if fault is not None and fault.error is EngineFailed:
            slugs = {outcome.problem.slug for outcome in outcomes if isinstance(outcome, Refusal)}
            self.assertEqual(len(slugs), 1)
            if not fault.applied:
                return
        elif fault is not None and full and len(step.batch) == 1:
            # Not even a deletion could be written.
            self.assertEqual(
                {comparable(outcome) for outcome in outcomes}, {(Problem.STORAGE_FULL,)}
            )
            return
        elif fault is not None:
            full = True
        for command, outcome in zip(step.batch, outcomes, strict=True):
            self.model.has_space = not full
            outcome_of_model = apply(self.model, command, self.now)
            assert outcome_of_model is not None
            expected = comparable(outcome_of_model)
            if fault is None or fault.error is EngineFull:
                self.assertEqual(comparable(outcome), expected)

    def run_sweep(self, step: Step) -> None:
        committed = self.committer.sweep()
        fault = step.fault[2] if step.fault is not None and self.engine.fired else None
        failed = fault is not None and fault.error is EngineFailed
        self.assertEqual(committed is not None and committed.failed, failed)
        if not failed or (fault is not None and fault.applied):
            self.model.sweep()
        if not failed and fault is not None:
            # Afterwards the sweep uses smaller steps, so it needs several.
            self.open()

    def compare(self) -> None:
        assert_sound(self, self.engine)
        with self.engine.snapshot() as view:
            for path in PATHS:
                record = reader.load_stream_at(view, path)
                state = None if record is None else record.state
                known = self.model.stream_at(path)
                self.assertEqual(self.described(state), self.described(known), path)
                if state is not None and known is not None:
                    self.assertEqual(
                        reader.ViewReader(view).gather(state, 0, state.tail, state.tail),
                        self.model.gather(known, 0, known.tail),
                        path,
                    )

    def described(self, state: StreamState | None) -> tuple[object, ...] | None:
        if state is None:
            return None
        return (
            state.path,
            state.content_type,
            state.tail,
            state.touched_at,
            state.lifetime,
            state.closed,
            state.closed_by,
            state.origin,
            state.forks,
            state.deleted,
        )
