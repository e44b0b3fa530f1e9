"""Tests of the WAL engine: after any fault or crash, only committed batches exist."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from threading import Thread
from typing import Any
from unittest import mock
from weakref import ref

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.wal import engine
from durable_streams_tw.storage.engine.wal.checkpoint import read_checkpoint_record
from durable_streams_tw.storage.engine.wal.engine import WALEngine
from durable_streams_tw.storage.engine.wal.files import WriteAheadLog
from durable_streams_tw.storage.engine.wal.format import HEADER_SIZE
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DRAFT, SEGMENT_FILES
from tests.storage.durable.store_case import scratch_directory
from tests.storage.engine.fake_engine import FakeEngine, Fault, always, narrow, nth

SIZE = 4096

Pairs = dict[bytes, bytes | None]


def put(engine: WALEngine, pairs: Pairs) -> int:
    """Commit one batch and return its number."""
    batch = engine.begin()
    try:
        for key, value in pairs.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        return batch.commit()
    finally:
        batch.abort()


def content(engine: WALEngine) -> dict[bytes, bytes]:
    """Return all pairs but the checkpoint record."""
    with engine.snapshot() as view:
        pairs = {bytes(key): bytes(value) for key, value in view.scan(b"\x00", b"\xff")}
        assert all(bytes(view.get(key) or b"") == value for key, value in pairs.items())
    del pairs[codec.CHECKPOINT_KEY]
    return pairs


def portions(number: int) -> Callable[[str], Fault | None]:
    """Return a plan: LMDB is full for one commit, accepts some, and is full again."""
    commits = iter([Fault(EngineFull), *[None] * number])
    return lambda call: next(commits, Fault(EngineFull)) if call == "commit" else None


def torn_append(wal: WriteAheadLog, entry: bytes) -> None:
    """Append with a short write."""
    os.pwrite(wal._files[wal._current], entry[:-1], wal._position)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = scratch_directory(self)
        self.due: list[bool] = []
        self.open({})

    def open(self, on_disk: dict[bytes, bytes]) -> None:
        """Open an engine over LMDB with some content."""
        self.lmdb = FakeEngine(on_disk)
        self.engine = WALEngine(self.directory, self.lmdb, SIZE)
        self.engine.on_checkpoint_due = self.due.append
        self.addCleanup(self.engine.close)

    def crash(self) -> None:
        """Reopen the engine on the content of the disk, as after a crash."""
        self.open(self.lmdb.content)

    def fail_wal(self, error: int = errno.EIO, written: bool = False) -> None:
        """Let the next append fail, with the entry on the disk or not."""
        wal = self.wal()
        append = wal.append

        def fail(entry: bytes) -> None:
            if written:
                append(entry)
            raise OSError(error, os.strerror(error))

        self.patch(wal, "append", fail)

    def tear_wal(self) -> None:
        """Let the next append write half of its entry."""
        self.patch(self.wal(), "append", partial(torn_append, self.wal()))

    def wal(self) -> WriteAheadLog:
        wal = self.engine._wal
        assert wal is not None
        return wal

    def applied(self) -> int:
        """Return the number of the last batch in LMDB."""
        with self.lmdb.snapshot() as view:
            mark = read_checkpoint_record(view)
        assert mark is not None
        return mark.applied


class CommitTests(_Case):
    """Commits without faults."""

    def test_wal_only(self) -> None:
        """A commit does not write to LMDB, and is visible, also after a crash."""
        commits = self.lmdb.commits
        put(self.engine, {b"a": b"1", b"b": b"2"})
        put(self.engine, {b"a": None, b"c": b"3"})
        self.assertEqual(self.lmdb.commits, commits)
        self.assertEqual(content(self.engine), {b"b": b"2", b"c": b"3"})
        self.crash()
        self.assertEqual(content(self.engine), {b"b": b"2", b"c": b"3"})
        self.assertEqual(self.engine.memtable_bytes(), 0)

    def test_checkpoint(self) -> None:
        """A checkpoint applies all batches to LMDB in one commit."""
        put(self.engine, {b"a": b"1", b"b": b"2"})
        put(self.engine, {b"a": None})
        self.assertEqual(self.engine.memtable_bytes(), 3)
        commits = self.lmdb.commits
        self.engine.checkpoint()
        self.assertEqual(self.lmdb.commits, commits + 1)
        self.assertEqual(self.lmdb.content.keys(), {b"b", codec.CHECKPOINT_KEY})
        self.assertEqual(self.engine.memtable_bytes(), 0)
        self.engine.checkpoint()
        self.assertEqual(self.lmdb.commits, commits + 1)

    def test_checkpoint_due(self) -> None:
        """A checkpoint is due soon after the first batch, and at once when a segment is full."""
        put(self.engine, {b"a": b"1"})
        put(self.engine, {b"a": b"2"})
        self.assertEqual(self.due, [False])
        while True not in self.due:
            put(self.engine, {b"a": bytes(200)})
        self.assertEqual(self.due, [False, True, False])

    def test_segments_alternate(self) -> None:
        """Segments alternate. Without a checkpoint thread, appends run checkpoints themselves."""
        for number in range(200):
            put(self.engine, {b"%d" % (number % 7): b"%d" % number * 20})
        expected = content(self.engine)
        self.assertEqual(len(expected), 7)
        self.crash()
        self.assertEqual(content(self.engine), expected)
        for name in SEGMENT_FILES:
            self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, SIZE)

    def test_large(self) -> None:
        """A large batch is committed to LMDB after the batches before it."""
        put(self.engine, {b"a": b"1"})
        put(self.engine, {b"a": bytes(SIZE)})
        self.assertEqual(self.lmdb.content[b"a"], bytes(SIZE))
        put(self.engine, {b"a": b"3"})
        self.assertEqual(self.lmdb.content[b"a"], bytes(SIZE))
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"3"})

    def test_large_is_not_copied(self) -> None:
        """No WAL entry is encoded for a batch that is too large."""

        def pack(*given: object) -> bytes:
            raise AssertionError("a large batch was packed")

        self.patch(engine, "pack_entry", pack)
        put(self.engine, {b"a": bytes(SIZE)})
        self.assertEqual(content(self.engine), {b"a": bytes(SIZE)})

    def test_versions(self) -> None:
        """Versions grow, and a snapshot has that of its last batch."""
        versions = [put(self.engine, {b"a": b"%d" % n}) for n in range(3)]
        versions.append(put(self.engine, {b"a": bytes(SIZE)}))
        self.assertEqual(versions, sorted(set(versions)))
        with self.engine.snapshot() as view:
            self.assertEqual(view.version, versions[-1])
        self.assertLess(self.engine.min_version, versions[0])

    def test_a_snapshot_stays_what_it_was(self) -> None:
        """Later commits and checkpoints do not change an open snapshot."""
        put(self.engine, {b"a": b"1", b"b": b"1"})
        with self.engine.snapshot() as view:
            put(self.engine, {b"a": b"2", b"b": None, b"c": b"2"})
            self.engine.checkpoint()
            put(self.engine, {b"a": None})
            self.assertEqual([view.get(key) for key in (b"a", b"b", b"c")], [b"1", b"1", None])
            pairs = view.scan(b"a", b"d")
            self.assertEqual([(bytes(k), bytes(v)) for k, v in pairs], [(b"a", b"1"), (b"b", b"1")])

    def test_a_batch_reads_itself(self) -> None:
        put(self.engine, {b"a": b"1"})
        batch = self.engine.begin()
        batch.put(b"b", b"2")
        batch.delete(b"a")
        self.assertEqual((batch.get(b"a"), batch.get(b"b")), (None, b"2"))
        self.assertEqual([bytes(key) for key, _ in batch.scan(b"a", b"d")], [b"b"])
        batch.abort()
        self.assertEqual(content(self.engine), {b"a": b"1"})

    def test_bytes_are_released(self) -> None:
        """A finished batch is freed by reference counting: it has no cycles."""
        gc.disable()
        self.addCleanup(gc.enable)
        batch = self.engine.begin()
        batch.get(b"a")
        batch.put(b"a", b"1")
        batch.commit()
        seen = ref(batch)
        del batch
        self.assertIsNone(seen())

    def test_space(self) -> None:
        """The space for the next checkpoint is reserved."""
        asked: list[int] = []

        def has_space(reserve: int) -> bool:
            asked.append(reserve)
            return True

        self.patch(self.lmdb, "has_space", has_space)
        self.assertTrue(self.engine.has_space(1000))
        put(self.engine, {b"a": bytes(99)})
        self.assertTrue(self.engine.has_space(1000))
        self.assertEqual(asked, [1000, 1200])
        self.assertEqual(self.engine.used_bytes(), self.lmdb.used_bytes() + 100)


class FailingTests(_Case):
    """Faults of the WAL, of LMDB, or of both."""

    def test_failing_wal(self) -> None:
        """When the WAL fails, a batch is committed to LMDB."""
        put(self.engine, {b"a": b"1"})
        for written in (False, True):
            self.fail_wal(written=written)
            put(self.engine, {b"b": b"2"})
            self.assertEqual(self.lmdb.content[b"b"], b"2")
            put(self.engine, {b"b": b"3"})
            self.assertEqual(content(self.engine), {b"a": b"1", b"b": b"3"})
            # A checkpoint opens the WAL again.
            self.engine.checkpoint()
            put(self.engine, {b"b": b"4"})
            self.assertEqual(self.lmdb.content[b"b"], b"3")
            self.crash()
            self.assertEqual(content(self.engine), {b"a": b"1", b"b": b"4"})

    def test_wal_is_opened_again(self) -> None:
        """Each checkpoint tries, and requests another one until it succeeds. One line is logged."""
        put(self.engine, {b"a": b"1"})
        self.fail_wal()
        self.due.clear()
        put(self.engine, {b"a": b"2"})
        self.assertEqual(self.due, [False])
        with mock.patch.object(
            engine, "WriteAheadLog", side_effect=OSError(errno.EIO, "it is broken")
        ):
            for checkpoints in range(2, 5):
                self.engine.checkpoint()
                self.assertEqual(self.due, [False] * checkpoints)
        self.engine.checkpoint()
        self.assertEqual(self.due, [False] * checkpoints)
        put(self.engine, {b"a": b"3"})
        self.assertEqual(self.lmdb.content[b"a"], b"2")
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"3"})

    def test_wal_with_entries_is_not_opened_again(self) -> None:
        """A WAL with unapplied entries is not opened: they would be overwritten."""
        put(self.engine, {b"a": b"1"})
        self.fail_wal()
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, put, self.engine, {b"b": b"2"})
        self.assertRaises(EngineFailed, self.engine.checkpoint)
        self.engine._reopen_wal()
        self.assertIsNone(self.engine._wal)
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"1"})

    def test_obstacle(self) -> None:
        """`obstacle` returns the error while LMDB cannot be read or written."""
        self.assertIsNone(self.engine.obstacle())
        put(self.engine, {b"a": b"1"})
        for call in ("commit", "snapshot"):
            self.lmdb.plan = always(call, Fault(EngineFailed))
            with contextlib.suppress(EngineFailed):
                self.engine.checkpoint()
            self.assertIn("fails by plan", self.engine.obstacle() or "")
            self.lmdb.clear_plan()
            self.engine.checkpoint()
            self.assertIsNone(self.engine.obstacle())

    def test_no_space_for_a_wal(self) -> None:
        """A store works without a WAL."""
        put(self.engine, {b"a": b"1"})
        self.engine.close()
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.patch(os, "posix_fallocate", _no_space)
        self.open({})
        put(self.engine, {b"a": b"1"})
        self.assertEqual(self.lmdb.content[b"a"], b"1")

    def test_failing_lmdb(self) -> None:
        """Commits succeed without LMDB until the WAL is full."""
        put(self.engine, {b"a": b"1"})
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, self.engine.checkpoint)
        number = 0
        with contextlib.suppress(EngineFailed):
            while number < 1000:
                put(self.engine, {b"b": b"%d" % number * 20})
                number += 1
        self.assertGreater(number, 40)
        self.assertLess(number, 1000)
        # The failed batch leaves no trace, and no outcome is unknown.
        expected = {b"a": b"1", b"b": b"%d" % (number - 1) * 20}
        self.assertEqual(content(self.engine), expected)
        self.assertEqual(self.engine.min_version, 0)
        self.crash()
        self.assertEqual(content(self.engine), expected)

    def test_lmdb_recovers(self) -> None:
        put(self.engine, {b"a": b"1"})
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, self.engine.checkpoint)
        put(self.engine, {b"b": b"2"})
        self.lmdb.clear_plan()
        self.engine.checkpoint()
        self.assertEqual(self.lmdb.content.keys(), {b"a", b"b", codec.CHECKPOINT_KEY})

    def test_lmdb_is_full(self) -> None:
        """There is no space until a checkpoint succeeds."""
        put(self.engine, {b"a": b"1"})
        self.lmdb.plan = always("put", Fault(EngineFull))
        self.assertRaises(EngineFull, self.engine.checkpoint)
        self.assertFalse(self.engine.has_space(0))
        self.assertRaises(EngineFull, put, self.engine, {b"b": bytes(SIZE)})
        self.assertEqual(content(self.engine), {b"a": b"1"})
        self.lmdb.clear_plan()
        self.engine.checkpoint()
        self.assertTrue(self.engine.has_space(0))

    def test_little_space(self) -> None:
        """A checkpoint without space proceeds in small portions, deletions first."""
        put(self.engine, {codec.META_KEY: b"meta", b"a": b"1", b"b": b"2", b"c": b"3"})
        self.engine.checkpoint()
        put(self.engine, {b"d": b"4", b"a": None, b"e": b"5", b"b": None})
        self.lmdb.plan = narrow(1)
        changed: list[set[bytes]] = []
        finish = self.lmdb.finish

        def watch(after: dict[bytes, bytes]) -> None:
            changed.append(self.lmdb.content.keys() ^ after.keys())
            finish(after)

        self.patch(self.lmdb, "finish", watch)
        self.engine.checkpoint()
        self.assertEqual([keys for keys in changed if keys], [{b"a"}, {b"b"}, {b"d"}, {b"e"}])
        self.assertEqual(self.applied(), 2)

    def test_freed_pages_are_reused(self) -> None:
        """LMDB reuses freed pages two commits later; the engine makes these commits if needed."""
        put(self.engine, {b"a": None})
        self.engine.checkpoint()
        self.lmdb.plan = nth("commit", 0, Fault(EngineFull))
        commits = self.lmdb.commits
        put(self.engine, {b"a": bytes(SIZE)})
        self.assertEqual(self.lmdb.commits, commits + 3)
        put(self.engine, {b"a": bytes(SIZE)})
        commits = self.lmdb.commits
        for _ in range(3):
            self.lmdb.plan = lambda call: Fault(EngineFull) if call == "put" else None
            self.assertRaises(EngineFull, put, self.engine, {b"a": bytes(SIZE)})
        self.assertEqual(self.lmdb.commits, commits)

    def test_both(self) -> None:
        """When both fail, a batch's outcome is unknown, and resolved before the next one."""
        for written in (False, True):
            for applied in (False, True):
                put(self.engine, {b"a": b"1"})
                floor = self.engine.min_version
                self.fail_wal(written=written)
                self.lmdb.plan = nth("commit", 0, Fault(EngineFailed, applied))
                self.assertRaises(EngineFailed, put, self.engine, {b"b": b"2"})
                self.assertGreater(self.engine.min_version, floor)
                self.assertEqual(content(self.engine), {b"a": b"1"})
                # No checkpoint of older batches may overwrite it.
                self.engine.checkpoint()
                put(self.engine, {b"c": b"3"})
                self.assertEqual(content(self.engine), {b"a": b"1", b"c": b"3"})
                self.crash()
                self.assertEqual(content(self.engine), {b"a": b"1", b"c": b"3"})
                put(self.engine, {b"c": None})

    def test_full_lmdb_after_a_failing_wal(self) -> None:
        """LMDB has parts of the WAL's batches, and the next batch is missing or torn in the WAL: a
        crash then loses nothing, and that batch is not reported as missing."""
        for torn in (False, True):
            put(self.engine, {b"a": b"%d" % torn, b"b": b"2"})
            before = content(self.engine)
            self.fail_wal()
            if torn:
                self.tear_wal()
            self.lmdb.plan = portions(2)
            self.assertRaises(EngineFailed, put, self.engine, {b"c": b"3"})
            self.assertEqual(self.lmdb.content[b"a"], b"%d" % torn)
            self.crash()
            self.assertEqual(content(self.engine), before)
            put(self.engine, {b"c": b"4"})
            self.crash()
            self.assertEqual(content(self.engine), {**before, b"c": b"4"})

    def test_parts_of_later_batches(self) -> None:
        """LMDB has parts of the second batch, then a checkpoint applies the first alone: ``begun``
        stays at 2, otherwise a backup would take LMDB for a consistent first batch."""
        put(self.engine, {b"a": b"1"})
        self.engine._freeze()
        put(self.engine, {b"b": b"2", b"c": b"2"})
        self.lmdb.plan = portions(3)
        self.assertRaises(EngineFull, self.engine._checkpoint_all, 2)
        self.assertIn(b"b", self.lmdb.content)
        self.assertNotIn(b"c", self.lmdb.content)
        self.lmdb.clear_plan()
        self.engine._checkpoint_frozen()
        with self.lmdb.snapshot() as view:
            mark = read_checkpoint_record(view)
        assert mark is not None
        self.assertEqual((mark.applied, mark.begun), (1, 2))
        self.engine.checkpoint()
        self.assertEqual(self.applied(), 2)

    def test_checkpoint_while_a_snapshot_is_opened(self) -> None:
        """A snapshot opened before a checkpoint ends still reads the frozen memtable: it is not
        dropped while a snapshot is between opening LMDB and listing memtables."""
        put(self.engine, {b"a": b"1"})
        snapshot = self.lmdb.snapshot
        checkpointing = Thread(target=self.engine.checkpoint)

        @contextlib.contextmanager
        def slow() -> Iterator[Any]:
            with snapshot() as view:
                if threading.current_thread() is not checkpointing and not checkpointing.ident:
                    checkpointing.start()
                    # It ends at once, unless it waits for this snapshot.
                    checkpointing.join(0.2)
                yield view

        self.patch(self.lmdb, "snapshot", slow)
        self.assertEqual(content(self.engine), {b"a": b"1"})
        checkpointing.join()
        self.assertEqual(content(self.engine), {b"a": b"1"})

    def test_refused_after_a_failing_wal(self) -> None:
        """A batch that reached the WAL, and then does not fit into LMDB, is not applied."""
        self.lmdb.plan = narrow(1)
        self.fail_wal(written=True)
        self.assertRaises(EngineFull, put, self.engine, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.engine), {})

    def test_direct_commit_of_unknown_outcome(self) -> None:
        """The unknown outcome of a large batch is resolved."""
        for applied in (False, True):
            self.lmdb.plan = nth("commit", 0, Fault(EngineFailed, applied))
            self.assertRaises(EngineFailed, put, self.engine, {b"a": bytes(SIZE)})
            put(self.engine, {b"b": b"2"})
            expected = {b"a": bytes(SIZE)} if applied else {}
            self.assertEqual(content(self.engine), {**expected, b"b": b"2"})
            self.crash()
            self.assertEqual(content(self.engine), {**expected, b"b": b"2"})

    def test_unresolved_outcome(self) -> None:
        """While an outcome cannot be resolved, writes fail and reads work."""
        put(self.engine, {b"a": b"1"})
        self.fail_wal()
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, put, self.engine, {b"b": b"2"})
        self.assertRaises(EngineFailed, self.engine.begin)
        self.lmdb.plan = always("commit", Fault(EngineFull))
        self.assertRaises(EngineFailed, self.engine.begin)
        self.assertEqual(content(self.engine), {b"a": b"1"})
        self.lmdb.clear_plan()
        put(self.engine, {b"c": b"3"})
        self.assertEqual(content(self.engine), {b"a": b"1", b"c": b"3"})


class OpeningTests(_Case):
    """Recovery from the files of a directory."""

    def damage(self, name: str, offset: int) -> None:
        with open(os.path.join(self.directory, name), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes((byte[0] ^ 1,)))

    def test_checkpoint_fails_at_start(self) -> None:
        """If LMDB cannot be written, batches are read from the WAL and stay there."""
        put(self.engine, {b"a": b"1"})
        self.lmdb.plan = always("commit", Fault(EngineFull))
        lmdb_engine = FakeEngine(self.lmdb.content)
        lmdb_engine.plan = always("commit", Fault(EngineFull))
        engine = WALEngine(self.directory, lmdb_engine, SIZE)
        self.addCleanup(engine.close)
        self.assertEqual(content(engine), {b"a": b"1"})
        self.assertRaises(EngineFull, put, engine, {b"b": b"2"})
        self.assertEqual(content(engine), {b"a": b"1"})
        lmdb_engine.clear_plan()
        put(engine, {b"b": b"2"})
        self.assertEqual(content(engine), {b"a": b"1", b"b": b"2"})

    def test_damaged(self) -> None:
        """A store with lost acknowledged writes is refused."""
        for _ in range(3):
            put(self.engine, {b"a": b"1"})
        self.damage("journal.a", 520)
        with self.assertRaisesRegex(StoreUnusable, "acknowledged writes are lost"):
            self.open(self.lmdb.content)
        # Follow the advice of the message.
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.open(self.lmdb.content)
        self.assertEqual(content(self.engine), {})

    def test_the_last_one_is_torn(self) -> None:
        """A torn last entry, which a crash leaves, was never acknowledged."""
        put(self.engine, {b"a": b"1"})
        put(self.engine, {b"a": b"2"})
        size = os.stat(os.path.join(self.directory, "journal.a")).st_size
        with open(os.path.join(self.directory, "journal.a"), "r+b") as file:
            data = file.read().rstrip(b"\0")
            file.truncate(len(data) - 1)
            file.truncate(size)
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"1"})

    def test_a_file_is_missing(self) -> None:
        """A store is refused without the older of two segments that it needs."""
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        put(self.engine, {b"a": b"1"})
        self.assertRaises(EngineFailed, self.engine.checkpoint)
        put(self.engine, {b"a": b"2"})
        os.unlink(os.path.join(self.directory, "journal.a"))
        with self.assertRaisesRegex(StoreUnusable, "the other segment of the WAL is missing"):
            self.open(self.lmdb.content)

    def test_an_older_file_is_used_again(self) -> None:
        """Segments with a gap before the newest batches are refused."""
        self.lmdb.plan = always("commit", Fault(EngineFailed))
        put(self.engine, {b"a": b"1"})
        self.assertRaises(EngineFailed, self.engine.checkpoint)
        put(self.engine, {b"a": b"2"})
        with open(os.path.join(self.directory, "journal.a"), "r+b") as file:
            file.seek(HEADER_SIZE)
            file.write(bytes(SIZE - HEADER_SIZE))
        with self.assertRaisesRegex(StoreUnusable, "batch 1 is missing"):
            self.open(self.lmdb.content)

    def test_a_header_is_damaged(self) -> None:
        """Entries are read despite a damaged header: their checksums include the WAL id."""
        put(self.engine, {b"a": b"1"})
        self.damage("journal.a", 9)
        for _ in range(2):
            self.crash()
            self.assertEqual(content(self.engine), {b"a": b"1"})
            put(self.engine, {b"a": b"1"})

    def test_incomplete_segments(self) -> None:
        """A crash while the segments are created, and truncated segments."""
        os.unlink(os.path.join(self.directory, "journal.b"))
        self.crash()
        put(self.engine, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"1"})
        for name in SEGMENT_FILES:
            self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, SIZE)

    def test_damage_that_shows(self) -> None:
        """Damage at the last batches that no crash causes is refused."""
        put(self.engine, {b"a": b"1"})
        self.engine.checkpoint()
        put(self.engine, {b"a": b"2"})
        path = os.path.join(self.directory, "journal.b")
        with open(path, "rb") as file:
            whole = file.read()
        for damaged in (
            b"",
            whole[:20],
            whole[:600],
            bytes(SIZE),
            bytes(600) + whole[600:],
            b"?" * SIZE,
        ):
            with open(path, "wb") as file:
                file.write(damaged)
            with self.assertRaisesRegex(StoreUnusable, "journal.b (is damaged|was truncated)"):
                self.open(self.lmdb.content)
        with open(path, "wb") as file:
            file.write(whole)
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"2"})

    def test_made_larger(self) -> None:
        """A larger size grows the segments; a smaller one does not shrink them."""
        put(self.engine, {b"a": b"1"})
        lmdb_engine = FakeEngine(self.lmdb.content)
        for size in (2 * SIZE, SIZE):
            lmdb_engine = FakeEngine(lmdb_engine.content)
            engine = WALEngine(self.directory, lmdb_engine, size)
            self.assertEqual(content(engine), {b"a": b"1"})
            engine.close()
            for name in SEGMENT_FILES:
                self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, 2 * SIZE)

    def test_parts_without_their_wal(self) -> None:
        """LMDB has parts of batches that the WAL no longer has."""
        put(self.engine, {b"a": b"1", b"b": b"2"})
        self.assertRaises(EngineFull, self.checkpoint_one_portion)
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        with self.assertRaisesRegex(StoreUnusable, "batch 1 is missing"):
            self.open(self.lmdb.content)

    def checkpoint_one_portion(self) -> None:
        """Record ``begun``, commit the first portion, and fail."""
        changes = iter([Fault(EngineFull), None, None, Fault(EngineFull)])
        self.lmdb.plan = lambda call: next(changes, Fault(EngineFull)) if call == "commit" else None
        self.engine.checkpoint()

    def test_without_a_call_for_room(self) -> None:
        """On file systems without fallocate, segments are filled with zeros."""
        self.engine.close()
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.patch(os, "posix_fallocate", _unsupported)
        self.open({})
        self.assertEqual(os.stat(os.path.join(self.directory, "journal.a")).st_size, SIZE)
        put(self.engine, {b"a": b"1"})
        self.assertNotIn(b"a", self.lmdb.content)

    def test_sparse(self) -> None:
        """Segments with holes, as copy tools leave them, are created again when the WAL is opened:
        otherwise appends could fail on a full disk."""
        self.engine.close()
        for _ in range(2):
            WALEngine(self.directory, FakeEngine(self.lmdb.content), 16 * SIZE).close()
            for name in SEGMENT_FILES:
                path = os.path.join(self.directory, name)
                status = os.stat(path)
                self.assertEqual(status.st_size, 16 * SIZE)
                self.assertGreaterEqual(status.st_blocks * 512, status.st_size)
                with open(path, "r+b") as file:
                    head = file.read(HEADER_SIZE)
                    file.truncate(0)
                    file.seek(0)
                    file.write(head)
                    file.truncate(16 * SIZE)
                self.assertLess(os.stat(path).st_blocks * 512, 16 * SIZE)

    def test_creation_that_a_crash_has_ended(self) -> None:
        """Drafts are not read as segments, whatever they contain."""
        self.engine.close()
        for name in SEGMENT_FILES:
            path = os.path.join(self.directory, name)
            os.rename(path, path + DRAFT)
            os.truncate(path + DRAFT, 100)
        self.open({})
        put(self.engine, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.engine), {b"a": b"1"})
        self.assertEqual(sorted(os.listdir(self.directory)), list(SEGMENT_FILES))

    def test_of_another_store(self) -> None:
        put(self.engine, {b"a": b"1"})
        with self.assertRaisesRegex(StoreUnusable, "belongs to another store"):
            self.open({})


class _Machine(RuleBasedStateMachine):
    """Random batches, checkpoints, faults and crashes, compared with a model of the outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = scratch_directory()
        self.model: dict[bytes, bytes] = {}
        # The content with the last batch, if its outcome is unknown.
        self.perhaps: dict[bytes, bytes] | None = None
        self.number = 0

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.directory)

    @initialize()
    def begin(self) -> None:
        self.lmdb = FakeEngine({codec.META_KEY: b"meta"})
        self.model = dict(self.lmdb.content)
        self.engine = WALEngine(self.directory, self.lmdb, SIZE)

    @rule(
        keys=st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1, max_size=3),
        size=st.sampled_from([1, 40, 400, SIZE]),
        gone=st.booleans(),
    )
    def commit(self, keys: list[bytes], size: int, gone: bool) -> None:
        self.number += 1
        pairs: Pairs = {key: b"%d;" % self.number + bytes(size) for key in keys}
        if gone:
            pairs[keys[0]] = None
        try:
            batch = self.engine.begin()
        except EngineFailed:
            return
        # `begin` resolves an unknown outcome.
        self.decide()
        after = dict(self.model)
        for key, value in pairs.items():
            if value is None:
                batch.delete(key)
                after.pop(key, None)
            else:
                batch.put(key, value)
                after[key] = value
        try:
            batch.commit()
        except EngineFull:
            return
        except EngineFailed:
            self.perhaps = after
        else:
            self.model = after
        finally:
            batch.abort()

    @rule()
    def checkpoint(self) -> None:
        with contextlib.suppress(EngineFull, EngineFailed):
            self.engine.checkpoint()

    @rule()
    def tend(self) -> None:
        with contextlib.suppress(EngineFull, EngineFailed):
            self.engine.check_readers()

    @rule(
        make=st.sampled_from(
            [
                lambda: nth("commit", 0, Fault(EngineFailed, applied=True)),
                lambda: nth("commit", 0, Fault(EngineFailed)),
                lambda: nth("commit", 1, Fault(EngineFailed, applied=True)),
                lambda: always("commit", Fault(EngineFailed)),
                lambda: always("commit", Fault(EngineFull)),
                lambda: always("put", Fault(EngineFull)),
                lambda: always("begin", Fault(EngineFailed)),
                lambda: narrow(1),
                lambda: portions(2),
                lambda: portions(3),
            ]
        )
    )
    def fail_lmdb(self, make: Callable[[], Callable[[str], Fault | None]]) -> None:
        self.lmdb.plan = make()

    @precondition(lambda self: self.engine._wal is not None)
    @rule(written=st.sampled_from(["whole", "torn", "not"]))
    def spoil_wal(self, written: str) -> None:
        wal = self.engine._wal
        assert wal is not None
        append = wal.append

        def fail(entry: bytes) -> None:
            if written == "whole":
                append(entry)
            if written == "torn":
                torn_append(wal, entry)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        wal.append = fail  # type: ignore[method-assign]

    @rule()
    def mend(self) -> None:
        self.lmdb.clear_plan()

    @rule()
    def crash(self) -> None:
        left = self.lmdb.content
        self.engine.close()
        self.lmdb = FakeEngine(left)
        self.engine = WALEngine(self.directory, self.lmdb, SIZE)
        self.decide()

    def decide(self) -> None:
        """Decide an unknown outcome by the content that is read."""
        if self.perhaps is not None:
            if content(self.engine) == self.perhaps:
                self.model = self.perhaps
            self.perhaps = None

    @invariant()
    def all_that_was_said(self) -> None:
        if not hasattr(self, "engine"):
            return
        plan, self.lmdb.plan = self.lmdb.plan, lambda _: None
        found = content(self.engine)
        self.lmdb.plan = plan
        assert found == self.model or (self.perhaps is not None and found == self.perhaps), (
            found,
            self.model,
        )


class ModelTests(SynchronousTestCase):
    """Random histories."""

    def test_any_history(self) -> None:
        run_state_machine_as_test(_Machine, settings=settings(stateful_step_count=30))


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unsupported(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
