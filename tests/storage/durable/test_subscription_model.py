"""Model test of subscriptions: random commands on a failing disk, compared with the memory store.

After each unknown outcome and each crash the disk has one of the possible states, the checker has
no findings, and

1. no acknowledged cursor and no generation has decreased;
2. fenced commands have changed nothing;
3. each subscription with pending work has a wake.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.subscriptions.commands import (
    Ack,
    Claim,
    Delivered,
    DeliveryResult,
    Due,
    LinkStreams,
    Release,
    Settle,
    UnlinkStream,
    Unsubscribe,
)
from durable_streams_tw.protocol.subscriptions.outcomes import Claimed, Settled, Subscribed
from durable_streams_tw.protocol.subscriptions.state import Kind, Subscription, TokenClaims, Wake
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.tables import CURSORS, SUBSCRIPTIONS, scan
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.command_builders import JSON, append, create, delete
from tests.storage.engine.fake_engine import FakeEngine, Fault, nth
from tests.storage.fsck_assertions import assert_sound
from tests.storage.suites.subscription_suite import subscribe

PATHS = ("e/a", "e/b", "e/b/c", "f", "wake", "wake2")
NAMES = ("s", "t", "u")
START = 1_800_000_000_000

_Step = tuple[Any, ...]

_paths = st.sampled_from(PATHS)
_names = st.sampled_from(NAMES)
STEPS = st.one_of(
    st.tuples(st.just("create"), _paths, st.booleans(), st.sampled_from((None, None, 2))),
    st.tuples(st.just("append"), _paths),
    st.tuples(st.just("append"), _paths),
    st.tuples(st.just("delete"), _paths),
    st.tuples(
        st.just("subscribe"),
        _names,
        st.sampled_from((None, "e/*", "**", "*")),
        st.sampled_from(((), ("e/a",), ("e/b", "f"))),
        st.sampled_from((None, "wake", "wake2")),
    ),
    st.tuples(st.just("unsubscribe"), _names),
    st.tuples(st.just("link"), _names, _paths),
    st.tuples(st.just("unlink"), _names, _paths),
    st.tuples(st.just("claim"), _names),
    st.tuples(st.just("settle"), _names, _paths, st.integers(0, 8), st.booleans(), st.booleans()),
    st.tuples(st.just("release"), _names, st.booleans()),
    st.tuples(st.just("delivered"), _names, st.sampled_from(DeliveryResult), st.booleans()),
    st.tuples(st.just("due"), _names),
    st.tuples(st.just("sleep"), st.sampled_from((100, 1000, 3000))),
)


def command_of(step: _Step, states: dict[str, Subscription]) -> Command | None:
    """Return the command of a step, given the current subscriptions."""
    what, *rest = step
    if what == "create":
        path, full, ttl = rest
        raw = b"[1]" if full else b""
        return create(path, raw, content_type=JSON, ttl=ttl)
    if what == "append":
        return append(rest[0], b"[2]", content_type=JSON)
    if what == "delete":
        return delete(rest[0])
    if what == "subscribe":
        name, pattern, streams, wake_stream = rest
        if pattern is None and not streams:
            streams = ("e/a",)
        return subscribe(name, pattern, streams, wake_stream)
    name = rest[0]
    state = states.get(name)
    number = 0 if state is None else state.number
    wake = Wake(0, "") if state is None else Wake(state.generation, state.wake_id or "none")
    kind = Kind.PULL if state is None else state.config.kind
    if what == "unsubscribe":
        return Unsubscribe(name)
    if what == "link":
        return LinkStreams(name, (rest[1],))
    if what == "unlink":
        return UnlinkStream(name, rest[1])
    if what == "claim":
        return Claim(name, "worker")
    if what == "due":
        return Due(name, number)
    if what == "delivered":
        seen = tuple(Ack(path, 4) for path in PATHS) if rest[2] else ()
        return Delivered(name, number, wake, rest[1], seen)
    stale = rest[-1]
    shown = Wake(wake.generation - 1, wake.wake_id) if stale else wake
    if what == "release":
        return Release(name, TokenClaims(number, shown), wake)
    _, path, position, done, _ = rest
    return Settle(name, kind, TokenClaims(number, shown), wake, (Ack(path, position),), done)


def comparable(outcome: Outcome) -> object:
    """Return the part of an outcome that a client sees; numbers, wake ids and delays differ."""
    if isinstance(outcome, Refusal):
        return outcome.problem
    if isinstance(outcome, Created | Appended | Deleted):
        return type(outcome), outcome.state.tail
    if isinstance(outcome, Claimed):
        # The ids of streams differ too.
        items = [(item.path, item.explicit, item.acked, item.tail) for item in outcome.items]
        return outcome.state.generation, items
    if isinstance(outcome, Settled):
        generation = None if outcome.state is None else outcome.state.generation
        return generation, outcome.next_wake
    if isinstance(outcome, Subscribed):
        return outcome.fresh, outcome.state.generation
    return type(outcome)


class _World:
    """Committer on a fake disk, with the possible states of the model."""

    def __init__(self) -> None:
        self.now = START
        self.engine = FakeEngine()
        check_format(self.engine, "the fake", 0)
        self.crash()

    def crash(self) -> None:
        self.engine = FakeEngine(self.engine.content)
        self.committer = Committer(self.engine, AccessTimes(), lambda: self.now, clock=lambda: 0.0)

    def states(self) -> dict[str, Subscription]:
        with self.engine.snapshot() as view:
            return {state.id: state for _, state in scan(view, SUBSCRIPTIONS, b"", None)}

    def cursors(self) -> dict[tuple[int, str], int]:
        with self.engine.snapshot() as view:
            return {
                (int.from_bytes(key[:8], "big"), cursor.path): cursor.acked
                for key, cursor in scan(view, CURSORS, b"", None)
            }


class SubscriptionModelTests(SynchronousTestCase):
    """Random commands and failures."""

    @settings(max_examples=60)
    @given(st.lists(STEPS, max_size=40))
    def test_both_stores_agree(self, steps: list[_Step]) -> None:
        world = _World()
        memory = MemoryStore(lambda: world.now)
        for number, step in enumerate(steps):
            if step[0] == "sleep":
                world.now += step[1]
                world.committer.sweep()
                memory.sweep()
                continue
            theirs = {state.id: state for _, state in memory.range(SUBSCRIPTIONS, b"", None)}
            ours = command_of(step, world.states())
            others = command_of(step, theirs)
            assert ours is not None and others is not None
            (outcome,) = world.committer.step([ours]).outcomes
            expected = self.successResultOf(memory.submit(others))
            self.assertEqual(comparable(outcome), comparable(expected), (number, step))
            told = {n: (s.generation, s.idle, s.leased) for n, s in world.states().items()}
            there = {
                state.id: (state.generation, state.idle, state.leased)
                for _, state in memory.range(SUBSCRIPTIONS, b"", None)
            }
            self.assertEqual(told, there, (number, step))
            if number % 7 == 6:
                world.crash()
            assert_sound(self, world.engine)

    @settings(max_examples=60)
    @given(
        st.lists(st.lists(STEPS, min_size=1, max_size=4), max_size=15),
        st.lists(
            st.tuples(
                st.sampled_from(("commit", "put", "delete", "get", "scan")),
                st.integers(0, 6),
                st.sampled_from(
                    (Fault(EngineFailed), Fault(EngineFailed, True), Fault(EngineFull))
                ),
            ),
            max_size=15,
        ),
    )
    def test_whatever_fails(
        self, batches: list[list[_Step]], faults: list[tuple[str, int, Fault]]
    ) -> None:
        world = _World()
        for index, batch in enumerate(batches):
            before, cursors = world.states(), world.cursors()
            commands: list[Command] = []
            for step in batch:
                if step[0] == "sleep":
                    world.now += step[1]
                    continue
                command = command_of(step, before)
                assert command is not None
                commands.append(command)
            if index < len(faults):
                call, nth_call, fault = faults[index]
                if call != "commit" and fault.applied:
                    fault = Fault(fault.error)
                world.engine.plan = nth(call, nth_call, fault)
            committed = world.committer.step(commands)
            world.engine.clear_plan()
            if index % 3 == 2 or committed.failed:
                world.crash()
            assert_sound(self, world.engine)
            self._nothing_goes_back(before, cursors, world, commands)
            fenced = {Problem.FENCED, Problem.INVALID_OFFSET, Problem.NO_PENDING_WORK}
            if committed.outcomes and not committed.failed:
                problems = {getattr(outcome, "problem", None) for outcome in committed.outcomes}
                lapsing = any(isinstance(command, Claim) for command in commands)
                if problems <= fenced and not lapsing:
                    self.assertEqual((world.states(), world.cursors()), (before, cursors))

    def _nothing_goes_back(
        self,
        before: dict[str, Subscription],
        cursors: dict[tuple[int, str], int],
        world: _World,
        commands: list[Command],
    ) -> None:
        after = world.states()
        for name, state in before.items():
            now = after.get(name)
            if now is not None and now.number == state.number:
                self.assertGreaterEqual(now.generation, state.generation)
        repeated = {command.path for command in commands if hasattr(command, "path")}
        for key, acked in world.cursors().items():
            if key in cursors and key[1] not in repeated:
                self.assertGreaterEqual(acked, cursors[key])
