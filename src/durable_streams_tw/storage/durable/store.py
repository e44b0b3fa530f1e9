"""Durable store: streams in LMDB behind a write-ahead log (WAL).

Commands queue for the committer thread, which commits all queued commands together. Reads are
served on the reactor's thread if the read caches have the bytes, otherwise on a reader thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.offsets import START, RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import Settle
from durable_streams_tw.storage import api, limits
from durable_streams_tw.storage.commands import forks, subscriptions
from durable_streams_tw.storage.commands.batches import BUG, CORRUPT, BatchResult
from durable_streams_tw.storage.commands.forks import Counting
from durable_streams_tw.storage.data_dir import DataDirLock, write_obstacle
from durable_streams_tw.storage.durable.background import BackgroundTasks
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.durable.reader import ViewReader, ViewSnapshot
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed, Snapshot
from durable_streams_tw.storage.engine.limits import SEGMENT_SIZE
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, subscription_key
from durable_streams_tw.storage.engine.wal.engine import WALEngine
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import persist
from durable_streams_tw.storage.fork_ranges import check_same_stream, resolve_offset
from durable_streams_tw.storage.shared.background_timers import BackgroundTask, find_obstacle
from durable_streams_tw.storage.shared.executor import Executor
from durable_streams_tw.storage.shared.queued_store import QueuedCommand, QueuedStore
from durable_streams_tw.storage.shared.read_cache import ChunkCache, NotCached, StateCache

T = TypeVar("T")

_UNREADABLE: Final = Refusal(Problem.STORAGE_UNAVAILABLE, "the disk failed: try again")


class _ReadResult(Struct):
    """Result of a reader thread.

    ``state`` is the stream at the path in the snapshot ``version``; -1 if the read failed.
    """

    state: StreamState | None
    chunk: api.Chunk | Refusal
    version: int


def _do_nothing() -> None:
    """Do nothing: a task that only wakes the committer thread."""


@implementer(api.IStreamStore)
class DurableStore(QueuedStore):
    """Store that keeps streams in a directory.

    ``directory`` is created if missing. ``clock`` runs the background tasks and limits the time of
    batches. ``quota`` limits the bytes that streams take on the disk, None for no limit.
    ``segment_size`` is the size of each of the two WAL segments in bytes. ``now`` and ``lead`` are
    those of a `clocks.StreamTime`; the default is the wall clock. ``max_producers`` is the number
    of producers that a stream remembers at least.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        clock: IReactorTime,
        executor: Executor,
        *,
        quota: int | None = None,
        segment_size: int = SEGMENT_SIZE,
        now: Callable[[], int] | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = limits.MAX_PRODUCERS,
    ) -> None:
        super().__init__(executor, now, lead)
        self._max_producers = max_producers
        self._directory = directory
        self._clock = clock
        self._quota = quota
        self._segment_size = segment_size
        self._states = StateCache()
        self._chunks = ChunkCache()
        # On the committer thread: commands that wait for a fan-out, and those after them.
        self._postponed: list[QueuedCommand] = []

    # -- open and close -------------------------------------------------------------------------

    def open(self) -> None:
        """Lock the directory, open the engine, start the threads and the background tasks."""
        self._lock = DataDirLock(self._directory)
        try:
            self._lmdb = LMDBEngine(self._directory)
            try:
                check_format(self._lmdb, self._directory, self._now())
                persist(self._directory)
                reserve = min(limits.DISK_RESERVE, self._lmdb.total_disk_bytes() // 20)
                self._engine = WALEngine(self._directory, self._lmdb, self._segment_size)
            except BaseException:
                self._lmdb.close()
                raise
        except EngineFailed as failure:
            self._lock.release()
            raise StoreUnusable(f"{self._directory} cannot be used: {failure}") from None
        except BaseException:
            self._lock.release()
            raise
        self._committer = Committer(
            self._engine,
            self._access,
            self._now,
            reserve,
            self._quota,
            self._clock.seconds,
            self._max_producers,
        )
        self._executor.start(self._run_jobs)
        self._open = True
        self._background = BackgroundTasks(
            self._clock, self._executor, self._committer, self._engine, self._access, self._now
        )
        self._background.start()

    def _closing_steps(self) -> Sequence[Callable[[], object]]:
        """Stop the background tasks and the threads, then unlock the directory."""
        return (
            self._background.stop,
            self._executor.stop,
            self._engine.close,
            self._lock.release,
        )

    # -- commands -------------------------------------------------------------------------------

    def _check_acks(self, command: Settle) -> Settle | Refusal:
        """Check that acks lie between messages. Runs on a reader thread."""
        try:
            with self._engine.snapshot() as view:
                state = tables.load(view, SUBSCRIPTIONS, subscription_key(command.id))
                return subscriptions.check_acks(ViewReader(view), state, command, self._now())
        except CorruptRecord:
            # The transaction reads the record again and reports it.
            return command
        except EngineFailed as failure:
            self._log.error("A read failed: {reason}", reason=failure)
            return _UNREADABLE

    def _count_some(
        self, command: Create, counting: Counting | None
    ) -> Create | Counting | Refusal:
        """Count messages of a fork's source. Runs on a reader thread."""
        return self._on_snapshot(lambda view: forks.count_some(ViewReader(view), command, counting))

    def _run_jobs(self, jobs: list[QueuedCommand | BackgroundTask]) -> None:
        """Carry out queued jobs, commands in bounded batches. Runs on the committer thread.

        Commands that wait for a fan-out are postponed to the next call, so that jobs queued
        meanwhile are not delayed. While the store closes, nothing is postponed.
        """
        since, self._queued_since = self._queued_since, 0.0
        waited = perf_counter() - since if since else 0.0
        queue, self._postponed = self._postponed, []
        for job in jobs:
            if isinstance(job, BackgroundTask):
                self._executor.call_from_thread(
                    partial(self._task_done, job, self._run_guarded(job.run))
                )
            else:
                queue.append(job)
        while queue:
            count, size = 0, 0
            for job in islice(queue, limits.MAX_BATCH_COMMANDS):
                share = (
                    job.size if job.size <= limits.MAX_BATCH else min(job.size, limits.STAGE_STEP)
                )
                if count and size + share > limits.MAX_BATCH:
                    break
                count += 1
                size += share
            rest = queue[count:]
            left, waiting = self._run_batch(queue[:count] if rest else queue, waited)
            queue = left + rest if rest else left
            if waiting and self._open:
                self._postponed = queue
                self._executor.call_from_thread(self._resume_postponed)
                return

    def _resume_postponed(self) -> None:
        """Make the committer thread call `_run_jobs` again. Runs on the reactor's thread."""
        if self._open:
            self._executor.submit_write(BackgroundTask(_do_nothing))

    def _run_batch(
        self, batch: list[QueuedCommand], waited: float
    ) -> tuple[list[QueuedCommand], bool]:
        """Carry out a batch. Runs on the committer thread.

        Return the commands that wait or did not fit into the time of a batch, and whether any
        waits.
        """
        begun, commands = perf_counter(), [job.command for job in batch]
        result = self._run_guarded(partial(self._committer.step, commands))
        if result is None:
            result = BatchResult([BUG] * len(batch), [], {}, 0, failed=True)
        took = perf_counter() - begun
        done = result.taken
        batch, left = (batch[:done], batch[done:]) if done < len(batch) else (batch, [])
        if result.waiting:
            waiting = set(result.waiting)
            left = [batch[index] for index in result.waiting] + left
            batch = [job for index, job in enumerate(batch) if index not in waiting]
        self._executor.call_from_thread(partial(self._batch_done, batch, result, waited, took))
        return left, bool(result.waiting)

    def _publish(self, batch: Sequence[QueuedCommand], result: BatchResult) -> None:
        """Make a commit visible, then report outcomes, then notify listeners, in this order."""
        chunks = self._chunks
        if result.doubt is not None:
            self._states.distrust(result.doubt)
            chunks.clear()
        self._states.publish(result.published, result.version)
        for change in result.changes:
            if change.gone:
                self._access.forget(change.state.id)
            elif change.data:
                chunks.put(change.state.id, change.start, change.data)
        self._report(batch, result)

    def _batch_done(
        self, batch: list[QueuedCommand], result: BatchResult, waited: float, took: float
    ) -> None:
        """Publish a batch of commands. Runs on the reactor's thread."""
        self._publish(batch, result)
        if result.more and self._open:
            self._background.sweep_now()
        self._observe(batch, result, waited, took)

    # -- reads ----------------------------------------------------------------------------------

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Return the state of the stream at a path."""
        if not self._open:
            return succeed(api.STOPPING)
        state = self._states.get(path)
        if not isinstance(state, NotCached):
            return succeed(self._check_usable(state))
        return self._submit_read(partial(self._read, path, START, 0, None, None)).addCallback(
            self._state_read, path
        )

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[api.Chunk | Refusal]:
        """Return bytes of the stream at a path, from the caches if they have them."""
        if not self._open:
            return succeed(api.STOPPING)
        cached = self._states.get(path)
        if not isinstance(cached, NotCached):
            state = self._check_usable(cached)
            if isinstance(state, Refusal):
                return succeed(state)
            position = resolve_offset(state, offset, stream_id)
            if isinstance(position, Refusal):
                return succeed(position)
            self._record_access(state)
            most = limit if piece is None or piece > limit else piece
            data = self._chunks.response(state, position, most)
            if data is not None:
                return succeed(api.Chunk(state, position, data))
        read = partial(self._read, path, offset, limit, stream_id, piece)
        return self._submit_read(read).addCallback(self._chunk_read, path)

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Return exactly the bytes ``[start, stop)`` of a stream, read on a reader thread."""
        if not self._open:
            return succeed(api.STOPPING)
        result: Deferred[bytes | Refusal] = self._submit_read(
            partial(self._on_snapshot, partial(self._read_range, path, stream_id, start, stop))
        )
        return result

    def query(self, question: api.Query[T]) -> Deferred[T | Refusal]:
        """Answer a question on a snapshot, on a reader thread."""
        if not self._open:
            return succeed(api.STOPPING)
        result: Deferred[T | Refusal] = self._submit_read(partial(self._run_query, question))
        return result

    def _record_access(self, state: StreamState) -> None:
        if state.lifetime.ttl is not None:
            self._access.record(state.id, self._now())

    def _state_read(self, result: _ReadResult, path: str) -> StreamState | Refusal:
        """Cache the state from a reader thread. Runs on the reactor's thread."""
        if result.version >= 0:
            self._states.put(path, result.state, result.version)
        return result.chunk if isinstance(result.chunk, Refusal) else result.chunk.state

    def _chunk_read(self, result: _ReadResult, path: str) -> api.Chunk | Refusal:
        """Cache state and bytes from a reader thread. Runs on the reactor's thread."""
        newest = result.version >= 0 and self._states.put(path, result.state, result.version)
        chunk = result.chunk
        if not isinstance(chunk, Refusal):
            self._record_access(chunk.state)
            if newest:
                self._chunks.put(chunk.state.id, chunk.start, chunk.data)
        return chunk

    # -- on reader threads ----------------------------------------------------------------------

    def _on_snapshot(self, function: Callable[[Snapshot], T]) -> T | Refusal:
        """Call a function on a snapshot; return a refusal if a record or the disk is damaged."""
        try:
            with self._engine.snapshot() as view:
                return function(view)
        except CorruptRecord as corrupt:
            self._log.error("{corrupt}", corrupt=corrupt)
            return CORRUPT
        except EngineFailed as failure:
            self._log.error("A read failed: {reason}", reason=failure)
            return _UNREADABLE

    def _read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> _ReadResult:
        """Read the state and bytes of a stream from one snapshot."""

        def read(view: Snapshot) -> _ReadResult:
            reader = ViewReader(view)
            state = reader.stream_at(path)
            chunk: api.Chunk | Refusal | StreamState = self._check_usable(state)
            if isinstance(chunk, StreamState):
                chunk = reader.read_chunk(chunk, offset, limit, stream_id, piece)
            return _ReadResult(state, chunk, view.version)

        result = self._on_snapshot(read)
        return _ReadResult(None, result, -1) if isinstance(result, Refusal) else result

    def _read_range(
        self, path: str, stream_id: int, start: int, stop: int, view: Snapshot
    ) -> bytes | Refusal:
        reader = ViewReader(view)
        state = check_same_stream(self._check_usable(reader.stream_at(path)), stream_id)
        if isinstance(state, Refusal):
            return state
        return reader.gather(state, start, stop, stop - start)

    def _run_query(self, question: api.Query[T]) -> T | Refusal:
        return self._on_snapshot(lambda view: question.answer(ViewSnapshot(view, self._is_usable)))

    # -- operation ------------------------------------------------------------------------------

    def stats(self) -> Deferred[api.Stats | None]:
        """Return the fill level, None if the disk cannot be read."""
        if not self._open:
            return succeed(None)
        queued, size = self._queued, self._queued_bytes

        def read() -> api.StoreStats | None:
            try:
                memtable_bytes = self._engine.memtable_bytes()
                return api.StoreStats(queued, size, memtable_bytes, *self._lmdb.stats())
            except EngineFailed as failure:
                self._log.error("Reading the store's size failed: {reason}", reason=failure)
                return None

        return self._executor.submit_read(read)

    def check_writable(self) -> Deferred[str | None]:
        """Return why the store cannot write, None if it can.

        Waits for a reader thread and for the committer thread.
        """
        if not self._open:
            return succeed("the store is closed")
        disk = self._executor.submit_read(self._disk_obstacle)
        committer = find_obstacle(self._executor, self._committer.obstacle)
        both: Deferred[list[str | None]] = gatherResults([disk, committer])
        return both.addCallback(lambda obstacles: obstacles[0] or obstacles[1])

    def _disk_obstacle(self) -> str | None:
        """Return why the disk cannot be used, None if it can. Runs on a reader thread."""
        obstacle = write_obstacle(self._directory)
        if obstacle is None and (failure := self._engine.obstacle()) is not None:
            obstacle = f"the store's file cannot be read or written: {failure}"
        return obstacle
