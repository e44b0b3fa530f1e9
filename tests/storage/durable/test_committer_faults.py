"""Tests of batches while the disk is full, fails, or has corrupt records."""

from __future__ import annotations

from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.storage.admin.fsck.findings import Flaw
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import SWEEP_RETRY
from tests.storage.command_builders import append, close, create, delete, fork
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.engine.fake_engine import Fault, always, narrow, nth

FULL = Fault(EngineFull)
FAILED = Fault(EngineFailed)
APPLIED = Fault(EngineFailed, applied=True)


class FullTests(CommitterCase):
    """Full disk: commands that need space get 507, others succeed."""

    batch: tuple[Command, ...] = (
        append("a", b"grows"),
        create("new"),
        create("a"),
        close("a"),
        append("missing", b"x"),
        append("b", b"x", producer=("p", 0, 0)),
        append("b", b"x", closed=True),
        fork("f", "b"),
        fork("f", "missing"),
        delete("b"),
    )
    # Commands that need no space succeed.
    expected = (
        ["storage-full"] * 2 + [""] * 2 + ["stream-not-found", ""] + ["storage-full"] * 2
    ) + ["stream-not-found", ""]

    def setUp(self) -> None:
        super().setUp()
        self.step(create("a", b"was"), create("b"), append("b", b"x", producer=("p", 0, 0)))

    def check_full(self) -> None:
        self.assertEqual(self.problems(self.step(*self.batch)), self.expected)
        self.assertEqual(self.content("a"), b"was")
        state = self.state("a")
        assert state is not None
        self.assertTrue(state.closed)
        self.assertIsNone(self.state("b"))

    def check_recovered(self) -> None:
        self.assertEqual(self.problems(self.step(create("c", b"room"))), [""])
        self.assertEqual(self.content("c"), b"room")

    def test_known_beforehand(self) -> None:
        self.engine.room = False
        self.check_full()
        self.engine.room = True
        self.check_recovered()

    def test_at_a_put(self) -> None:
        for number in range(3):
            self.engine.plan = nth("put", number, FULL)
            self.check_full()
            self.step(create("b"), append("b", b"x", producer=("p", 0, 0)))
            self.step(delete("a"), create("a", b"was"))
        self.check_recovered()

    def test_at_the_commit(self) -> None:
        self.engine.plan = nth("commit", 0, FULL)
        self.check_full()
        self.check_recovered()

    def test_no_space_for_deletions(self) -> None:
        """If not even a deletion can be written, it is refused as well."""
        self.engine.plan = always("commit", FULL)
        content = self.engine.content
        outcomes = self.step(*self.batch)
        answered = [slug or "storage-full" for slug in self.expected]
        answered[2] = answered[5] = ""
        self.assertEqual(self.problems(outcomes), answered)
        self.assertEqual(self.engine.content, content)
        self.engine.clear_plan()
        self.assertEqual(self.problems(self.step(delete("b"))), [""])
        self.check_recovered()

    def test_sweep(self) -> None:
        self.step(create("t", b"x", ttl=1), delete("b"))
        self.now += 1000
        for plan, failed in ((nth("commit", 0, FULL), False), (always("commit", FULL), True)):
            self.engine.plan = plan
            committed = self.committer.sweep()
            assert committed is not None
            self.assertEqual((committed.failed, committed.doubt), (failed, None))
            self.engine.clear_plan()
            self.sweep()
            self.assertIsNone(self.state("t"))
            self.step(create("t", b"x", ttl=1), delete("a"), create("a"))
            self.now += 1000

    def test_freeing_in_small_steps(self) -> None:
        """Deletions need pages too: if a step does not fit, it is halved, and grows again later."""
        self.step(append("b", bytes(2_000_000), producer=("r", 0, 0)), create("t", ttl=1))
        self.step(delete("b"))
        self.now += 1000
        self.engine.plan = narrow(10)
        self.assertGreater(self.sweep(), 12)
        self.assertEqual([key for key in self.engine.content if key[:1] in b"gx"], [])
        self.assertIsNone(self.state("t"))
        self.step(append("a", bytes(2_000_000)))
        self.engine.clear_plan()
        self.step(append("a", bytes(8_000_000)), delete("a"))
        self.assertLess(self.sweep(), 12)

    def test_ending_in_small_portions(self) -> None:
        self.step(*[create(f"t{number}", b"x", ttl=1) for number in range(100)])
        self.now += 1000
        self.engine.plan = narrow(12)
        self.sweep()
        self.assertEqual([self.state(f"t{number}") for number in range(100)], [None] * 100)

    def test_deleting_in_small_portions(self) -> None:
        self.step(*[create(f"s{number}") for number in range(30)])
        self.engine.plan = narrow(9)
        outcomes = self.step(
            *[delete(f"s{number}") for number in range(30)], append("a", b"x"), close("a")
        )
        self.assertEqual(self.problems(outcomes), [""] * 30 + ["storage-full", ""])
        self.assertEqual([self.state(f"s{number}") for number in range(30)], [None] * 30)

    def test_failure_of_a_part(self) -> None:
        """Parts of a split batch have outcomes of their own, and changes of the others are
        announced.
        """
        self.step(create("c"), create("d"))
        calls = []
        scarce = narrow(3)

        def plan(made: str) -> Fault | None:
            if made == "commit":
                calls.append(made)
                return FAILED if len(calls) == 2 else None
            return scarce(made)

        self.engine.plan = plan
        committed = self.committer.step([delete("b"), delete("c"), delete("d")])
        self.assertEqual(self.problems(committed.outcomes), ["", "outcome-unknown", ""])
        self.assertEqual([change.state.path for change in committed.changes], ["b", "c", "d"])
        self.assertEqual([change.gone for change in committed.changes], [True, False, True])
        self.assertEqual(set(committed.published), {"b", "d"})
        self.assertEqual((committed.failed, committed.doubt), (True, self.engine.min_version))

    def test_accesses(self) -> None:
        self.step(create("t", ttl=10))
        state = self.state("t")
        assert state is not None
        self.engine.plan = nth("put", 0, FULL)
        written = [self.committer.write_accesses([(state.id, self.now + 5)]) for _ in range(2)]
        self.assertEqual([committed.failed for committed in written], [True, False])


class FailedTests(CommitterCase):
    """Failing disk: the outcome of each command of the batch is unknown."""

    retry = append("a", b"r", producer=("p", 0, 0))
    batch: tuple[Command, ...] = (
        retry,
        append("a", b"x", producer=("q", 0, 0)),
        append("missing", b"x"),
        create("a"),
        create("new"),
        append("a", b"one", producer=("p", 0, 1)),
        delete("b"),
    )

    def setUp(self) -> None:
        super().setUp()
        self.step(create("a"), create("b"), self.retry)

    def test_begin(self) -> None:
        """If the batch cannot begin, nothing was written, and commands are refused with 503."""
        content = self.engine.content
        self.engine.plan = nth("begin", 0, FAILED)
        committed = self.committer.step(self.batch)
        self.assertEqual(set(self.problems(committed.outcomes)), {"storage-unavailable"})
        self.assertEqual((committed.failed, committed.doubt), (True, None))
        self.assertEqual(self.engine.content, content)
        self.assertEqual(self.problems(self.step(self.batch[1])), [""])

    def test_room(self) -> None:
        """If the free space cannot be read, commands are refused with 503."""
        self.engine.plan = nth("has_space", 0, FAILED)
        self.assertEqual(set(self.problems(self.step(*self.batch))), {"storage-unavailable"})

    def check_unknown(self, applied: bool) -> None:
        before = self.engine.content
        committed = self.committer.step(self.batch)
        self.assertEqual(self.engine.fired, 1)
        self.engine.fired = 0
        self.assertEqual(self.problems(committed.outcomes), ["outcome-unknown"] * len(self.batch))
        self.assertEqual((committed.failed, committed.doubt), (True, self.engine.min_version))
        self.assertEqual((committed.changes, committed.published), ([], {}))
        self.assertEqual(self.engine.content != before, applied)

    def check_retries(self, applied: bool) -> None:
        """Check that retries get the outcomes that the content of the disk implies."""
        committed = self.committer.step([self.batch[1], self.batch[5], delete("b")])
        outcomes = committed.outcomes
        duplicates = [made.duplicate for made in outcomes if isinstance(made, Appended)]
        self.assertEqual(duplicates, [applied, applied])
        self.assertEqual(self.problems(outcomes), ["", "", "stream-not-found" if applied else ""])
        self.assertEqual(self.content("a"), b"rxone")

    def test_get(self) -> None:
        for number in range(3):
            self.restart()
            self.engine.plan = nth("get", number, FAILED)
            self.check_unknown(applied=False)
        self.check_retries(applied=False)

    def test_put(self) -> None:
        for number in range(5):
            self.engine.plan = nth("put", number, FAILED)
            self.check_unknown(applied=False)
        self.check_retries(applied=False)

    def test_delete(self) -> None:
        self.engine.plan = nth("delete", 1, FAILED)
        self.check_unknown(applied=False)
        self.check_retries(applied=False)

    def test_commit_lost(self) -> None:
        self.engine.plan = nth("commit", 0, FAILED)
        self.check_unknown(applied=False)
        self.check_retries(applied=False)

    def test_commit_applied(self) -> None:
        self.engine.plan = nth("commit", 0, APPLIED)
        self.check_unknown(applied=True)
        self.check_retries(applied=True)

    def test_versions_rise_above_what_was_seen(self) -> None:
        with self.engine.snapshot() as before:
            seen = before.version
        self.engine.plan = nth("commit", 0, FAILED)
        doubt = self.committer.step(self.batch).doubt
        assert doubt is not None
        with self.engine.snapshot() as after:
            self.assertGreaterEqual(after.version, doubt)
        self.assertGreater(doubt, seen)

    def test_followers_are_notified_afterwards(self) -> None:
        """The next step announces the state of the affected streams once."""
        state = self.state("b")
        assert state is not None
        for fault, gone in ((FAILED, False), (APPLIED, True)):
            self.engine.plan = nth("commit", 0, fault)
            self.committer.step([append("a", b"x"), delete("b")])
            # The pending notification survives further failures.
            self.engine.plan = nth("begin", 0, FAILED)
            failed = self.committer.sweep()
            assert failed is not None
            self.assertTrue(failed.failed)
            committed = self.committer.sweep()
            assert committed is not None
            told = {change.state.path: change for change in committed.changes}
            self.assertEqual(set(told), {"a", "b"})
            self.assertEqual(told["b"].gone, gone)
            self.assertEqual(told["a"].state.tail, len(self.content("a")))
            self.assertEqual(told["a"].data, b"")
            self.sweep()
            self.assertIsNone(self.committer.sweep())

    def test_sweep(self) -> None:
        self.step(create("t", ttl=1))
        self.now += 1000
        self.engine.plan = nth("commit", 0, APPLIED)
        committed = self.committer.sweep()
        assert committed is not None
        self.assertEqual((committed.failed, committed.doubt), (True, self.engine.min_version))
        again = self.committer.sweep()
        assert again is not None
        self.assertEqual([change.gone for change in again.changes], [True])

    def test_accesses(self) -> None:
        self.step(create("t", ttl=10))
        state = self.state("t")
        assert state is not None
        for call in ("begin", "commit"):
            self.engine.plan = nth(call, 0, FAILED)
            accesses = [(state.id, self.now + 5)]
            self.assertTrue(self.committer.write_accesses(accesses).failed)
        self.assertFalse(self.committer.write_accesses(accesses).failed)


class CorruptTests(CommitterCase):
    """Corrupt records: 500 for commands that need them, and for no others."""

    def setUp(self) -> None:
        super().setUp()
        self.step(
            create("a", b"0123"),
            create("b", b"0123"),
            append("a", b"45", producer=("p", 0, 0)),
            create("t", ttl=1),
            fork("f", "a", 2),
        )

    def tearDown(self) -> None:
        """Check that the store has no flaws except those of the test."""
        self.assertEqual(
            {finding.flaw for finding in check(self.engine)} - {Flaw.CORRUPT_RECORD}, self.also
        )

    also: frozenset[Flaw] | set[Flaw] = frozenset()

    def damage(self, key: bytes) -> None:
        value = bytearray(self.engine.content[key])
        value[-1] ^= 1
        self.engine.content[key] = bytes(value)
        self.restart()

    def id_of(self, path: str) -> int:
        state = self.state(path)
        assert state is not None
        return state.id

    def check_others_go_on(self) -> None:
        outcomes = self.step(append("b", b"x"), create("c"), append("a", b"?"), append("b", b"y"))
        self.assertEqual(self.problems(outcomes), ["", "", "corrupt-record", ""])
        self.assertEqual(self.content("b"), b"0123xy")

    def test_stream_record(self) -> None:
        self.damage(codec.stream_key(self.id_of("a")))
        self.check_others_go_on()
        outcomes = self.step(delete("a"), create("a"), fork("g", "a"))
        self.assertEqual(self.problems(outcomes), ["corrupt-record"] * 3)

    def test_path_record(self) -> None:
        self.damage(codec.path_key("a"))
        self.check_others_go_on()

    def test_path_of_no_stream(self) -> None:
        del self.engine.content[codec.stream_key(self.id_of("a"))]
        self.also = {Flaw.PATH, Flaw.ORPHAN, Flaw.FORK}
        self.restart()
        self.check_others_go_on()

    def test_producer_record(self) -> None:
        self.damage(codec.producer_key(self.id_of("a"), 0, b"=p"))
        outcomes = self.step(
            append("a", b"?", producer=("p", 0, 1)),
            append("a", b"6", producer=("q", 0, 0)),
            append("a", b"7"),
        )
        self.assertEqual(self.problems(outcomes), ["corrupt-record", "", ""])
        self.assertEqual(self.content("a"), b"01234567")

    def test_last_data_record(self) -> None:
        """A corrupt last record is not extended, since a new checksum would hide the damage."""
        stream_id = self.id_of("a")
        self.damage(codec.data_key(stream_id, 0))
        self.assertEqual(self.problems(self.step(append("a", b"67"))), [""])
        with self.assertRaises(CorruptRecord):
            self.content("a")
        self.assertIn(codec.data_key(stream_id, 6), self.engine.content)

    def test_incomplete_last_data_record(self) -> None:
        """A missing or incomplete last record is not extended."""
        self.also = {Flaw.DATA}
        missing = codec.data_key(self.id_of("a"), 0)
        short = codec.data_key(self.id_of("b"), 0)
        del self.engine.content[missing]
        self.engine.content[short] = codec.pack_data(short, 0, b"01")
        self.restart()
        outcomes = self.step(append("a", b"67"), append("b", b"67"))
        self.assertEqual(self.problems(outcomes), ["", ""])
        for path in ("a", "b"):
            with self.assertRaises(CorruptRecord):
                self.content(path)
        self.assertNotIn(missing, self.engine.content)

    def test_next_id(self) -> None:
        """Without the record of the next id no stream is created: a repeated id would mix up two
        streams.
        """
        self.damage(codec.NEXT_ID_KEY)
        outcomes = self.step(create("c"), append("b", b"x"), fork("g", "b"))
        self.assertEqual(self.problems(outcomes), ["corrupt-record", "", "corrupt-record"])
        del self.engine.content[codec.NEXT_ID_KEY]
        self.restart()
        self.assertEqual(self.problems(self.step(create("c"))), ["corrupt-record"])

    def test_fork_of_an_unreadable_source(self) -> None:
        """A fork whose source cannot be read cannot be deleted, since the count cannot
        be updated.
        """
        self.damage(codec.stream_key(self.id_of("a")))
        content = self.engine.content
        outcomes = self.step(delete("f"), append("b", b"x"))
        self.assertEqual(self.problems(outcomes), ["corrupt-record", ""])
        self.assertIsNotNone(self.state("f"))
        changed = {key for key in content if content[key] != self.engine.content.get(key)}
        number = self.id_of("b")
        written = {codec.stream_key(number), codec.data_key(number, 0), codec.NEXT_ID_KEY}
        self.assertEqual(changed, written)

    def test_sweep_goes_on(self) -> None:
        """An unreadable stream does not keep others from expiring."""
        self.step(create("t2", ttl=1), create("t3", ttl=2))
        self.damage(codec.stream_key(self.id_of("t")))
        self.now += 1000
        self.sweep()
        self.assertIsNone(self.state("t2"))
        self.now += 1000
        self.sweep()
        self.assertIsNone(self.state("t3"))
        self.assertEqual(self.sweep(), 0)
        self.now += int(SWEEP_RETRY * 1000)
        self.assertEqual(self.sweep(), 1)
        self.assertEqual(self.sweep(), 0)

    def test_accesses_go_on(self) -> None:
        self.step(create("t2", ttl=5))
        bad, good = self.id_of("t"), self.id_of("t2")
        self.damage(codec.stream_key(bad))
        committed = self.committer.write_accesses([(bad, self.now + 1), (good, self.now + 1)])
        self.assertEqual((committed.failed, set(committed.published)), (False, {"t2"}))
