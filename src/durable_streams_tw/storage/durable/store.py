"""The durable store: a journal and LMDB behind one committing thread and a few that read.

Commands queue for the committer, which takes all that has queued into one commit. Reads
are answered on the reactor's thread where memory has what they need, and in a reading
thread otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.offsets import START, RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import Settle
from durable_streams_tw.storage.access_times import AccessTimes, check_usable
from durable_streams_tw.storage.api import (
    Chunk,
    Command,
    IStreamStore,
    Listener,
    Outcome,
    RecordListener,
    StoreObserver,
    StoreSnapshot,
    StoreStats,
    notify_listeners,
)
from durable_streams_tw.storage.commands import forks, subscriptions
from durable_streams_tw.storage.commands.forks import Counting, ForkCounter
from durable_streams_tw.storage.data_dir import DataDirLock, write_obstacle
from durable_streams_tw.storage.durable import reader as durable_reader
from durable_streams_tw.storage.durable.background import BackgroundTask, BackgroundTasks
from durable_streams_tw.storage.durable.committer import BUG, CORRUPT, BatchResult, Committer
from durable_streams_tw.storage.durable.executor import Executor
from durable_streams_tw.storage.durable.read_cache import ChunkCache, NotCached, StateCache
from durable_streams_tw.storage.durable.reader import ViewSnapshot
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed, Snapshot, View
from durable_streams_tw.storage.engine.limits import SEGMENT_SIZE
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, subscription_key
from durable_streams_tw.storage.engine.wal.engine import WALEngine
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import persist
from durable_streams_tw.storage.fork_ranges import INSIDE_MESSAGE, check_same_stream, resolve_offset
from durable_streams_tw.storage.limits import (
    DISK_RESERVE,
    INLINE_ACKS,
    MAX_BATCH,
    MAX_BATCH_COMMANDS,
    MAX_PRODUCERS,
    MAX_QUEUE,
    MAX_QUEUED_COMMANDS,
)

T = TypeVar("T")

_STOPPING: Final = Refusal(Problem.STOPPING, "the server is stopping")
_UNREADABLE: Final = Refusal(Problem.STORAGE_UNAVAILABLE, "the disk failed: try again")
_OVERLOADED: Final = Refusal(
    Problem.OVERLOADED, "too many writes are waiting for the disk", ((b"Retry-After", b"1"),)
)


class _Submitted(Struct):
    command: Command
    size: int
    callback: Callable[[Outcome], object]


class _Seen(Struct):
    """What a reading lane saw: the state at a path, and the answer. ``version`` is -1 where
    it saw nothing."""

    state: StreamState | None
    chunk: Chunk | Refusal
    version: int


def _nothing() -> None:
    """Do nothing: a task that only makes the committing thread look at its queue."""


@implementer(IStreamStore)
class DurableStore:
    """Streams in a directory.

    ``directory`` is made if it is missing; ``clock`` runs the sweep and bounds the time of batches;
    ``quota`` bounds the bytes that streams may take on the disk, None for no bound;
    ``journal_size`` is what each of the journal's two files takes, in bytes; ``now`` and ``lead``
    are those of a `clocks.StreamTime`, the wall clock without them. ``max_producers`` is how many
    producers a stream remembers at least.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        clock: IReactorTime,
        executor: Executor,
        *,
        quota: int | None = None,
        journal_size: int = SEGMENT_SIZE,
        now: Callable[[], int] | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = MAX_PRODUCERS,
    ) -> None:
        self._max_producers = max_producers
        self._directory = directory
        self._clock = clock
        self._executor = executor
        self._quota = quota
        self._journal_size = journal_size
        self._now = now or _wall_clock
        self._access = AccessTimes(lead)
        self._published = StateCache()
        self._recent = ChunkCache()
        self._listeners: list[Listener] = []
        self._note_listeners: list[RecordListener] = []
        self._open = False
        self._closed: Deferred[None] | None = None
        self._queued = self._queued_bytes = 0
        # On the committing thread: commands that wait for a fan-out, and those after them.
        self._left: list[_Submitted] = []
        self._counter = ForkCounter(self._count, BUG)
        self._observer: StoreObserver | None = None
        # Since when, by the process's clock, the oldest command waits that is not taken up yet.
        self._waits_since = 0.0

    # -- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Claim the directory, open the map, start the lanes and the sweep."""
        self._claim = DataDirLock(self._directory)
        try:
            self._lmdb = LMDBEngine(self._directory)
            try:
                check_format(self._lmdb, self._directory, self._now())
                persist(self._directory)
                reserve = min(DISK_RESERVE, self._lmdb.total_disk_bytes() // 20)
                self._engine = WALEngine(self._directory, self._lmdb, self._journal_size)
            except BaseException:
                self._lmdb.close()
                raise
        except EngineFailed as failure:
            self._claim.release()
            raise StoreUnusable(f"{self._directory} cannot be used: {failure}") from None
        except BaseException:
            self._claim.release()
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
        self._executor.start(self._work)
        self._open = True
        self._chores = BackgroundTasks(
            self._clock, self._executor, self._committer, self._engine, self._access, self._now
        )
        self._chores.start()

    def close(self) -> Deferred[None]:
        """Write down what is accepted, then let go of the directory."""
        if not self._open:
            if self._closed is not None and not self._closed.called:
                # Already under way: whoever asks again waits for the same end.
                again: Deferred[None] = Deferred()
                self._closed.chainDeferred(again)
                return again
            return succeed(None)
        self._open = False
        self._closed = stop_all(
            lambda: self._counter.stop(_STOPPING),
            self._chores.stop,
            self._executor.stop,
            self._engine.close,
            self._claim.release,
        )
        return self._closed

    # -- writing --------------------------------------------------------------------------------

    def submit(self, command: Command) -> Deferred[Outcome]:
        """Queue a command for the committer."""
        done: Deferred[Outcome] = Deferred()
        self.execute(command, done.callback)
        return done

    def execute(self, command: Command, callback: Callable[[Outcome], object]) -> None:
        """Queue a command for the committer."""
        if not self._open:
            callback(_STOPPING)
            return
        body = command.body if isinstance(command, Append | Create) else None
        size = 0 if body is None else len(body.data)
        if self._queued_bytes + size > MAX_QUEUE or self._queued >= MAX_QUEUED_COMMANDS:
            if self._observer is not None:
                self._observer.record_refusal(command, _OVERLOADED)
            callback(_OVERLOADED)
            return
        self._queued += 1
        self._queued_bytes += size
        if forks.needs_count(command):
            assert isinstance(command, Create)
            self._counter.count(command, partial(self._counted, size, callback))
        elif isinstance(command, Settle) and len(command.acks) > INLINE_ACKS:
            checked = self._in_lane(partial(self._check_acks, command))
            checked.addErrback(self._not_checked).addCallback(
                partial(self._counted, size, callback)
            )
        else:
            self._write(_Submitted(command, size, callback))

    def _write(self, submitted: _Submitted) -> None:
        if not self._waits_since:
            self._waits_since = perf_counter()
        self._executor.submit_write(submitted)

    def _counted(
        self, size: int, callback: Callable[[Outcome], object], counted: Create | Settle | Refusal
    ) -> None:
        """A command that was looked into before may be carried out, or not."""
        if self._open and not isinstance(counted, Refusal):
            self._write(_Submitted(counted, size, callback))
            return
        self._queued -= 1
        self._queued_bytes -= size
        callback(counted if isinstance(counted, Refusal) else _STOPPING)

    def _check_acks(self, command: Settle) -> Settle | Refusal:
        """In a reading lane: find the acks that lie between messages."""
        try:
            with self._engine.snapshot() as view:
                state = tables.load(view, SUBSCRIPTIONS, subscription_key(command.id))
                reader = durable_reader.ViewReader(view)
                return subscriptions.check_acks(reader, state, command, self._now())
        except CorruptRecord:
            # Which the transaction meets and tells of.
            return command
        except EngineFailed as failure:
            self._log.error("a read failed: {reason}", reason=failure)
            return _UNREADABLE

    def _not_checked(self, failure: Failure) -> Refusal:
        self._log.failure("checking acks failed", failure)
        return BUG

    def _count(
        self, command: Create, counting: Counting | None
    ) -> Deferred[Create | Counting | Refusal]:
        return self._in_lane(partial(self._count_some, command, counting))

    def _count_some(
        self, command: Create, counting: Counting | None
    ) -> Create | Counting | Refusal:
        """In a reading lane: count messages of a fork's source."""
        try:
            with self._engine.snapshot() as view:
                return forks.count_some(durable_reader.ViewReader(view), command, counting)
        except CorruptRecord as corrupt:
            self._log.error("{corrupt}", corrupt=corrupt)
            return CORRUPT
        except EngineFailed as failure:
            self._log.error("a read failed: {reason}", reason=failure)
            return _UNREADABLE

    def _work(self, jobs: list[_Submitted | BackgroundTask]) -> None:
        """On the committing thread: carry out what has queued, in bounded batches.

        Commands that wait for a fan-out stay for the next call, so that jobs which came meanwhile
        have their turn. While the store closes nothing stays.
        """
        since, self._waits_since = self._waits_since, 0.0
        waited = perf_counter() - since if since else 0.0
        queue, self._left = self._left, []
        for job in jobs:
            if isinstance(job, BackgroundTask):
                self._executor.call_from_thread(partial(self._done, job, self._guard(job.run)))
            else:
                queue.append(job)
        while queue:
            at, size = 0, 0
            for job in islice(queue, MAX_BATCH_COMMANDS):
                if at and size + job.size > MAX_BATCH:
                    break
                at += 1
                size += job.size
            rest = queue[at:]
            left, waiting = self._step(queue[:at] if rest else queue, waited)
            queue = left + rest if rest else left
            if waiting and self._open:
                self._left = queue
                self._executor.call_from_thread(self._go_on)
                return

    def _go_on(self) -> None:
        """On the reactor's thread: have the committing thread called again."""
        if self._open:
            self._executor.submit_write(BackgroundTask(_nothing))

    def _step(self, batch: list[_Submitted], waited: float) -> tuple[list[_Submitted], bool]:
        """On the committing thread: carry out a batch.

        Return the commands that wait or that there was no time for, and whether any waits.
        """
        begun, commands = perf_counter(), [job.command for job in batch]
        committed = self._guard(partial(self._committer.step, commands))
        if committed is None:
            committed = BatchResult([BUG] * len(batch), [], {}, 0, failed=True)
        took = perf_counter() - begun
        done = committed.taken
        batch, left = (batch[:done], batch[done:]) if done < len(batch) else (batch, [])
        if committed.waiting:
            waiting = set(committed.waiting)
            left = [batch[index] for index in committed.waiting] + left
            batch = [job for index, job in enumerate(batch) if index not in waiting]
        self._executor.call_from_thread(partial(self._stepped, batch, committed, waited, took))
        return left, bool(committed.waiting)

    def _guard(self, work: Callable[[], BatchResult | None]) -> BatchResult | None:
        # The committing thread outlives every bug; whoever waits is callback.
        try:
            return work()
        except Exception:  # noqa: BLE001
            self._executor.call_from_thread(
                partial(self._log.failure, "committing failed", Failure())
            )
            return None

    def _committed(self, batch: list[_Submitted], committed: BatchResult) -> None:
        """Back on the reactor's thread: visible first, then the writers, then the readers."""
        recent = self._recent
        if committed.doubt is not None:
            self._published.distrust(committed.doubt)
            recent.clear()
        self._published.publish(committed.published, committed.version)
        for change in committed.changes:
            if change.gone:
                self._access.forget(change.state.id)
            elif change.data:
                recent.put(change.state.id, change.start, change.data)
        notify_listeners(self._note_listeners, committed.notes)
        self._queued -= len(batch)
        for job, outcome in zip(batch, committed.outcomes, strict=True):
            self._queued_bytes -= job.size
            job.callback(outcome)
        notify_listeners(self._listeners, committed.changes)

    def _stepped(
        self, batch: list[_Submitted], committed: BatchResult, waited: float, took: float
    ) -> None:
        self._committed(batch, committed)
        if committed.more and self._open:
            self._chores.sweep_now()
        if self._observer is not None:
            came = [job.command for job in batch], committed.outcomes, committed.changes
            self._observer.record_batch(*came, waited, took, committed.seconds, committed.failed)

    def _done(self, chore: BackgroundTask, committed: BatchResult | None) -> None:
        """Back on the reactor's thread after work of the store's own."""
        if committed is not None:
            self._committed([], committed)
        if chore.then is not None:
            chore.then(committed)

    # -- reading --------------------------------------------------------------------------------

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """The stream at a path."""
        if not self._open:
            return succeed(_STOPPING)
        state = self._published.get(path)
        if not isinstance(state, NotCached):
            return succeed(self._usable(state))
        return self._in_lane(partial(self._read, path, START, 0, None, None)).addCallback(
            self._looked, path
        )

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Bytes of the stream at a path."""
        if not self._open:
            return succeed(_STOPPING)
        state = self._published.get(path)
        if not isinstance(state, NotCached):
            usable = self._usable(state)
            if isinstance(usable, Refusal):
                return succeed(usable)
            position = resolve_offset(usable, offset, stream_id)
            if isinstance(position, Refusal):
                return succeed(position)
            self._note(usable)
            most = limit if piece is None or piece > limit else piece
            data = self._remembered(usable, position, most)
            if data is not None:
                return succeed(Chunk(usable, position, data))
        look = partial(self._read, path, offset, limit, stream_id, piece)
        return self._in_lane(look).addCallback(self._seen, path)

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Exactly the bytes ``[start, stop)`` of a stream, in a reading lane."""
        if not self._open:
            return succeed(_STOPPING)
        answer: Deferred[bytes | Refusal] = self._in_lane(
            partial(self._reading, partial(self._range, path, stream_id, start, stop))
        )
        return answer

    def _range(
        self, path: str, stream_id: int, start: int, stop: int, view: View
    ) -> bytes | Refusal:
        record = durable_reader.load_stream_at(view, path)
        state = check_same_stream(self._usable(None if record is None else record.state), stream_id)
        if isinstance(state, Refusal):
            return state
        return durable_reader.gather(
            view, durable_reader.lookup_in(view), state, start, stop, stop - start
        )

    def pin(self, stream_id: int) -> None:
        """A live reader came."""
        self._access.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """A live reader went."""
        self._access.unpin(stream_id, self._now())

    def add_listener(self, listener: Listener) -> None:
        """Tell ``listener`` of every commit."""
        self._listeners.append(listener)

    def query(self, question: Callable[[StoreSnapshot], T]) -> Deferred[T | Refusal]:
        """What a function finds, in a reading lane."""
        if not self._open:
            return succeed(_STOPPING)
        answer: Deferred[T | Refusal] = self._in_lane(partial(self._ask, question))
        return answer

    def _ask(self, question: Callable[[StoreSnapshot], T]) -> T | Refusal:
        def usable(state: StreamState) -> bool:
            return not isinstance(self._usable(state), Refusal)

        return self._reading(lambda view: question(ViewSnapshot(view, usable)))

    def _reading(self, look: Callable[[Snapshot], T]) -> T | Refusal:
        """Call a function on a snapshot, in a reading lane; return a refusal where it fails."""
        try:
            with self._engine.snapshot() as view:
                return look(view)
        except CorruptRecord as corrupt:
            self._log.error("{corrupt}", corrupt=corrupt)
            return CORRUPT
        except EngineFailed as failure:
            self._log.error("a read failed: {cause}", cause=failure)
            return _UNREADABLE

    def _in_lane(self, look: Callable[[], T]) -> Deferred[T]:
        observer, read = self._observer, self._executor.submit_read
        return read(look) if observer is None else observer.time_read(read, look)

    def add_record_listener(self, listener: RecordListener) -> None:
        """Tell ``listener`` of every change of a watched record."""
        self._note_listeners.append(listener)

    def _usable(self, state: StreamState | None) -> StreamState | Refusal:
        return check_usable(state, self._access, self._now())

    def _note(self, state: StreamState) -> None:
        if state.lifetime.ttl is not None:
            self._access.record(state.id, self._now())

    def _remembered(self, state: StreamState, position: int, limit: int) -> bytes | None:
        """The whole answer to a read, where memory has it."""
        if position == state.tail or (limit == 0 and position == 0):
            return b""
        data = self._recent.get(state.id, position)
        if data is not None and position + len(data) == state.tail and len(data) <= limit:
            return data
        return None

    def _read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> _Seen:
        """In a reading lane: the state and the bytes, of one commit."""

        def look(view: Snapshot) -> _Seen:
            record = durable_reader.load_stream_at(view, path)
            state = None if record is None else record.state
            chunk = self._chunk(view, state, offset, limit, stream_id, piece)
            return _Seen(state, chunk, view.version)

        seen = self._reading(look)
        return _Seen(None, seen, -1) if isinstance(seen, Refusal) else seen

    def _chunk(
        self,
        view: View,
        state: StreamState | None,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None,
        piece: int | None,
    ) -> Chunk | Refusal:
        usable = self._usable(state)
        if isinstance(usable, Refusal):
            return usable
        position = resolve_offset(usable, offset, stream_id)
        if isinstance(position, Refusal):
            return position
        lookup = durable_reader.lookup_in(view)
        if not durable_reader.is_boundary(view, lookup, usable, position):
            return INSIDE_MESSAGE
        if not limit or position == usable.tail:
            return Chunk(usable, position, b"")
        stop, more = usable.tail, 0
        if piece is not None:
            end = durable_reader.answer_end(view, lookup, usable, position, limit)
            stop, limit = min(end, position + piece), piece
            more = end - stop
        data = durable_reader.gather(view, lookup, usable, position, stop, limit)
        return Chunk(usable, position, data, more)

    def _looked(self, seen: _Seen, path: str) -> StreamState | Refusal:
        """Back on the reactor's thread with what a reading lane saw."""
        if seen.version >= 0:
            self._published.put(path, seen.state, seen.version)
        return seen.chunk if isinstance(seen.chunk, Refusal) else seen.chunk.state

    def _seen(self, seen: _Seen, path: str) -> Chunk | Refusal:
        """The same for what counts as an access."""
        newest = seen.version >= 0 and self._published.put(path, seen.state, seen.version)
        chunk = seen.chunk
        if not isinstance(chunk, Refusal):
            self._note(chunk.state)
            if newest:
                self._recent.put(chunk.state.id, chunk.start, chunk.data)
        return chunk

    # -- what operators ask -----------------------------------------------------------------------

    def set_observer(self, observer: StoreObserver) -> None:
        """Count into ``meter`` from now on."""
        self._observer = observer

    def stats(self) -> Deferred[StoreStats | None]:
        """How the store stands."""
        if not self._open:
            return succeed(None)
        queued, size = self._queued, self._queued_bytes

        def look() -> StoreStats | None:
            try:
                memtable_bytes = self._engine.memtable_bytes()
                return StoreStats(queued, size, memtable_bytes, *self._lmdb.stats())
            except EngineFailed as failure:
                self._log.error("the store's levels cannot be read: {reason}", reason=failure)
                return None

        return self._executor.submit_read(look)

    def check_writable(self) -> Deferred[str | None]:
        """Why nothing can be written, None where it can."""
        if not self._open:
            return succeed("the store is closed")
        # Both lanes have to come round.
        written = self._executor.submit_read(self._disk_obstacle)
        looked: Deferred[str | None] = Deferred()
        found: list[str | None] = []
        self._executor.submit_write(
            BackgroundTask(
                lambda: found.append(self._committer.obstacle()),
                lambda _: looked.callback(found[0] if found else "the committer met a bug"),
            )
        )
        both: Deferred[list[str | None]] = gatherResults([written, looked])
        return both.addCallback(lambda answers: answers[0] or answers[1])

    def _disk_obstacle(self) -> str | None:
        """On a reader thread: return why the disk cannot be used, None if it can."""
        obstacle = write_obstacle(self._directory)
        if obstacle is None and (failure := self._engine.obstacle()) is not None:
            obstacle = f"the store's file cannot be read or written: {failure}"
        return obstacle


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000
