"""Tests of `durable_streams_tw.storage.durable.committer`: batches, sweeps, quota."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle

from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Created, Deleted
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Command, Outcome
from durable_streams_tw.storage.commands.streams import apply as carry_out
from durable_streams_tw.storage.commands.streams import expire as end_if_due
from durable_streams_tw.storage.commands.transaction import Transaction
from durable_streams_tw.storage.durable import committer as committing
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import Buffer
from durable_streams_tw.storage.limits import DELETE_STEP, MERGE_RECORD, RECORD_PAYLOAD, SWEEP_RETRY
from tests.storage.command_builders import JSON, append, close, create, delete, fork
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.engine.fake_engine import _FakeView


def data_records(content: Iterable[bytes]) -> int:
    """Return the number of data records."""
    return len([key for key in content if key[:1] == b"d"])


class BatchTests(CommitterCase):
    """Many commands in one commit."""

    def test_one_commit(self) -> None:
        commits = self.engine.commits
        outcomes = self.step(
            create("a"),
            append("a", b"one"),
            append("missing", b"x"),
            append("a", b"two", closed=True),
            append("a", b"three"),
            create("b", b"whole"),
            delete("b"),
            create("b", b"again"),
        )
        self.assertEqual(
            self.problems(outcomes),
            ["", "", "stream-not-found", "", "stream-closed", "", "", ""],
        )
        self.assertEqual(self.engine.commits, commits + 1)
        self.assertEqual(self.content("a"), b"onetwo")
        self.assertEqual(self.content("b"), b"again")
        first, second = outcomes[5], outcomes[7]
        assert isinstance(first, Created) and isinstance(second, Created)
        self.assertNotEqual(first.state.id, second.state.id)

    def test_refusals_alone_are_not_committed(self) -> None:
        self.step(create("a", closed=True))
        commits, content = self.engine.commits, self.engine.content
        outcomes = self.step(
            append("a", b"x"),
            append("missing", b"x"),
            delete("missing"),
            create("a"),
            create("bad", b"{", content_type=JSON),
            fork("f", "missing"),
            close("a"),
        )
        self.assertEqual(
            self.problems(outcomes),
            [
                "stream-closed",
                "stream-not-found",
                "stream-not-found",
                "stream-exists",
                "invalid-json",
                "stream-not-found",
                "",
            ],
        )
        self.assertEqual(self.engine.commits, commits)
        self.assertEqual(self.engine.content, content)

    def test_few_calls(self) -> None:
        """Appends to one stream in one batch put its record once, and as many data records as
        needed.
        """
        self.step(create("a"), append("a", b"warm"))
        self.engine.calls.clear()
        outcomes = self.step(*[append("a", b"x" * 100) for _ in range(64)])
        self.assertEqual(set(self.problems(outcomes)), {""})
        calls = self.engine.calls
        self.assertEqual((calls["get"], calls["scan"], calls["put"]), (0, 0, 2))
        self.assertEqual((calls["delete"], calls["commit"]), (0, 1))

    def test_few_calls_for_many_streams(self) -> None:
        """A new stream costs one get for its path, and puts of path, record and bytes."""
        self.step(create("warm"))
        self.engine.calls.clear()
        self.step(*[create(f"s{number}", b"x") for number in range(50)])
        calls = self.engine.calls
        self.assertEqual((calls["get"], calls["put"], calls["commit"]), (50, 3 * 50 + 1, 1))

    def test_last_record_is_extended(self) -> None:
        self.step(create("a"))
        for _ in range(10):
            self.step(append("a", b"0123456789"))
        self.assertEqual(data_records(self.engine.content), 1)
        self.restart()
        self.engine.calls.clear()
        self.step(append("a", b"after a restart"))
        # Path, stream, and the extended record; the next id twice, for the incarnation.
        self.assertEqual(self.engine.calls["get"], 5)
        self.assertEqual(data_records(self.engine.content), 1)
        self.assertEqual(self.content("a"), b"0123456789" * 10 + b"after a restart")

    def test_records_stay_small(self) -> None:
        self.step(create("a"))
        for size in (1, MERGE_RECORD - 1, 1, 2000, RECORD_PAYLOAD, RECORD_PAYLOAD + 1, 100_000):
            self.step(append("a", b"a" * size), append("a", b"b"), append("a", b"c" * 20))
        sizes = [len(value) for key, value in self.engine.content.items() if key[:1] == b"d"]
        self.assertLessEqual(max(sizes), RECORD_PAYLOAD + 5)

    def test_large_json_is_cut_between_messages(self) -> None:
        small = b",".join([b'{"n":%d}' % number for number in range(5000)])
        self.step(
            create("a", content_type=JSON),
            append("a", b"[" + small + b"]", content_type=JSON),
            append("a", b'"' + b"x" * 50_000 + b'"', content_type=JSON),
            append("a", b"[1,2]", content_type=JSON),
        )
        self.assertEqual(self.content("a"), small + b"," + b'"' + b"x" * 50_000 + b'",' + b"1,2,")

    def test_changes(self) -> None:
        """Each change is announced in order with its bytes; refusals are not announced."""
        changes = self.committer.step(
            [create("a", b"x"), append("a", b"yz"), append("b", b"?"), close("a"), delete("a")]
        ).changes
        self.assertEqual(
            [(change.start, change.data, change.gone) for change in changes],
            [(0, b"x", False), (1, b"yz", False), (3, b"", False), (3, b"", True)],
        )

    def test_ids_are_never_given_again(self) -> None:
        given: set[int] = set()
        for _ in range(5):
            (made,) = self.step(create("a"))
            assert isinstance(made, Created)
            self.assertNotIn(made.state.id, given)
            given.add(made.state.id)
            self.step(delete("a"))
            self.sweep()
            self.restart()

    def test_fork_in_the_same_batch(self) -> None:
        """A fork inherits bytes that the same batch appended."""
        outcomes = self.step(
            create("a", b"[1,2]", content_type=JSON),
            append("a", b"[3]", content_type=JSON),
            fork("f", "a", 4),
            append("f", b"[4]", content_type=JSON),
            append("a", b"[5]", content_type=JSON),
        )
        self.assertEqual(set(self.problems(outcomes)), {""})
        self.assertEqual(self.content("f"), b"1,2,4,")
        self.assertEqual(self.content("a"), b"1,2,3,5,")


class BugTests(CommitterCase):
    """An exception fails only the command that raised it."""

    def setUp(self) -> None:
        super().setUp()
        self.step(create("a"), create("b"))

    def break_apply(self) -> None:
        def apply(transaction: Transaction, command: Command, now: int) -> Outcome | None:
            outcome = carry_out(transaction, command, now)
            if isinstance(command, Create | Append | Delete) and command.path == "a":
                raise ZeroDivisionError
            return outcome

        self.patch(committing, "apply", apply)

    def test_others_go_on(self) -> None:
        self.break_apply()
        outcomes = self.step(
            append("b", b"1"), append("a", b"x"), append("b", b"2"), delete("a"), append("b", b"3")
        )
        self.assertEqual(self.problems(outcomes), ["", "internal", "", "internal", ""])
        self.assertEqual(self.content("b"), b"123")
        self.assertEqual(self.content("a"), b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_exception_in_all_commands(self) -> None:
        """A batch whose commands all raise is retried fewer times than it has commands."""
        self.break_apply()
        begun = self.engine.calls["begin"]
        outcomes = self.step(*[append("a", b"x") for _ in range(300)], append("b", b"1"))
        self.assertEqual(self.problems(outcomes), ["internal"] * 300 + [""])
        self.assertEqual(self.content("b"), b"1")
        self.assertLess(self.engine.calls["begin"] - begun, 900)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_exception_in_flush(self) -> None:
        """An exception in the flush drops the batch and its caches; the next batch works."""

        def flush(_: BatchTransaction) -> bool:
            raise ZeroDivisionError

        with_bug = self.patch(BatchTransaction, "flush", flush)
        for work in (
            lambda: self.step(append("a", b"lost")),
            lambda: self.committer.write_accesses([(1, self.now)]),
        ):
            with self.assertRaises(ZeroDivisionError):
                work()
            self.assertFalse(self.engine.busy)
        with_bug.restore()
        self.step(append("a", b"kept"))
        self.assertEqual(self.content("a"), b"kept")

    def test_exception_in_the_sweep(self) -> None:
        """A stream whose expiry raises is retried later; the others expire."""
        self.step(create("c", ttl=1), create("d", ttl=1))

        def expire(transaction: Transaction, stream_id: int, now: int) -> int | None:
            state = transaction.stream(stream_id)
            assert state is not None
            if state.path == "c":
                raise ZeroDivisionError
            return end_if_due(transaction, stream_id, now)

        with_bug = self.patch(committing, "expire", expire)
        self.now += 1000
        self.sweep()
        self.assertIsNone(self.state("d"))
        self.assertIsNotNone(self.state("c"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        with_bug.restore()
        self.assertEqual(self.sweep(), 0)
        self.now += int(SWEEP_RETRY * 1000)
        self.sweep()
        self.assertIsNone(self.state("c"))


class SweepTests(CommitterCase):
    """Expiry, and deletion of bytes in bounded steps."""

    def test_nothing_to_do(self) -> None:
        self.step(create("a"), create("b", ttl=10))
        commits = self.engine.commits
        self.assertIsNone(self.committer.sweep())
        self.assertEqual(self.engine.commits, commits)

    def test_expiry(self) -> None:
        self.step(
            create("ttl", b"x", ttl=10),
            create("moment", b"x", expires_at=self.now + 10_000),
            create("later", b"x", ttl=11),
            create("never", b"x"),
        )
        self.now += 9_999
        self.assertEqual(self.sweep(), 0)
        self.now += 1
        committed = self.committer.sweep()
        assert committed is not None
        self.assertEqual(
            {change.state.path for change in committed.changes if change.gone}, {"ttl", "moment"}
        )
        self.assertEqual(committed.published["ttl"], None)
        self.sweep()
        self.assertIsNone(self.state("ttl"))
        self.assertIsNone(self.state("moment"))
        self.assertIsNotNone(self.state("later"))
        self.assertEqual(data_records(self.engine.content), 2)

    def test_appends_move_the_deadline(self) -> None:
        """Appends do not write to the expiry index: the sweep finds the outdated entry and moves
        it.
        """
        self.step(create("a", ttl=10))
        for _ in range(5):
            self.now += 9_000
            self.engine.calls.clear()
            self.step(append("a", b"x"))
            self.assertEqual(self.engine.calls["put"], 2)
            self.sweep()
            self.assertIsNotNone(self.state("a"))
        self.now += 10_000
        self.sweep()
        self.assertIsNone(self.state("a"))

    def test_unwritten_access(self) -> None:
        """The sweep writes the access time with the new index entry in one commit."""
        (made,) = self.step(create("a", ttl=10))
        assert isinstance(made, Created)
        self.now += 8_000
        self.access.record(made.state.id, self.now)
        self.now += 2_000
        self.assertEqual(self.sweep(), 1)
        state = self.state("a")
        assert state is not None
        self.assertEqual(state.deadline(), self.now + 8_000)
        self.restart()
        self.now += 8_000
        self.sweep()
        self.assertIsNone(self.state("a"))

    def test_accesses_are_written_down(self) -> None:
        made = self.step(create("ttl", ttl=10), create("moment", expires_at=self.now + 1))
        ids = [outcome.state.id for outcome in made if isinstance(outcome, Created)]
        commits = self.engine.commits
        committed = self.committer.write_accesses([(ids[1], self.now + 5), (999, self.now + 5)])
        self.assertFalse(committed.failed)
        self.assertEqual(self.engine.commits, commits, "a deadline that no access moves")
        committed = self.committer.write_accesses([(ids[0], self.now + 5)])
        self.assertEqual(set(committed.published), {"ttl"})
        self.assertEqual(self.engine.commits, commits + 1)
        state = self.state("ttl")
        assert state is not None
        self.assertEqual(state.touched_at, self.now + 5)

    def test_large_deletion_in_steps(self) -> None:
        self.step(create("big"))
        size = RECORD_PAYLOAD * (DELETE_STEP * 2 + DELETE_STEP // 2)
        large = append("big", bytes(size), producer=("p", 0, 0))
        while not self.step(large):
            pass
        (gone,) = self.step(delete("big"))
        self.assertIsInstance(gone, Deleted)
        self.assertIsNone(self.state("big"))
        left = [DELETE_STEP * 2 + DELETE_STEP // 2]
        while True:
            # A crash between any two steps changes nothing.
            self.restart()
            committed = self.committer.sweep()
            if committed is None:
                break
            left.append(data_records(self.engine.content))
            self.tearDown()
        self.assertEqual(left, [2500, 1500, 500, 0])
        self.assertEqual(set(self.engine.content), {codec.META_KEY, codec.NEXT_ID_KEY})

    def test_many_small_deletions_share_a_step(self) -> None:
        count = DELETE_STEP
        self.step(*[create(f"s{number}", b"x") for number in range(count)])
        self.step(*[delete(f"s{number}") for number in range(count)])
        # Each deletion removes its data record and its garbage entry.
        self.assertIn(self.sweep(), (2, 3))
        self.assertEqual(set(self.engine.content), {codec.META_KEY, codec.NEXT_ID_KEY})

    def test_sources_end_with_their_last_fork(self) -> None:
        self.step(
            create("a", b"0123", ttl=10), fork("b", "a", 2), fork("c", "b", 1), append("b", b"x")
        )
        self.step(delete("a"), delete("b"))
        held: list[StreamState | None] = [self.state("a"), self.state("b")]
        self.assertEqual([state is not None and state.deleted for state in held], [True, True])
        self.assertEqual(self.content("c"), b"0")
        self.now += 10_000
        self.sweep()
        self.assertEqual(set(self.engine.content), {codec.META_KEY, codec.NEXT_ID_KEY})


class QuotaTests(CommitterCase):
    """Configured quota."""

    quota = 20_000

    def test_quota(self) -> None:
        self.step(create("a", bytes(15_000)))
        self.assertEqual(self.problems(self.step(append("a", bytes(6_000)))), [""])
        outcomes = self.step(
            append("a", b"x"), create("b"), append("missing", b"x"), close("a"), delete("missing")
        )
        self.assertEqual(
            self.problems(outcomes),
            ["storage-full", "storage-full", "stream-not-found", "", "stream-not-found"],
        )
        self.step(delete("a"))
        self.sweep()
        self.assertEqual(self.problems(self.step(create("b", b"x"))), [""])
        self.assertEqual(self.content("b"), b"x")


class DamagedOrderTests(CommitterCase):
    """LMDB with keys out of order, as after two pages were swapped."""

    def test_sweep_ends(self) -> None:
        """The sweep ends, and deletes no record outside of its ranges."""
        self.step(*[create(f"a/{number}", b"x") for number in range(5)], create("b", b"x"))
        self.step(*[delete(f"a/{number}") for number in range(5)])
        scan = _FakeView.scan

        def endless(view: _FakeView, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
            return cycle(list(scan(view, first[:1], stop)))

        self.patch(_FakeView, "scan", endless)
        for _ in range(20):
            committed = self.committer.sweep()
            if committed is None or not committed.more:
                break
        else:
            self.fail("the sweep goes on for ever")
        self.patch(_FakeView, "scan", scan)
        self.sweep()
        self.assertEqual(self.content("b"), b"x")
