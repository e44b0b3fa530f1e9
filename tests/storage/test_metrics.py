"""Tests of `durable_streams_tw.storage.metrics`, and of stats and write checks."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from threading import Thread
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.api import StoreStats
from durable_streams_tw.storage.data_dir import write_obstacle
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.storage.metrics import Histogram, StoreMetrics
from durable_streams_tw.storage.shared import queued_store
from tests.storage import command_builders as commands
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import StoreCase, put


class HistogramTests(SynchronousTestCase):
    """Histograms."""

    @given(st.lists(st.integers(0, 40).map(lambda n: n / 10)))
    def test_counts(self, values: list[float]) -> None:
        """Each value counts in the first bucket whose bound it does not exceed."""
        bounds = (0.5, 1.0, 3.0)
        distribution = Histogram(bounds)
        for value in values:
            distribution.add(value)
        self.assertEqual(sum(distribution.counts), len(values))
        self.assertAlmostEqual(distribution.total, sum(values))
        running = 0
        for bound, count in zip(bounds, distribution.counts, strict=False):
            running += count
            self.assertEqual(running, sum(value <= bound for value in values))


class _Counting(StoreCase):
    """Counters that both stores update."""

    def measured(self) -> StoreMetrics:
        """Return metrics that observe the store."""
        meter = StoreMetrics()
        self.store.set_observer(meter)
        return meter

    def test_commands(self) -> None:
        """Commands and bytes are counted by kind and result."""
        meter = self.measured()
        for command in (
            commands.create("a", b"12345"),
            commands.append("a", b"123", producer=("p", 0, 0)),
            commands.append("a", b"123", producer=("p", 0, 0)),
            commands.append("a", b"1234"),
            commands.append("missing", b"12"),
            commands.close("a"),
            commands.append("a", b"1"),
        ):
            self.result(self.store.submit(command))
        self.assertEqual(
            {key: number for key, number in meter.commands.items() if number},
            {
                ("create", "done"): 1,
                ("append", "done"): 3,
                ("append", "duplicate"): 1,
                ("append", "refused"): 2,
            },
        )
        self.assertEqual(dict(meter.sizes), {"done": 12, "duplicate": 3, "refused": 3})
        self.assertEqual(dict(meter.refusals), {"stream-not-found": 1, "stream-closed": 1})

    def test_bytes_once(self) -> None:
        """Bytes are counted once, also if a listener submits a command."""
        meter = self.measured()
        self.result(self.store.submit(commands.create("a")))
        answers: list[Deferred[Any]] = []

        def more(_: object) -> None:
            if not answers:
                answers.append(self.store.submit(commands.append("a", b"12")))
                answers.append(self.store.submit(commands.append("a", b"345")))

        self.store.add_listener(more)
        self.result(self.store.submit(commands.append("a", b"6")))
        for answer in answers:
            self.result(answer)
        self.assertEqual(meter.sizes["done"], 6)
        self.assertEqual(meter.commands["append", "done"], 3)

    def test_no_obstacle(self) -> None:
        """A working store has no obstacle."""
        self.assertIsNone(self.result(self.store.check_writable()))


class MemoryCountingTests(_Counting, SynchronousTestCase):
    """Counters of the memory store."""

    def make_store(self) -> MemoryStore:
        store = MemoryStore(lambda: self.now)
        store.open()
        return store

    def test_no_disk(self) -> None:
        """The memory store has no stats."""
        self.assertIsNone(self.result(self.store.stats()))


class DurableCountingTests(DurableStoreCase, _Counting, SynchronousTestCase):
    """Counters, stats and write checks of the durable store."""

    store: DurableStore

    def test_batches(self) -> None:
        """Batches are counted with their sizes and durations."""
        meter = self.measured()
        self.result(self.store.submit(commands.create("a")))
        asked = [self.store.submit(commands.append("a", b"1")) for _ in range(5)]
        for answer in asked:
            self.result(answer)
        self.result(self.store.submit(commands.append("missing", b"1")))
        sizes = dict(zip(meter.batch_size.bounds, meter.batch_size.counts, strict=False))
        self.assertEqual((sizes[1], sizes[8]), (2, 1))
        self.assertEqual(meter.batch_size.total, 7)
        # The refused command's batch changed nothing, and was not committed.
        self.assertEqual((meter.commits, sum(meter.commit_seconds.counts)), (2, 2))
        self.assertEqual(sum(meter.batch_seconds.counts), 3)
        self.assertEqual(sum(meter.queue_seconds.counts), 3)
        self.assertGreater(meter.commit_seconds.total, 0)
        self.assertGreaterEqual(meter.batch_seconds.total, meter.commit_seconds.total)

    def test_reads_wait(self) -> None:
        """Reads on reader threads are timed, cached ones are not."""
        meter = self.measured()
        self.result(self.store.get_state("missing"))
        self.assertEqual(sum(meter.read_wait_seconds.counts), 1)
        self.result(self.store.get_state("missing"))
        self.assertEqual(sum(meter.read_wait_seconds.counts), 1)

    def test_failed_batches(self) -> None:
        """Batches that the disk fails are counted."""
        meter = self.measured()
        self.result(self.store.submit(commands.create("a")))

        def fail(_: object) -> None:
            raise EngineFailed("no")

        self.patch(self.store._engine, "begin", lambda: fail(None))
        self.result(self.store.submit(commands.append("a", b"123")))
        self.assertEqual(meter.failures, 1)
        self.assertEqual(meter.commands["append", "failed"], 1)
        self.assertEqual(meter.sizes["failed"], 3)
        self.assertEqual(meter.refusals["storage-unavailable"], 1)

    def test_overloaded(self) -> None:
        """Commands refused before they are queued are counted."""
        meter = self.measured()
        self.patch(queued_store, "MAX_QUEUED_COMMANDS", 0)
        self.result(self.store.submit(commands.append("a", b"123")))
        self.assertEqual(meter.refusals["overloaded"], 1)
        self.assertEqual(meter.commands["append", "failed"], 1)

    def test_levels(self) -> None:
        """Stats have the sizes of LMDB, file and disk, and the lag of readers."""
        self.result(self.store.submit(commands.create("a", b"1" * 3_000)))
        before = self.result(self.store.stats())
        assert isinstance(before, StoreStats)
        self.assertGreater(before.wal_bytes, 3_000)
        self.store._engine.checkpoint()
        before = self.result(self.store.stats())
        assert isinstance(before, StoreStats)
        self.assertEqual(before.wal_bytes, 0)
        self.assertGreater(before.lmdb_used, 3_000)
        self.assertGreaterEqual(before.file_size, before.lmdb_used)
        self.assertGreater(before.lmdb_map_size, before.file_size)
        self.assertGreater(before.disk_free, 0)
        self.assertEqual((before.readers, before.reader_lag), (0, 0))
        with self.store._engine.snapshot():
            for _ in range(3):
                self.result(self.store.submit(commands.append("a", b"1")))
                self.store._engine.checkpoint()
            held = self._elsewhere()
        self.assertEqual((held.readers, held.reader_lag), (1, 3))
        asked = self.store.submit(commands.append("a", b"123"))
        queued = self.result(self.store.stats())
        assert queued is not None
        self.assertEqual((queued.queued, queued.queued_bytes), (1, 3))
        self.result(asked)

    def _elsewhere(self) -> StoreStats:
        """Return the stats from another thread: LMDB has one reader per thread."""
        found: list[StoreStats] = []
        standing = self.store._lmdb.stats
        thread = Thread(target=lambda: found.append(StoreStats(0, 0, 0, *standing())))
        thread.start()
        thread.join()
        return found[0]

    def test_closed(self) -> None:
        """A closed store has no stats and is not writable."""
        self.result(self.store.close())
        self.assertIsNone(self.result(self.store.stats()))
        self.assertEqual(self.result(self.store.check_writable()), "the store is closed")
        self.store = self.open_store()

    def test_no_room(self) -> None:
        """A disk below its reserve, or one that failed, is an obstacle."""
        self.patch(LMDBEngine, "free_disk_bytes", lambda _: 0)
        found = self.result(self.store.check_writable())
        assert found is not None
        self.assertIn("the disk is full", found)

        def broken(_: object) -> int:
            raise EngineFailed("input/output error")

        self.patch(LMDBEngine, "free_disk_bytes", broken)
        self.assertEqual(
            self.result(self.store.check_writable()), "the disk failed: input/output error"
        )

    def test_map_that_fails(self) -> None:
        """A failing LMDB environment or checkpoint is an obstacle."""
        for call in ("begin", "snapshot"):
            self.submit(put(call))
            with mock.patch.object(LMDBEngine, call, side_effect=EngineFailed("it fails")):
                with contextlib.suppress(EngineFailed):
                    self.store._engine.checkpoint()
                self.assertEqual(
                    self.result(self.store.check_writable()),
                    "the store's file cannot be read or written: it fails",
                )
            self.store._engine.checkpoint()
            self.assertIsNone(self.result(self.store.check_writable()))

    def test_a_bug_is_an_obstacle(self) -> None:
        """An exception on the committer thread is an obstacle."""

        def bug() -> None:
            raise RuntimeError("oh")

        self.patch(self.store._committer, "obstacle", bug)
        self.assertEqual(self.result(self.store.check_writable()), "the committer met a bug")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_dead_committer(self) -> None:
        """Without a committer thread the check never fires."""
        self.patch(self.executor, "submit_write", lambda job: None)
        asked = self.store.check_writable()
        self.executor.drain()
        self.assertNoResult(asked)


class WriteProbeTests(SynchronousTestCase):
    """Write check of a directory."""

    def test_leaves_nothing(self) -> None:
        """The check leaves no file."""
        directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, directory)
        self.assertIsNone(write_obstacle(directory))
        self.assertEqual(os.listdir(directory), [])

    def test_obstacles(self) -> None:
        """Errors of each system call are reported."""
        directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, directory)

        def refuse(number: int) -> Any:
            return mock.Mock(side_effect=OSError(number, os.strerror(number)))

        for name, number in (("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("fsync", errno.EROFS)):
            with mock.patch.object(os, name, refuse(number)):
                found = write_obstacle(directory)
            self.assertEqual(found, f"the data directory cannot be written: {os.strerror(number)}")
        found = write_obstacle(os.path.join(directory, "missing"))
        self.assertEqual(
            found, f"the data directory cannot be written: {os.strerror(errno.ENOENT)}"
        )
