"""Tests of admin tools on stores with batches that are only in the WAL."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from functools import partial
from typing import Any
from unittest import mock

from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.storage.admin.backup import back_up, read_manifest
from durable_streams_tw.storage.admin.compact import compact
from durable_streams_tw.storage.admin.copy import Progress
from durable_streams_tw.storage.admin.fsck.findings import Flaw
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.restore import restore
from durable_streams_tw.storage.admin.stats import count
from durable_streams_tw.storage.admin.verify import FlawedStore
from durable_streams_tw.storage.data_dir import DataDirLock
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.engine.wal import checkpoint
from durable_streams_tw.storage.engine.wal.engine import WALEngine
from durable_streams_tw.storage.engine.wal.format import Entry, pack_entry
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, SEGMENT_FILES
from tests.storage.admin.test_backup import NOW, quiet
from tests.storage.durable.store_case import DurableStoreCase, scratch_directory
from tests.storage.fsck_assertions import check_directory
from tests.storage.store_case import post, put

_SEGMENT_SIZE = 256 * KIB


class WALCase(DurableStoreCase, SynchronousTestCase):
    """Base of tests with an open store: batches in both segments, none in LMDB."""

    store: DurableStore

    def setUp(self) -> None:
        super().setUp()
        self.created(put("kept", raw=b"kept,"))
        self.created(put("gone", raw=b"gone"))
        # No checkpoint has run.
        self.store._engine._freeze()
        self.appended(post(b"more", "kept"))
        self.deleted("gone")
        self.place = tempfile.mkdtemp(dir=self._scratch)
        self.backup = os.path.join(self.place, "backup")
        self.assertFalse(self.map_has("kept"))

    def map_has(self, path: str) -> bool:
        with self.store._lmdb.snapshot() as view:
            return view.get(b"p" + path.encode()) is not None

    def crashed(self) -> str:
        """Return a copy of the directory, as a crash would leave it."""
        directory = tempfile.mkdtemp(dir=self._scratch)
        for name in (DATA_FILE, *SEGMENT_FILES):
            shutil.copy(os.path.join(self.directory, name), directory)
        return directory

    def damage(self, directory: str) -> None:
        """Damage the first batch."""
        with open(os.path.join(directory, SEGMENT_FILES[0]), "r+b") as file:
            file.seek(520)
            file.write(b"\xff\xff\xff")

    def assertWhole(self, directory: str) -> None:
        """Assert that a store opens with all its content."""
        self.result(self.store.close())
        self.directory = directory
        self.store = self.open_store()
        self.assertEqual(self.content("kept"), b"kept,more")
        self.assertGone("gone")


class WALCopyTests(WALCase):
    """Backups and compactions."""

    def test_backed_up(self) -> None:
        """A backup has all batches in its data file."""
        back_up(self.crashed(), self.backup, (), lambda: NOW, quiet)
        self.assertEqual(check_directory(self.backup, deep=True), [])
        restored = os.path.join(self.place, "restored")
        restore(self.backup, restored, NOW, quiet)
        self.assertWhole(restored)

    def test_compacted_after_a_crash(self) -> None:
        directory = self.crashed()
        compact(directory, quiet)
        self.assertWhole(directory)

    def test_a_restored_store_goes_its_own_way(self) -> None:
        """The original's segments are refused in a restored store."""
        back_up(self.crashed(), self.backup, (), lambda: NOW, quiet)
        restored = os.path.join(self.place, "restored")
        restore(self.backup, restored, NOW, quiet)
        for name in SEGMENT_FILES:
            shutil.copy(os.path.join(self.directory, name), restored)
        self.result(self.store.close())
        whole, self.directory = self.directory, restored
        with self.assertRaisesRegex(StoreUnusable, "belongs to another store"):
            self.open_store()
        self.directory = whole
        self.store = self.open_store()

    def test_damaged(self) -> None:
        """A store with a damaged WAL is copied only with `even_flawed`."""
        directory = self.crashed()
        self.damage(directory)
        found = {finding.flaw for finding in check_directory(directory)}
        self.assertEqual(found, {Flaw.WAL})
        with self.assertRaisesRegex(FlawedStore, "journal"):
            back_up(directory, self.backup, (), lambda: NOW, quiet)
        with self.assertRaisesRegex(FlawedStore, "journal"):
            compact(directory, quiet)
        back_up(directory, self.backup, (), lambda: NOW, quiet, even_flawed=True)
        self.assertEqual(read_manifest(self.backup).flaws, 0)


class PortionsTests(WALCase):
    """LMDB has parts of batches that came after the WAL was read, as the disk is full."""

    def setUp(self) -> None:
        super().setUp()
        commit_changes, made = checkpoint.commit_changes, iter((False, True, True, False))

        def narrow(engine: Any, changes: Any) -> None:
            if not next(made, False):
                raise EngineFull("by plan")
            commit_changes(engine, changes)

        patched = self.patch(checkpoint, "commit_changes", narrow)
        self.assertRaises(EngineFull, self.store._engine._checkpoint_all, 4)
        patched.restore()

    def read_early(self) -> None:
        """Let the first read of the WAL miss the last batches."""
        entries, early = Inspection.wal_entries, [True]

        def read(store: Inspection) -> list[Entry]:
            return entries(store)[: 2 if early and early.pop() else None]

        self.patch(Inspection, "wal_entries", read)

    def test_seen(self) -> None:
        """A snapshot has whole batches, or is refused."""
        directory = self.crashed()
        self.read_early()
        with Inspection(directory) as store, store.snapshot() as view:
            self.assertEqual(count(view, 1).size, 9)
        self.patch(Inspection, "unapplied", lambda store, mark, entries: None)
        with Inspection(directory) as store, self.assertRaisesRegex(EngineFailed, "try again"):
            store.snapshot().__enter__()

    def test_checkpoint_while_the_wal_is_read(self) -> None:
        """A checkpoint between the reads of LMDB and of the WAL is detected."""
        with Inspection(self.crashed()) as store:
            with store._lmdb_snapshot() as view:
                mark = checkpoint.read_checkpoint_record(view)
            assert mark is not None
            self.patch(store, "wal_entries", list)
            left = store.unapplied(mark, [])
            assert left is not None
            self.assertEqual([entry.number for entry in left], [1, 2, 3, 4])
            self.patch(store, "_record", lambda view: mark.advanced_to(4))
            self.assertIsNone(store.unapplied(mark, []))

    def test_backed_up(self) -> None:
        directory = self.crashed()
        self.read_early()
        back_up(directory, self.backup, (), lambda: NOW, quiet)
        restored = os.path.join(self.place, "restored")
        restore(self.backup, restored, NOW, quiet)
        self.assertWhole(restored)

    def test_not_backed_up(self) -> None:
        directory = self.crashed()
        self.patch(Inspection, "unapplied", lambda store, mark, entries: None)
        with self.assertRaisesRegex(StoreUnusable, "try again"):
            back_up(directory, self.backup, (), lambda: NOW, quiet)

    def test_lost(self) -> None:
        """LMDB has parts of batches that are lost in the WAL: each command reports it, and
        `even_flawed` saves the rest."""
        directory = self.crashed()
        for name in SEGMENT_FILES:
            os.unlink(os.path.join(directory, name))
        findings = check_directory(directory)
        self.assertEqual([f.flaw for f in findings], [Flaw.WAL, Flaw.UNREADABLE])
        for finding in findings:
            self.assertIn("batch 1 is missing from the WAL", finding.detail)
        for copy in (partial(compact, directory), partial(self.back_up, directory)):
            with self.assertRaisesRegex(FlawedStore, "batch 1 is missing"):
                copy(quiet)
        self.result(self.store.close())
        self.directory, whole = directory, self.directory
        advice = "acknowledged writes are lost.*backup --even-flawed"
        with self.assertRaisesRegex(StoreUnusable, advice):
            self.open_store()
        back_up(directory, self.backup, (), lambda: NOW, quiet, even_flawed=True)
        restored = os.path.join(self.place, "restored")
        restore(self.backup, restored, NOW, quiet, even_flawed=True)
        self.directory = restored
        self.result(self.open_store().close())
        self.directory = whole
        self.store = self.open_store()

    def back_up(self, directory: str, progress: Progress) -> None:
        back_up(directory, self.backup, (), lambda: NOW, progress)


class BegunAheadTests(SynchronousTestCase):
    """A store of an earlier version whose ``begun`` is a batch that the WAL refused: LMDB has 74
    batches, the WAL 75 to 104, and the request of 105 failed."""

    def setUp(self) -> None:
        self.place = scratch_directory(self)
        archive = FilePath(__file__).sibling("stores").child("begun-ahead.tar.gz")
        with tarfile.open(archive.path) as tar:
            tar.extractall(self.place, filter="data")
        self.directory = os.path.join(self.place, "begun-ahead")

    def engine(self) -> WALEngine:
        engine = WALEngine(self.directory, LMDBEngine(self.directory), _SEGMENT_SIZE)
        self.addCleanup(engine.close)
        return engine

    def state(self) -> tuple[int, dict[str, int]]:
        """Return the last batch and the tails of all streams."""
        with Inspection(self.directory) as store, store.snapshot() as view:
            tails = {
                record.state.path: record.state.tail
                for _, record in tables.scan(view, tables.STREAMS, b"", None)
            }
            return view.version, tails

    def test_opens(self) -> None:
        """The store opens with all acknowledged batches, also after later commits."""
        version, tails = self.state()
        self.assertEqual(version, 104)
        self.assertEqual(check_directory(self.directory), [])
        for number in (106, 107):
            engine = self.engine()
            self.assertEqual(engine.memtable_bytes(), 0)
            batch = engine.begin()
            batch.put(codec.META_KEY, bytes(batch.get(codec.META_KEY) or b""))
            self.assertEqual(batch.commit(), number)
            # As after a crash.
            engine.close()
            self.assertEqual(self.state(), (number, tails))
            self.assertEqual(check_directory(self.directory), [])

    def test_while_the_map_has_no_room(self) -> None:
        """With a full disk, reads work, writes are refused, and the record stays."""
        version, tails = self.state()
        with mock.patch.object(checkpoint, "commit_changes", side_effect=EngineFull("by plan")):
            engine = self.engine()
            with engine.snapshot() as view:
                self.assertEqual(sum(1 for _ in view.scan(*codec.STREAMS)), len(tails))
            batch = engine.begin()
            batch.put(codec.META_KEY, b"")
            self.assertRaises(EngineFull, batch.commit)
            engine.close()
        self.assertEqual(self.state(), (version, tails))

    def test_copied(self) -> None:
        """The store is backed up and compacted with all acknowledged batches."""
        _, tails = self.state()
        backup = os.path.join(self.place, "backup")
        back_up(self.directory, backup, (), lambda: NOW, quiet)
        compact(self.directory, quiet)
        self.assertEqual(self.state()[1], tails)
        self.assertEqual(self.engine()._number, 104)
        self.directory = backup
        self.assertEqual(self.state()[1], tails)

    def test_torn(self) -> None:
        """If the WAL has a damaged entry of that number, the store is refused: the batch may have
        been acknowledged."""
        with Inspection(self.directory) as store, store._lmdb_snapshot() as view:
            mark = checkpoint.read_checkpoint_record(view)
        assert mark is not None
        entry = pack_entry(mark.wal_id, 105, {b"k": b"v"})
        with open(os.path.join(self.directory, "journal.b"), "r+b") as file:
            file.seek(63481)
            file.write(entry[:-1])
        with self.assertRaisesRegex(StoreUnusable, "batch 105 is missing"):
            self.engine()


class WALInspectionTests(WALCase):
    """`Inspection` of stores whose WAL is not applied."""

    def assertSeen(self, store: Inspection) -> None:
        with store.snapshot() as view:
            found = count(view, 1)
        self.assertEqual((found.streams, found.size), (1, 9))

    def test_seen(self) -> None:
        with Inspection(self.crashed()) as store:
            self.assertSeen(store)
            self.assertEqual(store.wal_findings(), [])

    def test_checkpoint_between_reads(self) -> None:
        """Batches that leave the WAL between two reads are in LMDB."""
        with Inspection(self.crashed()) as store:
            entries = store.wal_entries()
        self.assertEqual(len(entries), 4)
        for _ in range(2):
            self.store._engine.checkpoint()
            self.assertTrue(self.map_has("kept"))
            with Inspection(self.crashed()) as store:
                self.patch(store, "wal_entries", lambda: entries)
                self.assertSeen(store)

    def test_used_again_meanwhile(self) -> None:
        """Entries after a gap are newer than the snapshot and left out."""
        with Inspection(self.crashed()) as store:
            last = store.wal_entries()[-1]
            gap = Entry(last.number + 2, {b"p?": b"strange"}, 0)
            entries = [*store.wal_entries(), gap]
            self.patch(store, "wal_entries", lambda: entries)
            self.assertSeen(store)

    def test_a_server_is_writing(self) -> None:
        """While a server writes the WAL, no damage is reported."""
        directory = self.crashed()
        self.damage(directory)
        claim = DataDirLock(directory)
        with Inspection(directory) as store:
            self.assertEqual(store.wal_findings(), [])
        claim.release()
        with Inspection(directory) as store:
            self.assertNotEqual(store.wal_findings(), [])


del WALCase
