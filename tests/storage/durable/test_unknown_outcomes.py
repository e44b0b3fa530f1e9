"""Tests of the durable store after commits whose outcome is unknown."""

from __future__ import annotations

import lmdb
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.storage.api import Chunk
from durable_streams_tw.storage.durable.store import DurableStore, _ReadResult
from durable_streams_tw.storage.engine.kv import WriteBatch
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.engine.failing_files import SUPPORTED, break_meta, break_wal, pages_fail
from tests.storage.store_case import post, put


class UnknownOutcomeTests(DurableStoreCase, SynchronousTestCase):
    """A stream with a producer, and a failed commit without a WAL."""

    store: DurableStore

    if not SUPPORTED:
        skip = "this system does not let one replace one's own open files"

    once = post(b"second", producer=("p", 0, 1))

    def setUp(self) -> None:
        super().setUp()
        break_wal(self.directory)
        # Otherwise the next checkpoint opens it again.
        self.patch(self.store._engine, "_reopen_wal", lambda: None)
        self.submit_all(put(), put("b"), post(b"first,", producer=("p", 0, 0)))
        self.state_of()
        self.state_of("b")
        self.announced.clear()

    def fail_wal(self, path: str) -> None:
        """Make the next writes to the WAL fail."""
        break_wal(self.directory)
        self.created(put(path))
        self.announced.clear()

    def report_false_failure(self) -> None:
        """Make the next commit succeed and report a failure."""
        engine = self.store._lmdb
        begin = engine.begin

        def lying() -> WriteBatch:
            self.patch(engine, "begin", begin)
            batch = begin()
            self.patch(batch, "commit", lambda: self.commit_and_fail(engine, batch))
            return batch

        self.patch(engine, "begin", lying)

    def commit_and_fail(self, engine: LMDBEngine, batch: WriteBatch) -> int:
        type(batch).commit(batch)
        raise engine.commit_failed(lmdb.Error("the acknowledgement was lost"))

    def fail_batch(self, applied: bool = False) -> None:
        """Submit a batch of all commands whose outcome is unknown."""
        if applied:
            self.report_false_failure()
        else:
            break_meta(self.directory)
        for outcome in self.submit_all(self.once, post(b"?", "missing"), put(), Delete("b")):
            self.assertRefused(Problem.OUTCOME_UNKNOWN, outcome)
        self.assertEqual(self.announced, [])

    def test_lost(self) -> None:
        """The commit was lost: reads continue, and the retry is accepted."""
        self.fail_batch()
        self.assertEqual(self.content(), b"first,")
        self.state_of("b")
        self.appended(self.once)
        self.assertEqual(self.content(), b"first,second")

    def test_applied(self) -> None:
        """The commit was applied: reads see it, and the retry is a duplicate."""
        self.fail_batch(applied=True)
        self.assertEqual(self.state_of().tail, 12)
        self.assertEqual(self.content(), b"first,second")
        self.assertGone("b")
        outcome = self.submit(self.once)
        assert isinstance(outcome, Appended)
        self.assertTrue(outcome.duplicate)
        self.assertEqual(self.content(), b"first,second")

    def test_followers_are_told(self) -> None:
        """Followers are notified at the next sweep at the latest."""
        for applied in (False, True):
            self.fail_batch(applied)
            self.sweep(self.store)
            (changes,) = self.announced
            self.assertEqual(
                {change.state.path: (change.state.tail, change.gone) for change in changes},
                {"a": (12 if applied else 6, False), "b": (0, applied)},
            )
            self.announced.clear()
            self.sweep(self.store)
            self.assertEqual(self.announced, [])

    def test_bytes_that_were_read_and_lost(self) -> None:
        """Cached bytes of a lost commit are not served in place of later ones."""
        state = replace(self.state_of(), tail=12)
        with self.store._engine.snapshot() as view:
            version = view.version + 1
        seen = _ReadResult(state, Chunk(state, 3, b"st,second"), version)
        self.assertEqual(self.store._chunk_read(seen, "a"), seen.chunk)
        self.assertEqual(self.content(start=3), b"st,second")
        self.fail_batch()
        self.appended(post(b"other!", producer=("p", 0, 1)))
        self.assertEqual(self.content(start=3), b"st,other!")

    def test_a_read_that_began_before(self) -> None:
        """A result of a read that began before the failure is returned, but not cached."""
        self.restart()
        self.fail_wal("c")
        seen = self.store._read("a", 0, 100, None, None)
        self.fail_batch(applied=True)
        self.store._chunk_read(seen, "a")
        self.assertEqual(self.content(), b"first,second")

    def test_full(self) -> None:
        """A full disk is refused with 507, and the outcome is known."""
        with pages_fail(self.directory, full=True):
            for outcome in self.submit_all(self.once, put("c"), Delete("b")):
                self.assertRefused(Problem.STORAGE_FULL, outcome)
            self.assertEqual(self.content(), b"first,")
            self.assertRefused(Problem.STREAM_NOT_FOUND, self.result(self.store.get_state("c")))
        self.appended(self.once)
        self.deleted("b")

    def test_failing_pages(self) -> None:
        with pages_fail(self.directory, full=False):
            for outcome in self.submit_all(self.once, put("c")):
                self.assertRefused(Problem.OUTCOME_UNKNOWN, outcome)
            self.assertEqual(self.content(), b"first,")
        self.appended(self.once)

    def test_again_and_again(self) -> None:
        """After repeated failures of each kind each append is stored once."""
        for number in range(2, 12):
            append = post(b"%d," % number, producer=("q", 0, number - 2))
            if number % 3 == 0:
                self.report_false_failure()
            elif number % 3 == 1:
                break_meta(self.directory)
            first = self.submit(append)
            if number % 3 < 2:
                self.assertRefused(Problem.OUTCOME_UNKNOWN, first)
            outcome = self.submit(append)
            assert isinstance(outcome, Appended)
            self.assertEqual(outcome.duplicate, number % 3 != 1)
            if number % 4 == 0:
                self.restart()
                self.fail_wal(f"c{number}")
        expected = b"first," + b"".join([b"%d," % number for number in range(2, 12)])
        self.assertEqual(self.content(), expected)
