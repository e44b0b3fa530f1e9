"""Tests of the LMDB engine: order, versions, failures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import lmdb
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine import lmdb as engine_lmdb
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.engine.lmdb_pages import DamagedPages
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, DRAFT, LOCK_FILE
from tests.storage.durable.store_case import scratch_directory
from tests.storage.engine.failing_files import SUPPORTED, break_meta, pages_fail
from tests.storage.engine.fake_engine import FakeEngine

pairs = st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(max_size=3), max_size=20)
bounds = st.binary(min_size=1, max_size=3)


class LMDBCase(SynchronousTestCase):
    """Base of tests with an LMDB environment each."""

    def setUp(self) -> None:
        self.directory = scratch_directory(self)
        self.engine = LMDBEngine(self.directory)
        self.addCleanup(lambda: self.engine.close())

    def put(self, key: bytes, value: bytes) -> int:
        """Commit one pair and return its version."""
        batch = self.engine.begin()
        try:
            batch.put(key, value)
            return batch.commit()
        finally:
            batch.abort()

    def get(self, key: bytes) -> bytes | None:
        """Return the pairs of a new snapshot."""
        with self.engine.snapshot() as view:
            value = view.get(key)
            return None if value is None else bytes(value)

    def seen(self) -> int:
        """Return the version of a new snapshot."""
        with self.engine.snapshot() as view:
            return view.version


class MapTests(LMDBCase):
    """An environment without faults."""

    @given(pairs, pairs, bounds, bounds, bounds)
    def test_equals_a_sorted_dictionary(
        self,
        first: dict[bytes, bytes],
        second: dict[bytes, bytes],
        start: bytes,
        lowest: bytes,
        stop: bytes,
    ) -> None:
        """Gets and scans of snapshots and batches equal those of a sorted dictionary."""
        fake = FakeEngine()
        for engine in (self.engine, fake):
            with engine.snapshot() as view:
                old = [bytes(key) for key, _ in view.scan(b"\x00", b"\xff" * 9)]
            batch = engine.begin()
            for key in old:
                batch.delete(key)
            for key, value in first.items():
                batch.put(key, value)
            batch.delete(b"never there")
            batch.commit()
        batches = (self.engine.begin(), fake.begin())
        for batch in batches:
            for key, value in second.items():
                batch.put(key, value)
            for key in list(first)[::2]:
                batch.delete(key)
        with self.engine.snapshot() as snapshot, fake.snapshot() as expected:
            for found, known in ((snapshot, expected), batches):
                self.assertEqual(
                    *[
                        [(bytes(key), bytes(value)) for key, value in view.scan(start, stop)]
                        for view in (found, known)
                    ]
                )
                self.assertEqual(
                    *[
                        [
                            bytes(key)
                            for key, _ in view.scan_from_floor(start, min(lowest, start), stop)
                        ]
                        for view in (found, known)
                    ]
                )
                self.assertEqual(
                    *[
                        [None if value is None else bytes(value) for value in map(view.get, first)]
                        for view in (found, known)
                    ]
                )
        for batch in batches:
            batch.abort()

    def test_a_snapshot_stays_what_it_was(self) -> None:
        self.put(b"a", b"1")
        with self.engine.snapshot() as before:
            version = self.put(b"a", b"2")
            self.assertEqual(bytes(before.get(b"a") or b""), b"1")
            self.assertLess(before.version, version)
        self.assertEqual(self.seen(), version)
        self.assertEqual(self.get(b"a"), b"2")

    def test_an_aborted_batch_leaves_nothing(self) -> None:
        version = self.put(b"a", b"1")
        batch = self.engine.begin()
        batch.put(b"a", b"2")
        batch.abort()
        batch.abort()
        self.assertEqual((self.get(b"a"), self.seen()), (b"1", version))

    def test_reopened(self) -> None:
        version = self.put(b"a", b"1")
        self.engine.close()
        self.engine = LMDBEngine(self.directory)
        self.assertEqual((self.get(b"a"), self.seen()), (b"1", version))

    def test_files(self) -> None:
        """Files are private to their owner, and the lock file has no holes."""
        for name in (DATA_FILE, LOCK_FILE):
            status = os.stat(os.path.join(self.directory, name))
            self.assertEqual(status.st_mode & 0o777, 0o600, name)
        self.assertGreaterEqual(status.st_blocks * 512, status.st_size)

    def test_room(self) -> None:
        """Free pages of the file count as free space."""
        self.assertLessEqual(self.engine.free_disk_bytes(), self.engine.total_disk_bytes())
        self.assertTrue(self.engine.has_space(0))
        before = self.engine.used_bytes()
        batch = self.engine.begin()
        for number in range(500):
            batch.put(b"%d" % number, bytes(16_000))
        batch.commit()
        self.assertGreater(self.engine.used_bytes(), before + 500 * 16_000)
        self.patch(self.engine, "free_disk_bytes", lambda: 0)
        self.assertFalse(self.engine.has_space(1_000_000))
        batch = self.engine.begin()
        for number in range(500):
            batch.delete(b"%d" % number)
        batch.commit()
        self.assertTrue(self.engine.has_space(1_000_000))
        self.assertFalse(self.engine.has_space(100_000_000))
        self.assertLess(self.engine.used_bytes(), before + 100_000)


class OpeningTests(SynchronousTestCase):
    """Directories that cannot be opened, each with its own message."""

    def setUp(self) -> None:
        self.directory = scratch_directory(self)
        self.path = os.path.join(self.directory, DATA_FILE)

    def assertUnusable(self, sentence: str) -> None:
        with self.assertRaisesRegex(StoreUnusable, sentence):
            LMDBEngine(self.directory)

    def fill(self, number: int) -> None:
        engine = LMDBEngine(self.directory)
        batch = engine.begin()
        for key in range(number):
            batch.put(b"%d" % key, bytes(16_000))
        batch.commit()
        engine.close()

    def test_no_database(self) -> None:
        for content in (b"short", b"x" * 100_000):
            with open(self.path, "wb") as file:
                file.write(content)
            self.assertUnusable("is not an LMDB database")

    def test_empty(self) -> None:
        """An empty file is refused: LMDB would create a new database in it."""
        self.fill(1)
        os.truncate(self.path, 0)
        self.assertUnusable("is empty: it was truncated")
        self.assertEqual(os.stat(self.path).st_size, 0)

    def test_interrupted_creation(self) -> None:
        """The draft of an interrupted creation is replaced."""
        for content in (b"", b"half", bytes(8192)):
            with open(self.path + DRAFT, "wb") as file:
                file.write(content)
            self.fill(1)
            self.assertFalse(os.path.exists(self.path + DRAFT))
            os.unlink(self.path)

    def test_no_file(self) -> None:
        os.mkdir(self.path)
        self.assertUnusable("cannot be opened")

    def test_no_lock_file(self) -> None:
        os.mkdir(os.path.join(self.directory, LOCK_FILE))
        self.assertUnusable("cannot be written: Is a directory")

    def test_another_version_of_lmdb(self) -> None:
        self.fill(1)
        with open(self.path, "r+b") as file:
            for page in (0, 1):
                # The version follows the page header and the magic number.
                file.seek(page * 4096 + 16 + 4)
                file.write(b"\x63")
        self.assertUnusable("cannot be opened")

    def test_cut_short(self) -> None:
        """A truncated file is refused: reading past its end would kill the process."""
        self.fill(100)
        size = os.stat(self.path).st_size
        os.truncate(self.path, size // 2)
        self.assertUnusable(f"has {size // 2} bytes of .*: it was truncated")

    def test_a_little_short(self) -> None:
        """A file without pages that were never written is accepted. It is extended to its full
        length, so that the next start does not check all pages."""
        self.fill(100)
        size = os.stat(self.path).st_size
        with open(self.path, "r+b") as file:
            for page in (0, 1):
                file.seek(page * 4096 + 136)
                file.write((size // 4096 + 1).to_bytes(8, sys.byteorder))
        LMDBEngine(self.directory).close()
        self.assertEqual(os.stat(self.path).st_size, size + 8192)
        self.patch(engine_lmdb, "used_end", None)
        LMDBEngine(self.directory).close()

    def test_damaged_and_short(self) -> None:
        self.fill(100)
        os.truncate(self.path, os.stat(self.path).st_size - 8192)
        self.patch(engine_lmdb, "used_end", self.damaged)
        self.assertUnusable("is damaged: page 7 is not a tree page")

    def damaged(self, *_: object) -> int:
        raise DamagedPages("page 7 is not a tree page")

    def test_little_address_space(self) -> None:
        """With little address space, the environment is smaller."""
        real = lmdb.open
        tried: list[int] = []

        def scarce(directory: str, map_size: int, **options: Any) -> object:
            tried.append(map_size)
            if map_size > 1 << 36:
                raise lmdb.MemoryError("Cannot allocate memory")
            return real(directory, map_size=map_size, **options)

        self.patch(lmdb, "open", scarce)
        LMDBEngine(self.directory).close()
        self.assertEqual(tried[-1], 1 << 36)
        self.patch(engine_lmdb, "MAP_SIZE", 1 << 70)
        self.patch(lmdb, "open", self.no_memory)
        self.assertUnusable("not enough address space")

    def no_memory(self, *_: object, **__: object) -> None:
        raise MemoryError


class FailureTests(LMDBCase):
    """Failures of the disk, after which the engine works again."""

    if not SUPPORTED:
        skip = "this system does not let one replace one's own open files"

    def setUp(self) -> None:
        super().setUp()
        self.put(b"a", b"old")

    def test_full(self) -> None:
        """A full disk raises `EngineFull`; nothing was written."""
        floor = self.engine.min_version
        with pages_fail(self.directory, full=True):
            with self.assertRaises(EngineFull):
                self.put(b"a", b"new")
            self.assertEqual(self.get(b"a"), b"old")
        self.put(b"b", b"new")
        self.assertEqual((self.get(b"a"), self.get(b"b")), (b"old", b"new"))
        self.assertGreater(self.engine.min_version, floor)

    def test_failed(self) -> None:
        seen = self.seen()
        with pages_fail(self.directory, full=False):
            with self.assertRaises(EngineFailed):
                self.put(b"a", b"new")
            self.assertGreater(self.seen(), seen)
            self.assertEqual(self.get(b"a"), b"old")
        self.assertGreater(self.put(b"b", b"new"), self.seen() - 2)
        self.assertEqual((self.get(b"a"), self.get(b"b")), (b"old", b"new"))

    def test_meta_page(self) -> None:
        """A failed meta page breaks the environment, also for reads: it is reopened at once. The
        outcome is unknown even if the disk was full."""
        with self.engine.snapshot() as view:
            seen = view.version
        break_meta(self.directory)
        with self.assertRaises(EngineFailed):
            self.put(b"a", b"new")
        self.assertEqual(self.get(b"a"), b"old")
        self.assertGreaterEqual(self.seen(), self.engine.min_version)
        self.assertGreater(self.engine.min_version, seen)
        self.assertGreater(self.put(b"a", b"newer"), self.engine.min_version)
        self.assertEqual(self.get(b"a"), b"newer")

    def test_again_and_again(self) -> None:
        for number in range(5):
            break_meta(self.directory)
            with self.assertRaises(EngineFailed):
                self.put(b"a", b"%d" % number)
            self.put(b"b", b"%d" % number)
            self.assertEqual((self.get(b"a"), self.get(b"b")), (b"old", b"%d" % number))

    def test_reopening_waits_for_snapshots(self) -> None:
        """Reopening waits for open snapshots."""
        snapshot = self.engine.snapshot()
        view = snapshot.__enter__()

        def wait_for(ready: Callable[[], bool]) -> None:
            self.assertFalse(ready())
            self.assertEqual(bytes(view.get(b"a") or b""), b"old")
            snapshot.__exit__(None, None, None)
            self.assertTrue(ready())

        self.patch(self.engine._changed, "wait_for", wait_for)
        break_meta(self.directory)
        with self.assertRaises(EngineFailed):
            self.put(b"a", b"new")
        self.assertEqual(self.get(b"a"), b"old")

    def test_reopening_fails(self) -> None:
        """If reopening fails, everything fails until it succeeds. A read alone reopens the
        environment: with a WAL, writes may not reach LMDB for a long time."""
        break_meta(self.directory)
        path = os.path.join(self.directory, DATA_FILE)
        os.rename(path, path + ".away")
        os.mkdir(path)
        for _ in range(2):
            with self.assertRaisesRegex(EngineFailed, "cannot be opened"):
                self.put(b"a", b"new")
            with self.assertRaises(EngineFailed):
                self.get(b"a")
            for ask in (self.engine.used_bytes, self.engine.check_readers):
                with self.assertRaises(EngineFailed):
                    ask()
        os.rmdir(path)
        os.rename(path + ".away", path)
        floor = self.engine.min_version
        self.assertEqual(self.get(b"a"), b"old")
        self.assertGreater(self.engine.min_version, floor)
        self.engine.check_readers()
        self.put(b"b", b"new")
        self.assertEqual((self.get(b"a"), self.get(b"b")), (b"old", b"new"))

    def test_missing_file(self) -> None:
        """Reopening does not replace a missing file by an empty store."""
        path = os.path.join(self.directory, DATA_FILE)
        break_meta(self.directory)
        os.rename(path, path + ".away")
        with self.assertRaises(EngineFailed):
            self.put(b"a", b"new")
        with self.assertRaisesRegex(EngineFailed, "No such file"):
            self.get(b"a")
        self.assertFalse(os.path.exists(path))
        os.rename(path + ".away", path)
        self.assertEqual(self.get(b"a"), b"old")

    def test_closed_while_it_cannot_be_opened(self) -> None:
        """Closing during a disk fault raises nothing."""
        break_meta(self.directory)
        with mock.patch.object(lmdb, "open", side_effect=lmdb.Error("Input/output error")):
            with self.assertRaises(EngineFailed):
                self.put(b"a", b"new")
            self.engine.close()

    def test_the_map_is_full(self) -> None:
        self.engine.close()
        self.patch(engine_lmdb, "MAP_SIZE", 1 << 20)
        self.engine = LMDBEngine(self.directory)
        batch = self.engine.begin()
        with self.assertRaises(EngineFull):
            for number in range(200):
                batch.put(b"%d" % number, bytes(16_000))
        batch.abort()
        self.put(b"b", b"new")
        self.assertEqual(self.get(b"0"), None)

    def test_no_such_file_system(self) -> None:
        """Without its directory, even `has_space` fails."""
        self.engine._directory += "/missing"
        for ask in (self.engine.free_disk_bytes, self.engine.total_disk_bytes):
            with self.assertRaises(EngineFailed):
                ask()
        with self.assertRaises(EngineFailed):
            self.engine.has_space(1)

    def test_use_after_the_end(self) -> None:
        """A closed view raises, and never reads unmapped memory."""
        with self.engine.snapshot() as view:
            pass
        batch = self.engine.begin()
        batch.abort()
        for over in (view, batch):
            with self.assertRaises(EngineFailed):
                over.get(b"a")
            with self.assertRaises(EngineFailed):
                list(over.scan(b"a", b"b"))
            with self.assertRaises(EngineFailed):
                list(over.scan_from_floor(b"a", b"a", b"b"))
        with self.assertRaises(EngineFailed):
            batch.put(b"a", b"b")
        with self.assertRaises(EngineFailed):
            batch.delete(b"a")
