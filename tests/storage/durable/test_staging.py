"""Tests of `durable_streams_tw.storage.durable.staging`: large bodies, visible at once."""

from __future__ import annotations

from collections.abc import Iterable

from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.subscriptions.commands import Claim, Due
from durable_streams_tw.protocol.subscriptions.outcomes import Claimed
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.durable import staging
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.tables import STAGED, SUBSCRIPTIONS, load, subscription_key
from durable_streams_tw.storage.limits import RECORD_PAYLOAD
from tests.storage.command_builders import JSON, append, create, delete, fork
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.engine.fake_engine import Fault, nth
from tests.storage.fsck_assertions import assert_sound
from tests.storage.suites.subscription_suite import subscribe

_STEP = 2 * RECORD_PAYLOAD
_LARGE = bytes(range(256)) * 512
"""131,072 bytes: nine records, five steps."""


class StagingTests(CommitterCase):
    """Committer whose batches hold two records of bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "MAX_BATCH", _STEP)
        self.patch(staging, "STAGE_STEP", _STEP)
        self.step(create("a", b"old"), create("b"))

    def finish(self, *commands: Command) -> list[Outcome]:
        """Carry out commands in as many steps as they need."""
        left = list(commands)
        outcomes: list[Outcome] = []
        for _ in range(100):
            committed = self.committer.step(left)
            outcomes += committed.outcomes
            again = [left[index] for index in committed.waiting]
            left = again + left[committed.taken :]
            if not left:
                return outcomes
        raise AssertionError(f"{left} were never carried out")

    def staged(self) -> int:
        return len([key for key in self.engine.content if key[:1] == STAGED.prefix])

    def records(self) -> int:
        return len([key for key in self.engine.content if key[:1] == b"d"])

    def test_append(self) -> None:
        command = append("a", _LARGE)
        for step in range(1, 5):
            committed = self.committer.step([command])
            self.assertEqual((list(committed.waiting), committed.outcomes), ([0], []))
            self.assertEqual((self.content("a"), self.staged()), (b"old", 1))
            self.assertEqual(self.records(), 1 + 2 * step)
            assert_sound(self, self.engine)
        self.assertEqual(self.problems(self.step(command)), [""])
        self.assertEqual((self.content("a"), self.staged()), (b"old" + _LARGE, 0))
        self.finish(append("a", b"x"), append("a", _LARGE), append("a", b"y"))
        self.assertEqual(self.content("a"), b"old" + _LARGE + b"x" + _LARGE + b"y")

    def test_create(self) -> None:
        command = create("c", _LARGE)
        for _ in range(4):
            self.assertEqual(self.step(command), [])
            self.assertIsNone(self.state("c"))
            assert_sound(self, self.engine)
        self.assertEqual(self.problems(self.step(command)), [""])
        self.assertEqual((self.content("c"), self.staged()), (_LARGE, 0))
        self.step(create("d", b"another"))
        self.assertEqual(self.content("d"), b"another")

    def test_json(self) -> None:
        """A staged JSON body is split into the same records as a body written at once."""
        self.step(create("j", content_type=JSON))
        sizes = (10, RECORD_PAYLOAD - 40, 3 * RECORD_PAYLOAD, 100, _STEP, 5)
        messages = b",".join(b'"%s"' % (b"m" * size) for size in sizes)
        self.finish(append("j", b"[%s]" % messages, content_type=JSON))
        self.assertEqual(self.content("j"), messages + b",")

    def test_others_go_on(self) -> None:
        """Only commands on the same stream wait, in their order."""
        commands: list[Command] = [
            append("a", _LARGE),
            append("a", b"2"),
            append("b", b"x"),
            delete("a"),
        ]
        committed = self.committer.step(commands)
        self.assertEqual((list(committed.waiting), len(committed.outcomes)), ([0, 1, 3], 1))
        self.assertEqual(self.content("b"), b"x")
        self.assertEqual(self.problems(self.finish(commands[0], commands[1])), ["", ""])
        self.assertEqual(self.content("a"), b"old" + _LARGE + b"2")

    def test_one_step_a_batch(self) -> None:
        commands: list[Command] = [
            append("a", _LARGE),
            append("b", _LARGE),
            append("b", b"2"),
            create("c"),
        ]
        committed = self.committer.step(commands)
        self.assertEqual(list(committed.waiting), [0, 1, 2])
        self.assertEqual(self.records(), 3)
        self.finish(*commands)
        self.assertEqual(self.content("b"), _LARGE + b"2")

    def contents_after_crashes(
        self, command: Append | Create, before: Iterable[Command] = ()
    ) -> list[bytes | None]:
        """Crash after each step; return the content of the stream each time, after a sweep."""
        found: list[bytes | None] = []
        for steps in range(1, 6):
            path = command.path
            self.finish(*before)
            for _ in range(steps):
                self.step(command)
            self.restart()
            self.sweep()
            assert_sound(self, self.engine)
            self.assertEqual(self.staged(), 0)
            found.append(None if self.state(path) is None else self.content(path))
            self.step(delete(path))
            self.sweep()
            self.assertEqual(self.records(), 1)
        return found

    def test_crash(self) -> None:
        """After a crash the stream has all or none of the body, and no staged records are left."""
        found = self.contents_after_crashes(append("c", _LARGE), [create("c", b"old")])
        self.assertEqual(found, [b"old"] * 4 + [b"old" + _LARGE])

    def test_crash_of_a_creation(self) -> None:
        self.assertEqual(self.contents_after_crashes(create("c", _LARGE)), [None] * 4 + [_LARGE])

    def test_append_after_a_crash(self) -> None:
        """Before the sweep, an append of other bytes at the same position succeeds."""
        for _ in range(3):
            self.step(append("a", _LARGE), create("c", _LARGE))
        self.restart()
        self.finish(append("a", b"new"), create("c", b"new"), append("a", _LARGE[::-1]))
        self.assertEqual(self.content("a"), b"oldnew" + _LARGE[::-1])
        self.assertEqual(self.content("c"), b"new")

    def test_refused(self) -> None:
        """If a refusal is known at once, nothing is staged."""
        self.step(create("closed", closed=True))
        self.step(append("a", b"x", producer=("p", 0, 0)))
        outcomes = self.step(
            append("closed", _LARGE),
            append("missing", _LARGE),
            append("a", _LARGE, producer=("p", 0, 5)),
            append("a", _LARGE, producer=("p", 0, 0)),
            create("a", _LARGE, content_type=JSON + "x"),
        )
        self.assertEqual(len(outcomes), 5)
        self.assertEqual(self.staged(), 0)

    def test_producer(self) -> None:
        command = append("a", _LARGE, producer=("p", 0, 0))
        self.finish(command)
        self.restart()
        (outcome,) = self.finish(command)
        self.assertEqual(self.problems([outcome]), [""])
        self.assertEqual(self.content("a"), b"old" + _LARGE)

    def test_expired_meanwhile(self) -> None:
        self.step(create("c", b"x", ttl=1))
        command = append("c", _LARGE)
        self.step(command)
        self.now += 1_000
        self.committer.sweep()
        self.assertIsNotNone(self.state("c"))
        self.assertEqual(self.problems(self.finish(command)), ["stream-not-found"])
        self.sweep()
        self.sweep()
        self.assertIsNone(self.state("c"))
        self.assertEqual((self.staged(), self.records()), (0, 1))

    def test_no_room_meanwhile(self) -> None:
        command = append("a", _LARGE)
        self.step(command)
        self.engine.room = False
        self.assertEqual(self.problems(self.step(command)), ["storage-full"])
        self.sweep()
        self.assertEqual((self.content("a"), self.staged(), self.records()), (b"old", 0, 1))

    def test_no_room_for_a_step(self) -> None:
        command = append("a", _LARGE)
        self.step(command)
        self.engine.plan = nth("put", 1, Fault(EngineFull))
        self.assertEqual(self.problems(self.step(command)), ["storage-full"])
        self.sweep()
        self.assertEqual((self.content("a"), self.staged(), self.records()), (b"old", 0, 1))
        self.finish(command)
        self.assertEqual(self.content("a"), b"old" + _LARGE)

    def test_failed_commit(self) -> None:
        for applied in (False, True):
            command = append("a", _LARGE, producer=("p", 0, int(applied)))
            self.step(command)
            self.engine.plan = nth("commit", 0, Fault(EngineFailed, applied))
            self.assertEqual(self.problems(self.step(command)), ["outcome-unknown"])
            self.engine.clear_plan()
            self.assertEqual(self.problems(self.finish(command)), [""])
        self.assertEqual(self.content("a"), b"old" + _LARGE * 2)
        self.flushLoggedErrors()

    def test_fork_meanwhile(self) -> None:
        command = append("a", _LARGE)
        self.step(command)
        self.step(fork("f", "a", data=b"fork"))
        self.finish(command)
        self.assertEqual(self.content("f"), b"oldfork")
        self.assertEqual(self.content("a"), b"old" + _LARGE)

    def test_wake_event_meanwhile(self) -> None:
        """A wake event waits: the tail of the wake stream must not move."""
        self.step(create("w"), subscribe(pattern="b", wake_stream="w"))
        command = append("w", _LARGE)
        self.step(command)
        self.step(append("b", b"x"))
        self.finish(command)
        self.assertEqual(self.content("w"), _LARGE)
        self.now += 10_000
        with self.engine.snapshot() as view:
            state = load(view, SUBSCRIPTIONS, subscription_key("s"))
        assert state is not None
        self.step(Due("s", state.number))
        self.assertIn(b'"wake"', self.content("w")[len(_LARGE) :])
        self.assertIsInstance(self.step(Claim("s", "me"))[0], Claimed)

    def test_wakes_subscriptions(self) -> None:
        self.step(create("w"), subscribe(pattern="a", wake_stream="w"))
        self.finish(append("a", _LARGE))
        self.assertIn(b'"wake"', self.content("w"))
