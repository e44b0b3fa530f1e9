"""Tests of `durable_streams_tw.storage.durable.store`."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import Lifetime, StreamState
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import Chunk, Command, IStreamStore, Outcome
from durable_streams_tw.storage.commands.batches import BatchResult
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.limits import MAX_READERS
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, SEGMENT_FILES
from durable_streams_tw.storage.limits import (
    ACCESS_FLUSH_INTERVAL,
    DELETE_STEP,
    RECORD_PAYLOAD,
    SWEEP_INTERVAL,
)
from durable_streams_tw.storage.queries import ListStreams, Page
from durable_streams_tw.storage.shared import queued_store
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.fsck_assertions import check_directory
from tests.storage.shared.inline_executor import InlineExecutor
from tests.storage.store_case import JSON, START, post, put

# Number of records of a store without streams.
_EMPTY = [codec.CHECKPOINT_KEY, codec.META_KEY, codec.NEXT_ID_KEY]


class _Case(DurableStoreCase, SynchronousTestCase):
    store: DurableStore

    def count_steps(self) -> list[int]:
        """Record the number of commands per batch."""
        sizes: list[int] = []
        step = self.store._committer.step

        def counted(commands: Sequence[Command]) -> BatchResult:
            sizes.append(len(commands))
            return step(commands)

        self.patch(self.store._committer, "step", counted)
        return sizes

    def crash(self) -> None:
        """Reopen the store from the files as they are, without closing it."""
        directory = tempfile.mkdtemp(dir=self._scratch)
        for name in (DATA_FILE, *SEGMENT_FILES):
            shutil.copy(os.path.join(self.directory, name), directory)
        self.addCleanup(self.store.close)
        self.directory = directory
        self.store = self.open_store()
        self.store.add_listener(self.announced.append)

    def touched_at(self, path: str = "a") -> int:
        """Return the last access of a stream on the disk."""
        with self.store._engine.snapshot() as view:
            record = reader.load_stream_at(view, path)
            assert record is not None
            return record.state.touched_at


class BatchTests(_Case):
    """Queued commands share a commit, within bounds."""

    def test_interface(self) -> None:
        verifyObject(IStreamStore, self.store)

    def test_what_has_queued_is_one_batch(self) -> None:
        sizes = self.count_steps()
        self.submit_all(put(), *[post(b"x") for _ in range(99)], put("b"))
        self.submit(post(b"y"))
        self.assertEqual(sizes, [101, 1])

    def test_bounded_in_bytes(self) -> None:
        self.patch(limits, "MAX_BATCH", 1000)
        sizes = self.count_steps()
        self.submit_all(put(), *[post(b"x" * size) for size in (400, 600, 1, 5000, 999, 1, 1)])
        self.assertEqual(sizes, [3, 1, 1, 2, 1])
        self.assertEqual(len(self.content()), 7002)

    def test_bounded_in_number(self) -> None:
        self.patch(limits, "MAX_BATCH_COMMANDS", 4)
        sizes = self.count_steps()
        self.submit_all(put(), *[post(b"%d" % number) for number in range(9)])
        self.assertEqual(sizes, [4, 4, 2])
        self.assertEqual(self.content(), b"012345678")

    def test_order_of_visibility(self) -> None:
        """A commit is visible, then its outcome is reported, then it is announced."""
        self.submit(put())
        order: list[str] = []

        def looked(who: str) -> None:
            state = self.successResultOf(self.store.get_state("a"))
            assert isinstance(state, StreamState)
            order.append(f"{who} sees {state.tail}")

        self.store.add_listener(lambda changes: looked(f"listener of {len(changes)}"))
        for number in range(2):
            answered = self.store.submit(post(b"xx"))
            answered.addCallback(partial(lambda who, _: looked(who), f"writer {number}"))
        self.executor.drain()
        self.assertEqual(order, ["writer 0 sees 4", "writer 1 sees 4", "listener of 2 sees 4"])

    def test_a_cancelled_command_is_carried_out(self) -> None:
        self.submit(put())
        answered = self.store.submit(post(b"x"))
        answered.addErrback(lambda _: None)
        answered.cancel()
        self.executor.drain()
        self.assertEqual(self.content(), b"x")

    def test_too_much_at_once(self) -> None:
        """Commands above the queue's bounds are refused; queued ones are carried out."""
        self.submit(put())
        self.patch(queued_store, "MAX_QUEUE", 1000)
        first = self.store.submit(post(b"x" * 900))
        refusal = self.assertRefused(
            Problem.OVERLOADED, self.successResultOf(self.store.submit(post(b"y" * 101)))
        )
        self.assertIn((b"Retry-After", b"1"), refusal.headers)
        second = self.store.submit(post(b"z" * 100))
        self.executor.drain()
        for answered in (first, second):
            self.assertNotIsInstance(self.successResultOf(answered), Refusal)
        self.patch(queued_store, "MAX_QUEUED_COMMANDS", 2)
        answers = [self.store.submit(post(b"w")) for _ in range(3)]
        self.executor.drain()
        self.assertRefused(Problem.OVERLOADED, self.successResultOf(answers[2]))
        self.assertEqual(self.content(), b"x" * 900 + b"z" * 100 + b"ww")
        self.appended(post(b"!" * 900))

    def test_exception_on_the_committer_thread(self) -> None:
        """An exception fails its batch; the committer thread continues."""
        self.submit(put())

        def broken(_: Sequence[Command]) -> BatchResult:
            raise ZeroDivisionError

        with_bug = self.patch(self.store._committer, "step", broken)
        for outcome in self.submit_all(post(b"x"), post(b"y")):
            self.assertRefused(Problem.INTERNAL, outcome)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        with_bug.restore()
        self.appended(post(b"z"))
        self.assertEqual(self.content(), b"z")


class ClosingTests(_Case):
    """Closing carries out accepted commands, and refuses later ones."""

    def test_the_queue_is_drained(self) -> None:
        answers: list[Deferred[Outcome]] = [
            self.store.submit(command) for command in (put(), post(b"x"), post(b"y"))
        ]
        read = self.store.read("a", 0, 10)
        closed = self.store.close()
        self.assertRefused(Problem.STOPPING, self.successResultOf(self.store.submit(post(b"late"))))
        self.result(closed)
        for answered in answers:
            self.assertNotIsInstance(self.successResultOf(answered), Refusal)
        self.assertIsInstance(self.successResultOf(read), Chunk)
        self.store = self.open_store()
        self.assertEqual(self.content(), b"xy")

    def test_closed(self) -> None:
        self.submit(put())
        self.result(self.store.close())
        asks: list[Deferred[Any]] = [
            self.store.submit(post(b"x")),
            self.store.read("a", 0, 1),
            self.store.get_state("a"),
        ]
        for needs_disk in asks:
            self.assertRefused(Problem.STOPPING, self.successResultOf(needs_disk))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed_twice(self) -> None:
        """A second close waits for the first."""
        self.patch(self.executor, "stop", lambda: stopped)
        stopped: Deferred[None] = Deferred()
        first, second = self.store.close(), self.store.close()
        self.assertNoResult(first)
        self.assertNoResult(second)
        stopped.callback(None)
        for closed in (first, second, self.store.close()):
            self.assertIsNone(self.successResultOf(closed))

    def test_never_opened(self) -> None:
        store = DurableStore(self.directory, self.clock, InlineExecutor())
        self.assertIsNone(self.successResultOf(store.close()))
        self.assertRefused(Problem.STOPPING, self.successResultOf(store.submit(put())))

    def test_last_accesses_are_written_down(self) -> None:
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.sleep(7)
        self.read()
        self.restart()
        self.sleep(9)
        self.assertIsNotNone(self.state_of())


class ReadingTests(_Case):
    """Cached reads, and reads on reader threads."""

    def needs_disk(self, deferred: Deferred[Any]) -> bool:
        """Return True if a read needed the disk."""
        needs_disk = not deferred.called
        self.executor.drain()
        self.assertNotIsInstance(self.successResultOf(deferred), Refusal)
        return needs_disk

    def test_reader_slots(self) -> None:
        """Reads free their reader slots of LMDB at once, not at the next garbage collection."""
        state = self.created(put(raw=b"x" * 100_000))
        gc.disable()
        self.addCleanup(gc.enable)
        for _ in range(MAX_READERS + 100):
            part = self.result(self.store.read_range("a", state.id, 50_000, 50_010))
            self.assertEqual(part, b"x" * 10)

    def test_the_tail_is_in_memory(self) -> None:
        self.submit_all(put(), post(b"01234"))
        self.submit(post(b"56789"))
        store = self.store
        self.assertFalse(self.needs_disk(store.read("a", 5, 100)))
        self.assertFalse(self.needs_disk(store.read("a", 10, 100)))
        self.assertFalse(self.needs_disk(store.read("a", NOW, 100)))
        self.assertFalse(self.needs_disk(store.get_state("a")))
        self.assertTrue(self.needs_disk(store.read("a", 0, 100)))
        self.assertFalse(self.needs_disk(store.read("a", 0, 100)), "what was read is known then")
        self.assertTrue(self.needs_disk(store.read("a", 5, 2)), "a part of it is not")

    def test_after_a_restart(self) -> None:
        self.submit_all(put(), post(b"01234"))
        self.restart()
        store = self.store
        self.assertTrue(self.needs_disk(store.get_state("a")))
        self.assertFalse(self.needs_disk(store.get_state("a")))
        self.assertTrue(self.needs_disk(store.read("a", 0, 100)))
        self.assertFalse(self.needs_disk(store.read("a", 0, 100)))

    def test_absence_is_remembered(self) -> None:
        for missing in (True, False):
            looked = self.store.get_state("a")
            self.assertEqual(looked.called, not missing)
            self.assertRefused(Problem.STREAM_NOT_FOUND, self.result(looked))
        self.created(put())
        self.state_of()

    def test_a_read_that_is_overtaken(self) -> None:
        """A result older than a commit is not cached."""
        self.submit_all(put(), post(b"old"))
        self.restart()
        read = self.store.read("a", 0, 100)
        seen = self.store._read("a", 0, 100, None, None)
        self.executor._reads.clear()
        self.submit(post(b"new"))
        chunk = self.store._chunk_read(seen, "a")
        assert isinstance(chunk, Chunk)
        self.assertEqual(chunk.data, b"old")
        self.assertEqual(self.state_of().tail, 6)
        self.assertEqual(self.content(), b"oldnew")
        self.assertNoResult(read)

    def test_state_is_no_access(self) -> None:
        """Reading the state is not an access."""
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.restart()
        self.sleep(6)
        self.state_of()
        self.sleep(4)
        self.assertGone()

    def test_one_snapshot(self) -> None:
        """State and bytes of a chunk are from one snapshot."""
        self.submit_all(put(content_type=JSON), post(b"[1,2,3]", content_type=JSON))
        self.submit(post(b'"' + b"x" * 50_000 + b'"', content_type=JSON))
        self.restart()
        chunk = self.read(2, 1)
        self.assertEqual((chunk.data[:4], len(chunk.data)), (b"2,3,", 4))
        chunk = self.read(6, 1)
        self.assertEqual(len(chunk.data), 50_003)
        self.assertTrue(chunk.at_tail)


class HousekeepingTests(_Case):
    """Sweeps and access times."""

    def advance(self, seconds: float) -> None:
        """Advance the clock and the time of streams."""
        while seconds > 0:
            step = min(seconds, SWEEP_INTERVAL)
            self.sleep(step)
            self.clock.advance(step)
            self.executor.drain()
            seconds -= step

    def test_streams_end_by_themselves(self) -> None:
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.submit(post(b"x" * 100_000))
        self.announced.clear()
        self.advance(9)
        self.assertEqual(self.announced, [])
        self.advance(1)
        self.assertEqual([change.gone for changes in self.announced for change in changes], [True])
        self.advance(2)
        self.assertEqual(self.keys(), _EMPTY)

    def keys(self) -> list[bytes]:
        with self.store._engine.snapshot() as view:
            return [bytes(key) for key, _ in view.scan(b"\x00", b"\xff")]

    def test_accesses_are_written_down_lazily(self) -> None:
        """A crash shortens a TTL by at most the flush interval."""
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.advance(6)
        self.read()
        self.assertEqual(self.touched_at(), START)
        self.advance(ACCESS_FLUSH_INTERVAL)
        self.assertEqual(self.touched_at(), START + 6000)
        self.crash()
        self.state_of()
        self.advance(5)
        self.assertGone()

    def test_a_crash_before_that(self) -> None:
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.advance(6)
        self.read()
        self.crash()
        self.advance(4)
        self.assertGone()

    def test_accesses_are_forgotten_once_written(self) -> None:
        """Written access times are discarded."""
        stream_id = self.created(put(lifetime=Lifetime(ttl=100))).id
        self.read()
        access = self.store._access
        self.assertEqual(access.last_access(stream_id, self.now), START)
        self.advance(2 * ACCESS_FLUSH_INTERVAL)
        self.assertEqual(access.last_access(stream_id, self.now), 0)
        self.advance(80)
        self.read()
        self.advance(99)
        self.state_of()
        self.advance(1)
        self.assertGone()

    def test_accesses_are_written_in_steps(self) -> None:
        """Commands run between the steps; closing writes all."""
        self.patch(limits, "ACCESS_STEP", 2)
        paths = [f"a{number}" for number in range(5)]
        self.submit_all(*[put(path, lifetime=Lifetime(ttl=100)) for path in paths])
        self.now += 1
        for path in paths:
            self.result(self.store.read(path, 0, 100))
        write = self.store._committer.write_accesses
        queued: list[int] = []

        def counted(accesses: Iterable[tuple[int, int]]) -> BatchResult:
            queued.append(len(self.executor._jobs))
            return write(accesses)

        self.patch(self.store._committer, "write_accesses", counted)
        self.clock.advance(ACCESS_FLUSH_INTERVAL)
        self.executor.drain()
        self.assertEqual(queued, [0, 0, 0])
        self.assertEqual({self.state_of(path).touched_at for path in paths}, {START + 1})
        self.now += 1
        for path in paths:
            self.result(self.store.read(path, 0, 100))
        self.restart()
        self.assertEqual({self.state_of(path).touched_at for path in paths}, {self.now})

    def test_accesses_that_could_not_be_written(self) -> None:
        """Access times that failed to be written count, and are retried."""
        stream_id = self.created(put(lifetime=Lifetime(ttl=30))).id
        self.advance(2)
        self.read()
        noted = self.now

        def failed(_: object) -> BatchResult:
            return BatchResult([], [], {}, 0, failed=True)

        full = self.patch(self.store._committer, "write_accesses", failed)
        self.advance(2 * ACCESS_FLUSH_INTERVAL - 1)
        self.assertEqual(self.touched_at(), START)
        self.assertEqual(self.store._access.last_access(stream_id, self.now), noted)
        self.state_of()
        full.restore()
        self.read()
        self.advance(ACCESS_FLUSH_INTERVAL)
        self.assertGreater(self.touched_at(), noted)

    def test_pinned_streams_live(self) -> None:
        stream_id = self.created(put(lifetime=Lifetime(ttl=3))).id
        self.store.pin(stream_id)
        self.advance(20)
        self.assertGreaterEqual(self.touched_at(), self.now - ACCESS_FLUSH_INTERVAL * 1000)
        self.crash()
        self.state_of()
        self.advance(3)
        self.assertGone()

    def test_readers_of_lasting_streams_cost_no_commits(self) -> None:
        stream_id = self.created(put()).id
        self.store.pin(stream_id)
        with self.store._engine.snapshot() as view:
            before = view.version
        self.advance(20)
        self.store.unpin(stream_id)
        self.advance(20)
        with self.store._engine.snapshot() as view:
            self.assertEqual(view.version, before)

    def test_sweeps_do_not_pile_up(self) -> None:
        """A slow disk is asked for one sweep at a time."""
        self.executor.drain()
        self.executor.batches.clear()
        for _ in range(4):
            self.clock.advance(SWEEP_INTERVAL)
        self.executor.drain()
        self.assertEqual(self.executor.batches, [1])

    def test_large_deletions_go_on_after_a_crash(self) -> None:
        self.created(put())
        self.submit(post(b"x" * (RECORD_PAYLOAD * DELETE_STEP * 3)))
        self.deleted()
        left = []
        for _ in range(4):
            self.clock.advance(SWEEP_INTERVAL)
            self.executor.turn()
            left.append(len([key for key in self.keys() if key[:1] == b"d"]))
            self.crash()
        self.assertEqual(left, [2 * DELETE_STEP, DELETE_STEP, 0, 0])
        self.assertEqual(self.keys(), _EMPTY)

    def test_large_deletions_go_on_by_themselves(self) -> None:
        """Commands run between the steps of a deletion."""
        self.created(put())
        self.submit(post(b"x" * (RECORD_PAYLOAD * DELETE_STEP * 2)))
        self.deleted()
        self.clock.advance(SWEEP_INTERVAL)
        self.executor.turn()
        created = self.store.submit(put("b"))
        self.executor.turn()
        self.assertIsInstance(self.successResultOf(created), Created)
        self.executor.drain()
        self.assertEqual([key for key in self.keys() if key[:1] in b"dg"], [])

    def test_slots_of_dead_readers(self) -> None:
        """A failed reader check does not stop the store."""
        self.advance(61)
        self.patch(self.store._lmdb, "check_readers", self.fail_to_check)
        self.advance(61)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.created(put())

    def fail_to_check(self) -> None:
        raise ZeroDivisionError


class RoomTests(_Case):
    """Quota and disk reserve."""

    quota = 300_000

    def test_quota(self) -> None:
        self.submit_all(put(), put("b"))
        self.submit(post(b"x" * 400_000))
        for command in (post(b"x"), put("c"), post(b"x", "b", closed=True)):
            self.assertRefused(Problem.STORAGE_FULL, self.submit(command))
        self.assertEqual(len(self.content()), 400_000)
        self.appended(post(path="b", closed=True))
        self.deleted()
        self.sweep(self.store)
        self.created(put("c", raw=b"room"))
        self.assertEqual(self.content("c"), b"room")

    def test_reserve(self) -> None:
        self.submit(put())
        full = self.patch(self.store._lmdb, "free_disk_bytes", lambda: 0)
        self.assertRefused(Problem.STORAGE_FULL, self.submit(post(b"x")))
        self.appended(post(closed=True))
        full.restore()
        self.created(put("b"))


class DirectoryTests(_Case):
    """Locking of the directory."""

    def assertUnusable(self, sentence: str) -> None:
        with self.assertRaisesRegex(StoreUnusable, sentence):
            self.open_store()

    def test_modes(self) -> None:
        for name in os.listdir(self.directory):
            mode = os.stat(os.path.join(self.directory, name)).st_mode & 0o777
            self.assertEqual(mode, 0o600, name)

    def test_made(self) -> None:
        self.result(self.store.close())
        self.directory = os.path.join(self.directory, "deep", "data")
        self.store = self.open_store()
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)

    def test_in_use(self) -> None:
        self.assertUnusable(r"in use by another server \(process")
        self.created(put())

    def test_failed_open_unlocks(self) -> None:
        """A directory that could not be opened is unlocked."""
        self.result(self.store.close())
        engine = LMDBEngine(self.directory)
        batch = engine.begin()
        newer = codec.Meta(codec.FORMAT + 1, "9.9", 0)
        batch.put(codec.META_KEY, codec.pack_meta(newer))
        batch.commit()
        engine.close()
        for _ in range(2):
            self.assertUnusable("was written by version 9.9")
        engine = LMDBEngine(self.directory)
        batch = engine.begin()
        batch.put(codec.META_KEY, codec.pack_meta(codec.Meta(codec.FORMAT, "9", 0)))
        batch.commit()
        engine.close()
        self.store = self.open_store()

    def test_no_database(self) -> None:
        self.result(self.store.close())
        path = os.path.join(self.directory, DATA_FILE)
        os.rename(path, path + ".kept")
        with open(path, "wb") as file:
            file.write(b"no database" * 1000)
        self.assertUnusable("is not an LMDB database")
        os.rename(path + ".kept", path)
        self.store = self.open_store()

    def test_everything_is_kept(self) -> None:
        """All fields of a stream survive a restart."""
        long = "long/" + "\N{PILE OF POO}" * 400
        self.submit_all(
            put(long, JSON, b'[1,{"a":"\xc3\xa9"}]', Lifetime(ttl=100)),
            put(long + "x", closed=True),
            post(b"[1e400]", long, "application/json; charset=utf-8", seq=b"s1"),
            post(b"[2]", long, JSON, closed=True, producer=("p" * 500, 3, 0)),
        )
        before = [self.state_of(path) for path in (long, long + "x")]
        self.restart()
        self.assertEqual([self.state_of(path) for path in (long, long + "x")], before)
        self.assertEqual(self.content(long), b'1,{"a":"\xc3\xa9"},1e400,2,')
        again = self.submit(post(b"[2]", long, JSON, closed=True, producer=("p" * 500, 3, 0)))
        self.assertEqual(getattr(again, "duplicate", None), True)


class DamageTests(_Case):
    """Changed bytes on the disk cause an error, never wrong bytes."""

    damaged = True

    def damage(self, key: bytes) -> None:
        """Flip a bit of a value while the store is closed."""
        self.result(self.store.close())
        engine = LMDBEngine(self.directory)
        batch = engine.begin()
        value = bytearray(batch.get(key) or b"")
        value[len(value) // 2] ^= 4
        batch.put(key, bytes(value))
        batch.commit()
        engine.close()
        self.store = self.open_store()

    def finish(self) -> None:
        super().finish()
        flaws = [finding.flaw.name for finding in check_directory(self.directory)]
        self.assertEqual(flaws, ["CORRUPT_RECORD"])

    def assertCorrupt(self, outcome: object) -> None:
        refusal = self.assertRefused(Problem.CORRUPT_RECORD, outcome)
        self.assertEqual(refusal.problem.status, 500)

    def setUp(self) -> None:
        super().setUp()
        self.submit_all(put(), put("b"), post(b"x" * 50_000), post(b"y", "b"))
        self.stream_id = self.state_of().id

    def test_bytes(self) -> None:
        self.damage(codec.data_key(self.stream_id, RECORD_PAYLOAD))
        for offset, limit in ((0, 2**20), (RECORD_PAYLOAD, 1), (20_000, 10)):
            self.assertCorrupt(self.result(self.store.read("a", offset, limit)))
        self.assertEqual(self.read(0, RECORD_PAYLOAD).data, b"x" * RECORD_PAYLOAD)
        self.assertEqual(len(self.read(3 * RECORD_PAYLOAD).data), 50_000 - 3 * RECORD_PAYLOAD)
        self.appended(post(b"more"))
        self.assertEqual(self.read(50_000).data, b"more")
        self.assertEqual(self.content("b"), b"y")

    def test_stream(self) -> None:
        self.damage(codec.stream_key(self.stream_id))
        for outcome in (
            self.result(self.store.get_state("a")),
            self.result(self.store.read("a", 0, 10)),
            *self.submit_all(post(b"x"), put(), Delete("a")),
        ):
            self.assertCorrupt(outcome)
        self.assertEqual(self.content("b"), b"y")
        self.appended(post(b"z", "b"))

    def test_path(self) -> None:
        self.damage(codec.path_key("a"))
        self.assertCorrupt(self.result(self.store.read("a", 0, 10)))
        self.assertCorrupt(self.submit(put()))
        self.assertEqual(self.content("b"), b"y")

    def test_listing(self) -> None:
        for key in (codec.stream_key(self.stream_id), codec.path_key("a")):
            self.damage(key)
            for after, listed, unreadable in (("", ["b"], ("a",)), ("a", ["b"], ())):
                page = self.result(self.store.query(ListStreams(after=after)))
                assert isinstance(page, Page), page
                self.assertEqual([state.path for state in page.streams], listed)
                self.assertEqual(page.unreadable, unreadable)
            self.damage(key)
        self.damage(codec.path_key("a"))
