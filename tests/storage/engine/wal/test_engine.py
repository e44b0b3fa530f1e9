"""Commits by way of the journal: whatever fails and whenever the process ends, what was said to be
committed is there, and what was said not to be is not."""

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

from durable_streams_tw.storage.api import StoreUnusable
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.wal import engine
from durable_streams_tw.storage.engine.wal.checkpoint import read_mark
from durable_streams_tw.storage.engine.wal.engine import WALEngine
from durable_streams_tw.storage.engine.wal.files import SEGMENT_FILES, WriteAheadLog
from durable_streams_tw.storage.engine.wal.format import HEAD_SIZE
from durable_streams_tw.storage.files import DRAFT
from tests.storage.fake_keyspace import FakeKeyspace, Fault, always, narrow, nth
from tests.storage.lmdb_rig import scratch_directory

SIZE = 4096

Pairs = dict[bytes, bytes | None]


def put(keyspace: WALEngine, pairs: Pairs) -> int:
    """One batch; the number of its commit."""
    batch = keyspace.begin()
    try:
        for key, value in pairs.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        return batch.commit()
    finally:
        batch.abort()


def content(keyspace: WALEngine) -> dict[bytes, bytes]:
    """All that is seen, but for how far the map is."""
    with keyspace.snapshot() as view:
        pairs = {bytes(key): bytes(value) for key, value in view.scan(b"\x00", b"\xff")}
        assert all(bytes(view.get(key) or b"") == value for key, value in pairs.items())
    del pairs[codec.JOURNAL_KEY]
    return pairs


def portions(number: int) -> Callable[[str], Fault | None]:
    """A plan: the map has no room for a commit, then takes so many, and no more."""
    commits = iter([Fault(EngineFull), *[None] * number])
    return lambda call: next(commits, Fault(EngineFull)) if call == "commit" else None


def torn_append(journal: WriteAheadLog, entry: bytes) -> None:
    """An append that a short write has ended."""
    os.pwrite(journal._files[journal._current], entry[:-1], journal._position)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = scratch_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.due: list[bool] = []
        self.open({})

    def open(self, on_disk: dict[bytes, bytes]) -> None:
        """A keyspace over a map with some content."""
        self.map = FakeKeyspace(on_disk)
        self.keyspace = WALEngine(self.directory, self.map, SIZE)
        self.keyspace.due = self.due.append
        self.addCleanup(self.keyspace.close)

    def crash(self) -> None:
        """Go on with what is on the disk."""
        self.open(self.map.content)

    def fail_journal(self, error: int = errno.EIO, written: bool = False) -> None:
        """The next entry is not written, or nobody can tell that it was."""
        journal = self.journal()
        append = journal.append

        def fail(entry: bytes) -> None:
            if written:
                append(entry)
            raise OSError(error, os.strerror(error))

        self.patch(journal, "append", fail)

    def tear_journal(self) -> None:
        """The next entry is written by halves."""
        self.patch(self.journal(), "append", partial(torn_append, self.journal()))

    def journal(self) -> WriteAheadLog:
        journal = self.keyspace._journal
        assert journal is not None
        return journal

    def applied(self) -> int:
        """How far the map is."""
        with self.map.snapshot() as view:
            mark = read_mark(view)
        assert mark is not None
        return mark.applied


class CommitTests(_Case):
    """When all is well."""

    def test_journaled_only(self) -> None:
        """A commit does not touch the map, and everybody sees it, after a crash too."""
        commits = self.map.commits
        put(self.keyspace, {b"a": b"1", b"b": b"2"})
        put(self.keyspace, {b"a": None, b"c": b"3"})
        self.assertEqual(self.map.commits, commits)
        self.assertEqual(content(self.keyspace), {b"b": b"2", b"c": b"3"})
        self.crash()
        self.assertEqual(content(self.keyspace), {b"b": b"2", b"c": b"3"})
        self.assertEqual(self.keyspace.unfolded(), 0)

    def test_folded(self) -> None:
        """What is folded is in the map, in one commit for all of it."""
        put(self.keyspace, {b"a": b"1", b"b": b"2"})
        put(self.keyspace, {b"a": None})
        self.assertEqual(self.keyspace.unfolded(), 3)
        commits = self.map.commits
        self.keyspace.fold()
        self.assertEqual(self.map.commits, commits + 1)
        self.assertEqual(self.map.content.keys(), {b"b", codec.JOURNAL_KEY})
        self.assertEqual(self.keyspace.unfolded(), 0)
        self.keyspace.fold()
        self.assertEqual(self.map.commits, commits + 1)

    def test_says_when_folding_is_due(self) -> None:
        """Soon, with the first batch; at once, when a file is full."""
        put(self.keyspace, {b"a": b"1"})
        put(self.keyspace, {b"a": b"2"})
        self.assertEqual(self.due, [False])
        while True not in self.due:
            put(self.keyspace, {b"a": bytes(200)})
        self.assertEqual(self.due, [False, True, False])

    def test_many_turns(self) -> None:
        """The files are written in turn; without anybody who folds, appends wait for it."""
        for number in range(200):
            put(self.keyspace, {b"%d" % (number % 7): b"%d" % number * 20})
        expected = content(self.keyspace)
        self.assertEqual(len(expected), 7)
        self.crash()
        self.assertEqual(content(self.keyspace), expected)
        for name in SEGMENT_FILES:
            self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, SIZE)

    def test_large(self) -> None:
        """A batch that is large goes into the map, behind those before it."""
        put(self.keyspace, {b"a": b"1"})
        put(self.keyspace, {b"a": bytes(SIZE)})
        self.assertEqual(self.map.content[b"a"], bytes(SIZE))
        put(self.keyspace, {b"a": b"3"})
        self.assertEqual(self.map.content[b"a"], bytes(SIZE))
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"3"})

    def test_large_is_not_copied(self) -> None:
        """No entry is made of a batch that the journal has no use for."""

        def pack(*given: object) -> bytes:
            raise AssertionError("a large batch was packed")

        self.patch(engine, "pack_entry", pack)
        put(self.keyspace, {b"a": bytes(SIZE)})
        self.assertEqual(content(self.keyspace), {b"a": bytes(SIZE)})

    def test_versions(self) -> None:
        """They grow, and a snapshot has the one of the last batch in it."""
        versions = [put(self.keyspace, {b"a": b"%d" % n}) for n in range(3)]
        versions.append(put(self.keyspace, {b"a": bytes(SIZE)}))
        self.assertEqual(versions, sorted(set(versions)))
        with self.keyspace.snapshot() as view:
            self.assertEqual(view.version, versions[-1])
        self.assertLess(self.keyspace.floor, versions[0])

    def test_a_snapshot_stays_what_it_was(self) -> None:
        """Whatever is committed and folded meanwhile."""
        put(self.keyspace, {b"a": b"1", b"b": b"1"})
        with self.keyspace.snapshot() as view:
            put(self.keyspace, {b"a": b"2", b"b": None, b"c": b"2"})
            self.keyspace.fold()
            put(self.keyspace, {b"a": None})
            self.assertEqual([view.get(key) for key in (b"a", b"b", b"c")], [b"1", b"1", None])
            pairs = view.scan(b"a", b"d")
            self.assertEqual([(bytes(k), bytes(v)) for k, v in pairs], [(b"a", b"1"), (b"b", b"1")])

    def test_a_batch_reads_itself(self) -> None:
        put(self.keyspace, {b"a": b"1"})
        batch = self.keyspace.begin()
        batch.put(b"b", b"2")
        batch.delete(b"a")
        self.assertEqual((batch.get(b"a"), batch.get(b"b")), (None, b"2"))
        self.assertEqual([bytes(key) for key, _ in batch.scan(b"a", b"d")], [b"b"])
        batch.abort()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})

    def test_bytes_are_released(self) -> None:
        """A finished batch is freed by its reference count: no cycle keeps its bytes."""
        gc.disable()
        self.addCleanup(gc.enable)
        batch = self.keyspace.begin()
        batch.get(b"a")
        batch.put(b"a", b"1")
        batch.commit()
        seen = ref(batch)
        del batch
        self.assertIsNone(seen())

    def test_room(self) -> None:
        """What is yet to be folded needs room too."""
        asked: list[int] = []

        def has_room(reserve: int) -> bool:
            asked.append(reserve)
            return True

        self.patch(self.map, "has_room", has_room)
        self.assertTrue(self.keyspace.has_room(1000))
        put(self.keyspace, {b"a": bytes(99)})
        self.assertTrue(self.keyspace.has_room(1000))
        self.assertEqual(asked, [1000, 1200])
        self.assertEqual(self.keyspace.used(), self.map.used() + 100)


class FailingTests(_Case):
    """The journal, the map, or both fail."""

    def test_journal(self) -> None:
        """Then a batch goes into the map, and nobody notices."""
        put(self.keyspace, {b"a": b"1"})
        for written in (False, True):
            self.fail_journal(written=written)
            put(self.keyspace, {b"b": b"2"})
            self.assertEqual(self.map.content[b"b"], b"2")
            put(self.keyspace, {b"b": b"3"})
            self.assertEqual(content(self.keyspace), {b"a": b"1", b"b": b"3"})
            # Later there is a journal again.
            self.keyspace.fold()
            put(self.keyspace, {b"b": b"4"})
            self.assertEqual(self.map.content[b"b"], b"3")
            self.crash()
            self.assertEqual(content(self.keyspace), {b"a": b"1", b"b": b"4"})

    def test_journal_is_opened_again(self) -> None:
        """Each fold tries, and asks for another one until it succeeds. One line is logged."""
        put(self.keyspace, {b"a": b"1"})
        self.fail_journal()
        self.due.clear()
        put(self.keyspace, {b"a": b"2"})
        self.assertEqual(self.due, [False])
        with mock.patch.object(
            engine, "WriteAheadLog", side_effect=OSError(errno.EIO, "it is broken")
        ):
            for folds in range(2, 5):
                self.keyspace.fold()
                self.assertEqual(self.due, [False] * folds)
        self.keyspace.fold()
        self.assertEqual(self.due, [False] * folds)
        put(self.keyspace, {b"a": b"3"})
        self.assertEqual(self.map.content[b"a"], b"2")
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"3"})

    def test_journal_with_entries_is_not_opened_again(self) -> None:
        """Entries that the map lacks would be overwritten."""
        put(self.keyspace, {b"a": b"1"})
        self.fail_journal()
        self.map.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, put, self.keyspace, {b"b": b"2"})
        self.assertRaises(EngineFailed, self.keyspace.fold)
        self.keyspace._restore_journal()
        self.assertIsNone(self.keyspace._journal)
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})

    def test_obstacle(self) -> None:
        """Why the map cannot be read or written, for as long as it cannot."""
        self.assertIsNone(self.keyspace.obstacle())
        put(self.keyspace, {b"a": b"1"})
        for call in ("commit", "snapshot"):
            self.map.plan = always(call, Fault(EngineFailed))
            with contextlib.suppress(EngineFailed):
                self.keyspace.fold()
            self.assertIn("fails by plan", self.keyspace.obstacle() or "")
            self.map.well()
            self.keyspace.fold()
            self.assertIsNone(self.keyspace.obstacle())

    def test_no_room_for_a_journal(self) -> None:
        """A store works without one."""
        put(self.keyspace, {b"a": b"1"})
        self.keyspace.close()
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.patch(os, "posix_fallocate", _no_space)
        self.open({})
        put(self.keyspace, {b"a": b"1"})
        self.assertEqual(self.map.content[b"a"], b"1")

    def test_map(self) -> None:
        """Commits go on without it for as long as the journal has room."""
        put(self.keyspace, {b"a": b"1"})
        self.map.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, self.keyspace.fold)
        number = 0
        with contextlib.suppress(EngineFailed):
            while number < 1000:
                put(self.keyspace, {b"b": b"%d" % number * 20})
                number += 1
        self.assertGreater(number, 40)
        self.assertLess(number, 1000)
        # The one that was refused leaves no trace, and nothing is in doubt.
        expected = {b"a": b"1", b"b": b"%d" % (number - 1) * 20}
        self.assertEqual(content(self.keyspace), expected)
        self.assertEqual(self.keyspace.floor, 0)
        self.crash()
        self.assertEqual(content(self.keyspace), expected)

    def test_map_recovers(self) -> None:
        put(self.keyspace, {b"a": b"1"})
        self.map.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, self.keyspace.fold)
        put(self.keyspace, {b"b": b"2"})
        self.map.well()
        self.keyspace.fold()
        self.assertEqual(self.map.content.keys(), {b"a", b"b", codec.JOURNAL_KEY})

    def test_map_is_full(self) -> None:
        """There is no room until it can be folded."""
        put(self.keyspace, {b"a": b"1"})
        self.map.plan = always("put", Fault(EngineFull))
        self.assertRaises(EngineFull, self.keyspace.fold)
        self.assertFalse(self.keyspace.has_room(0))
        self.assertRaises(EngineFull, put, self.keyspace, {b"b": bytes(SIZE)})
        self.assertEqual(content(self.keyspace), {b"a": b"1"})
        self.map.well()
        self.keyspace.fold()
        self.assertTrue(self.keyspace.has_room(0))

    def test_little_room(self) -> None:
        """Then it is folded in small portions, what goes first."""
        put(self.keyspace, {codec.META_KEY: b"meta", b"a": b"1", b"b": b"2", b"c": b"3"})
        self.keyspace.fold()
        put(self.keyspace, {b"d": b"4", b"a": None, b"e": b"5", b"b": None})
        self.map.plan = narrow(1)
        changed: list[set[bytes]] = []
        finish = self.map.finish

        def watch(after: dict[bytes, bytes]) -> None:
            changed.append(self.map.content.keys() ^ after.keys())
            finish(after)

        self.patch(self.map, "finish", watch)
        self.keyspace.fold()
        self.assertEqual([keys for keys in changed if keys], [{b"a"}, {b"b"}, {b"d"}, {b"e"}])
        self.assertEqual(self.applied(), 2)

    def test_freed_pages_ripen(self) -> None:
        """They can be used two commits later: those are made, where anything was committed."""
        put(self.keyspace, {b"a": None})
        self.keyspace.fold()
        self.map.plan = nth("commit", 0, Fault(EngineFull))
        commits = self.map.commits
        put(self.keyspace, {b"a": bytes(SIZE)})
        self.assertEqual(self.map.commits, commits + 3)
        put(self.keyspace, {b"a": bytes(SIZE)})
        commits = self.map.commits
        for _ in range(3):
            self.map.plan = lambda call: Fault(EngineFull) if call == "put" else None
            self.assertRaises(EngineFull, put, self.keyspace, {b"a": bytes(SIZE)})
        self.assertEqual(self.map.commits, commits)

    def test_both(self) -> None:
        """Then a batch's outcome is not known; it is decided before the next one."""
        for written in (False, True):
            for applied in (False, True):
                put(self.keyspace, {b"a": b"1"})
                floor = self.keyspace.floor
                self.fail_journal(written=written)
                self.map.plan = nth("commit", 0, Fault(EngineFailed, applied))
                self.assertRaises(EngineFailed, put, self.keyspace, {b"b": b"2"})
                self.assertGreater(self.keyspace.floor, floor)
                self.assertEqual(content(self.keyspace), {b"a": b"1"})
                # Nothing that knows less may be folded over it.
                self.keyspace.fold()
                put(self.keyspace, {b"c": b"3"})
                self.assertEqual(content(self.keyspace), {b"a": b"1", b"c": b"3"})
                self.crash()
                self.assertEqual(content(self.keyspace), {b"a": b"1", b"c": b"3"})
                put(self.keyspace, {b"c": None})

    def test_full_map_behind_a_failing_journal(self) -> None:
        """The map has parts of what was journaled, and the next batch is in neither, or torn in the
        journal: a crash then loses nothing, and the batch does not count as one that is missing."""
        for torn in (False, True):
            put(self.keyspace, {b"a": b"%d" % torn, b"b": b"2"})
            before = content(self.keyspace)
            self.fail_journal()
            if torn:
                self.tear_journal()
            self.map.plan = portions(2)
            self.assertRaises(EngineFailed, put, self.keyspace, {b"c": b"3"})
            self.assertEqual(self.map.content[b"a"], b"%d" % torn)
            self.crash()
            self.assertEqual(content(self.keyspace), before)
            put(self.keyspace, {b"c": b"4"})
            self.crash()
            self.assertEqual(content(self.keyspace), {**before, b"c": b"4"})

    def test_parts_of_later_batches(self) -> None:
        """The map has parts of the second batch, and then the first is folded alone: the mark goes
        on saying so, otherwise a backup would take the map for the first batch."""
        put(self.keyspace, {b"a": b"1"})
        self.keyspace._freeze()
        put(self.keyspace, {b"b": b"2", b"c": b"2"})
        self.map.plan = portions(3)
        self.assertRaises(EngineFull, self.keyspace._fold_together, 2)
        self.assertIn(b"b", self.map.content)
        self.assertNotIn(b"c", self.map.content)
        self.map.well()
        self.keyspace._fold_frozen()
        with self.map.snapshot() as view:
            mark = read_mark(view)
        assert mark is not None
        self.assertEqual((mark.applied, mark.begun), (1, 2))
        self.keyspace.fold()
        self.assertEqual(self.applied(), 2)

    def test_folded_while_a_snapshot_is_taken(self) -> None:
        """The map's snapshot is older than the fold, so what was folded has to be seen beside it:
        none of it is forgotten before the snapshot knows what lies over the map."""
        put(self.keyspace, {b"a": b"1"})
        snapshot = self.map.snapshot
        fold = Thread(target=self.keyspace.fold)

        @contextlib.contextmanager
        def slow() -> Iterator[Any]:
            with snapshot() as view:
                if threading.current_thread() is not fold and not fold.ident:
                    fold.start()
                    # It ends at once, unless it has to wait for this snapshot.
                    fold.join(0.2)
                yield view

        self.patch(self.map, "snapshot", slow)
        self.assertEqual(content(self.keyspace), {b"a": b"1"})
        fold.join()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})

    def test_refused_behind_a_failing_journal(self) -> None:
        """The journal has a batch that the map then has no room for: it did not happen."""
        self.map.plan = narrow(1)
        self.fail_journal(written=True)
        self.assertRaises(EngineFull, put, self.keyspace, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.keyspace), {})

    def test_straight_in_doubt(self) -> None:
        """A large batch of unknown outcome is found out."""
        for applied in (False, True):
            self.map.plan = nth("commit", 0, Fault(EngineFailed, applied))
            self.assertRaises(EngineFailed, put, self.keyspace, {b"a": bytes(SIZE)})
            put(self.keyspace, {b"b": b"2"})
            expected = {b"a": bytes(SIZE)} if applied else {}
            self.assertEqual(content(self.keyspace), {**expected, b"b": b"2"})
            self.crash()
            self.assertEqual(content(self.keyspace), {**expected, b"b": b"2"})

    def test_still_in_doubt(self) -> None:
        """Until that can be found out nothing is written, and reads go on."""
        put(self.keyspace, {b"a": b"1"})
        self.fail_journal()
        self.map.plan = always("commit", Fault(EngineFailed))
        self.assertRaises(EngineFailed, put, self.keyspace, {b"b": b"2"})
        self.assertRaises(EngineFailed, self.keyspace.begin)
        self.map.plan = always("commit", Fault(EngineFull))
        self.assertRaises(EngineFailed, self.keyspace.begin)
        self.assertEqual(content(self.keyspace), {b"a": b"1"})
        self.map.well()
        put(self.keyspace, {b"c": b"3"})
        self.assertEqual(content(self.keyspace), {b"a": b"1", b"c": b"3"})


class OpeningTests(_Case):
    """What is found in the directory."""

    def damage(self, name: str, offset: int) -> None:
        with open(os.path.join(self.directory, name), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes((byte[0] ^ 1,)))

    def test_not_folded_yet(self) -> None:
        """The map takes nothing: what is in the journal is read, and stays there."""
        put(self.keyspace, {b"a": b"1"})
        self.map.plan = always("commit", Fault(EngineFull))
        map_ = FakeKeyspace(self.map.content)
        map_.plan = always("commit", Fault(EngineFull))
        keyspace = WALEngine(self.directory, map_, SIZE)
        self.addCleanup(keyspace.close)
        self.assertEqual(content(keyspace), {b"a": b"1"})
        self.assertRaises(EngineFull, put, keyspace, {b"b": b"2"})
        self.assertEqual(content(keyspace), {b"a": b"1"})
        map_.well()
        put(keyspace, {b"b": b"2"})
        self.assertEqual(content(keyspace), {b"a": b"1", b"b": b"2"})

    def test_damaged(self) -> None:
        """Acknowledged writes are missing: nobody goes on as if nothing was."""
        for _ in range(3):
            put(self.keyspace, {b"a": b"1"})
        self.damage("journal.a", 520)
        with self.assertRaisesRegex(StoreUnusable, "acknowledged are lost"):
            self.open(self.map.content)
        # As the sentence says.
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.open(self.map.content)
        self.assertEqual(content(self.keyspace), {})

    def test_the_last_one_is_torn(self) -> None:
        """A crash can do that: it never was acknowledged."""
        put(self.keyspace, {b"a": b"1"})
        put(self.keyspace, {b"a": b"2"})
        size = os.stat(os.path.join(self.directory, "journal.a")).st_size
        with open(os.path.join(self.directory, "journal.a"), "r+b") as file:
            data = file.read().rstrip(b"\0")
            file.truncate(len(data) - 1)
            file.truncate(size)
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})

    def test_a_file_is_missing(self) -> None:
        """The older of two that are needed."""
        self.map.plan = always("commit", Fault(EngineFailed))
        put(self.keyspace, {b"a": b"1"})
        self.assertRaises(EngineFailed, self.keyspace.fold)
        put(self.keyspace, {b"a": b"2"})
        os.unlink(os.path.join(self.directory, "journal.a"))
        with self.assertRaisesRegex(StoreUnusable, "the other file of the journal is not"):
            self.open(self.map.content)

    def test_an_older_file_is_used_again(self) -> None:
        """By somebody else: what stands before the newest batches is gone."""
        self.map.plan = always("commit", Fault(EngineFailed))
        put(self.keyspace, {b"a": b"1"})
        self.assertRaises(EngineFailed, self.keyspace.fold)
        put(self.keyspace, {b"a": b"2"})
        with open(os.path.join(self.directory, "journal.a"), "r+b") as file:
            file.seek(HEAD_SIZE)
            file.write(bytes(SIZE - HEAD_SIZE))
        with self.assertRaisesRegex(StoreUnusable, "batch 1 is missing"):
            self.open(self.map.content)

    def test_a_head_is_damaged(self) -> None:
        """It only says whose the file is, and so does each entry."""
        put(self.keyspace, {b"a": b"1"})
        self.damage("journal.a", 9)
        for _ in range(2):
            self.crash()
            self.assertEqual(content(self.keyspace), {b"a": b"1"})
            put(self.keyspace, {b"a": b"1"})

    def test_made_by_halves(self) -> None:
        """A crash comes while the journal is made, or the files were cut short."""
        os.unlink(os.path.join(self.directory, "journal.b"))
        self.crash()
        put(self.keyspace, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})
        for name in SEGMENT_FILES:
            self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, SIZE)

    def test_damage_that_shows(self) -> None:
        """Where the last batches stood; no crash leaves a file so."""
        put(self.keyspace, {b"a": b"1"})
        self.keyspace.fold()
        put(self.keyspace, {b"a": b"2"})
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
            with self.assertRaisesRegex(StoreUnusable, "journal.b (cannot be read|was cut short)"):
                self.open(self.map.content)
        with open(path, "wb") as file:
            file.write(whole)
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"2"})

    def test_made_larger(self) -> None:
        """By a version that wants larger files; smaller ones are never made of them."""
        put(self.keyspace, {b"a": b"1"})
        map_ = FakeKeyspace(self.map.content)
        for size in (2 * SIZE, SIZE):
            map_ = FakeKeyspace(map_.content)
            keyspace = WALEngine(self.directory, map_, size)
            self.assertEqual(content(keyspace), {b"a": b"1"})
            keyspace.close()
            for name in SEGMENT_FILES:
                self.assertEqual(os.stat(os.path.join(self.directory, name)).st_size, 2 * SIZE)

    def test_parts_without_their_journal(self) -> None:
        """A map that has parts of batches, which nothing tells whole any more."""
        put(self.keyspace, {b"a": b"1", b"b": b"2"})
        self.assertRaises(EngineFull, self.fold_by_halves)
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        with self.assertRaisesRegex(StoreUnusable, "batch 1 is missing"):
            self.open(self.map.content)

    def fold_by_halves(self) -> None:
        """Say that it has begun, put down the first portion, and no more."""
        changes = iter([Fault(EngineFull), None, None, Fault(EngineFull)])
        self.map.plan = lambda call: next(changes, Fault(EngineFull)) if call == "commit" else None
        self.keyspace.fold()

    def test_without_a_call_for_room(self) -> None:
        """Some file systems cannot be asked for room: it is written to."""
        self.keyspace.close()
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(self.directory, name))
        self.patch(os, "posix_fallocate", _unsupported)
        self.open({})
        self.assertEqual(os.stat(os.path.join(self.directory, "journal.a")).st_size, SIZE)
        put(self.keyspace, {b"a": b"1"})
        self.assertNotIn(b"a", self.map.content)

    def test_sparse(self) -> None:
        """A copy of the files may have holes where they had zeros. They are made again when the
        journal is opened, so that no append meets a disk without room for it."""
        self.keyspace.close()
        for _ in range(2):
            WALEngine(self.directory, FakeKeyspace(self.map.content), 16 * SIZE).close()
            for name in SEGMENT_FILES:
                path = os.path.join(self.directory, name)
                status = os.stat(path)
                self.assertEqual(status.st_size, 16 * SIZE)
                self.assertGreaterEqual(status.st_blocks * 512, status.st_size)
                with open(path, "r+b") as file:
                    head = file.read(HEAD_SIZE)
                    file.truncate(0)
                    file.seek(0)
                    file.write(head)
                    file.truncate(16 * SIZE)
                self.assertLess(os.stat(path).st_blocks * 512, 16 * SIZE)

    def test_creation_that_a_crash_has_ended(self) -> None:
        """A draft is no file of the journal, whatever is in it."""
        self.keyspace.close()
        for name in SEGMENT_FILES:
            path = os.path.join(self.directory, name)
            os.rename(path, path + DRAFT)
            os.truncate(path + DRAFT, 100)
        self.open({})
        put(self.keyspace, {b"a": b"1"})
        self.crash()
        self.assertEqual(content(self.keyspace), {b"a": b"1"})
        self.assertEqual(sorted(os.listdir(self.directory)), list(SEGMENT_FILES))

    def test_of_another_store(self) -> None:
        put(self.keyspace, {b"a": b"1"})
        with self.assertRaisesRegex(StoreUnusable, "belongs to another store"):
            self.open({})


class _Machine(RuleBasedStateMachine):
    """Random batches, folds, faults and crashes, beside a model of what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = scratch_directory()
        self.model: dict[bytes, bytes] = {}
        # What the last batch would have made of it, where its outcome is not known.
        self.perhaps: dict[bytes, bytes] | None = None
        self.number = 0

    def teardown(self) -> None:
        self.keyspace.close()
        shutil.rmtree(self.directory)

    @initialize()
    def begin(self) -> None:
        self.map = FakeKeyspace({codec.META_KEY: b"meta"})
        self.model = dict(self.map.content)
        self.keyspace = WALEngine(self.directory, self.map, SIZE)

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
            batch = self.keyspace.begin()
        except EngineFailed:
            return
        # Beginning decides what was in doubt.
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
    def fold(self) -> None:
        with contextlib.suppress(EngineFull, EngineFailed):
            self.keyspace.fold()

    @rule()
    def tend(self) -> None:
        with contextlib.suppress(EngineFull, EngineFailed):
            self.keyspace.tend()

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
    def spoil_map(self, make: Callable[[], Callable[[str], Fault | None]]) -> None:
        self.map.plan = make()

    @precondition(lambda self: self.keyspace._journal is not None)
    @rule(written=st.sampled_from(["whole", "torn", "not"]))
    def spoil_journal(self, written: str) -> None:
        journal = self.keyspace._journal
        assert journal is not None
        append = journal.append

        def fail(entry: bytes) -> None:
            if written == "whole":
                append(entry)
            if written == "torn":
                torn_append(journal, entry)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        journal.append = fail  # type: ignore[method-assign]

    @rule()
    def mend(self) -> None:
        self.map.well()

    @rule()
    def crash(self) -> None:
        left = self.map.content
        self.keyspace.close()
        self.map = FakeKeyspace(left)
        self.keyspace = WALEngine(self.directory, self.map, SIZE)
        self.decide()

    def decide(self) -> None:
        """What was in doubt has happened or not, and stays so."""
        if self.perhaps is not None:
            if content(self.keyspace) == self.perhaps:
                self.model = self.perhaps
            self.perhaps = None

    @invariant()
    def all_that_was_said(self) -> None:
        if not hasattr(self, "keyspace"):
            return
        plan, self.map.plan = self.map.plan, lambda _: None
        found = content(self.keyspace)
        self.map.plan = plan
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
