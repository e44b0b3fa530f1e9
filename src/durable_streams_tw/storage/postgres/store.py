"""PostgreSQL store: `IStreamStore` over a database that any number of nodes share.

Commands queue for the main committer's thread, which commits all queued commands together; those
on streams that another node is writing go to the blocking committer. Each read asks the database
for the state of its stream, together with all other reads that wait, because any node may have
changed it.
Bytes at a position never change, so they come from memory if they are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Lock, local
from time import perf_counter
from typing import Any, Final, TypeVar

import psycopg
from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import Settle
from durable_streams_tw.storage.api import (
    STOPPING,
    Change,
    Chunk,
    IStreamStore,
    NodeStats,
    Query,
    Stats,
    notify_listeners,
)
from durable_streams_tw.storage.commands import forks, subscriptions
from durable_streams_tw.storage.commands.batches import BUG, CORRUPT, BatchResult
from durable_streams_tw.storage.commands.forks import Counting
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS, subscription_key
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.fork_ranges import check_same_stream, resolve_offset
from durable_streams_tw.storage.limits import MAX_BATCH, MAX_BATCH_COMMANDS, MAX_PRODUCERS
from durable_streams_tw.storage.postgres import arrays
from durable_streams_tw.storage.postgres.background import BackgroundTasks
from durable_streams_tw.storage.postgres.committer import Committer, blocked_commands
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    Durability,
    check_durability,
    connect,
    reason_of,
)
from durable_streams_tw.storage.postgres.deadline_guard import DeadlineGuard
from durable_streams_tw.storage.postgres.duties import SubscriptionDuties
from durable_streams_tw.storage.postgres.followed_streams import FollowedStreams
from durable_streams_tw.storage.postgres.frozen_sessions import end_frozen_sessions
from durable_streams_tw.storage.postgres.keyring import KeyringTable
from durable_streams_tw.storage.postgres.locks import changes_registry, paths_of
from durable_streams_tw.storage.postgres.migrations import migrate, refuse_partial_store
from durable_streams_tw.storage.postgres.notifications import (
    NotificationListener,
    channel_of,
    encode_hints,
)
from durable_streams_tw.storage.postgres.packing import PackingQueue
from durable_streams_tw.storage.postgres.reader import (
    Connection,
    ConnectionReader,
    DatabaseSnapshot,
    load,
    load_states,
    load_stream_at,
    load_streams,
)
from durable_streams_tw.storage.postgres.session import NodeSession
from durable_streams_tw.storage.shared.background_timers import BackgroundTask, find_obstacle
from durable_streams_tw.storage.shared.executor import Executor
from durable_streams_tw.storage.shared.queued_store import QueuedCommand, QueuedStore
from durable_streams_tw.storage.shared.read_cache import ChunkCache

T = TypeVar("T")

_UNREADABLE: Final = Refusal(
    Problem.STORAGE_UNAVAILABLE, "the database is unavailable: try again", ((b"Retry-After", b"1"),)
)

#: Time in ms before the deadline of a stream within which a read is answered only once it is
#: written that the stream was read: another node would end the stream.
_ACCESS_MARGIN: Final = 10_000

#: Bytes up to which a read is answered together with others; larger ones have a thread each.
_SHARED_READ: Final = 64 * KIB

#: Time in ms after which a statement of a reader is cancelled.
_READ_TIMEOUT: Final = 10_000

#: Seconds between two reads for connections that are late.
_CUT_INTERVAL: Final = 1.0

_DATABASE_STATE: Final = b"""SELECT
  (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
   WHERE schemaname = %s AND relname = 'stream'),
  (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8
   FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND backend_type = 'client backend'
   AND pid <> pg_backend_pid())"""


class _PendingRead(Struct):
    """Queued read of a stream: of its state only if ``offset`` is None, otherwise also of bytes."""

    path: str
    done: Deferred[Any]
    offset: RequestedOffset | None = None
    limit: int = 0
    stream_id: int | None = None
    piece: int | None = None


class _LargeRead(Struct):
    """Read whose bytes need a thread of their own; ``state`` was found at its path."""

    state: StreamState


@implementer(IStreamStore)
class PostgresStore(QueuedStore):
    """Store that keeps streams in PostgreSQL and shares them with other nodes.

    ``clock`` runs the background tasks. ``executor`` has the committer thread and the reader
    threads, ``blocking`` a second committer thread for commands on streams that other nodes are
    writing, ``state_reader`` a thread that reads the states of streams (each is a `ThreadExecutor`
    in a server). ``now`` and ``lead`` are those of a `clocks.StreamTime`; the default is the wall
    clock. ``max_producers`` is the number of producers that a stream remembers at least. With
    ``listen`` off no thread waits for notifications of other nodes, whose changes are then found
    once a second.

    `open` blocks while it connects, creates or migrates the tables and reads the guarantees of the
    server; it raises `StoreUnusable`. No other method waits for the database on the reactor's
    thread. ``node`` is the unique name of this node, ``durability`` tells which failures an
    acknowledged write survives.
    """

    _log = Logger()

    def __init__(
        self,
        settings: DatabaseSettings,
        clock: IReactorTime,
        executor: Executor,
        blocking: Executor,
        state_reader: Executor,
        *,
        now: Callable[[], int] | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = MAX_PRODUCERS,
        listen: bool = True,
    ) -> None:
        super().__init__(executor, now, lead)
        self.node = f"{settings.node}-{secrets.token_hex(4)}"
        self.duties = SubscriptionDuties(self._in_session, self.node)
        self.keyring = KeyringTable(settings, self._in_session)
        self.durability: Durability | None = None
        self._settings = settings
        self._clock = clock
        self._executors = executor, blocking
        self._state_reader = state_reader
        self._chunks = ChunkCache()
        self._followed = FollowedStreams()
        self._packing = PackingQueue()
        self._guard = DeadlineGuard()
        self._cutting = LoopingCall(self._guard.cut_late)
        self._committers = [self._make_committer(number, max_producers) for number in range(2)]
        self._background = BackgroundTasks(
            clock,
            blocking,
            self._committers[1],
            self._access,
            self._followed,
            self._packing,
            self._poll_followed,
            self._end_frozen_sessions,
            self._now,
        )
        self._listener: NotificationListener | None = None
        if listen:
            self._listener = NotificationListener(settings, self.node, self._hint_received)
        # Number of commands of the blocking committer by path: later ones must not overtake them.
        self._blocked_paths: dict[str, int] = {}
        self._blocked_lock = Lock()
        self._hints_received = self._found_late = 0
        # Streams to poll after the poll that is under way; None for all.
        self._polling = False
        self._poll_next: set[int] | None = set()
        # Whether the last read has failed, so that this is logged once.
        self._unreadable = False
        self._sessions = local()
        self._connections: list[Connection] = []

    def _make_committer(self, number: int, max_producers: int) -> Committer:
        return Committer(
            NodeSession(self._settings, self.node, number, self._now, self._guard),
            self._access,
            self._now,
            channel=channel_of(self._settings),
            hints=self._hints,
            packing=self._packing,
            blocking=bool(number),
            max_producers=max_producers,
        )

    # -- open and close -------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, check the server, create or migrate the tables, and start the threads."""
        try:
            # Two at once, because the second one finds a pooler that loses prepared statements.
            with connect(self._settings) as connection, connect(self._settings):
                self.durability = check_durability(connection, self._settings)
                migrate(connection, self._settings, self._now())
                refuse_partial_store(connection, self._settings)
        except psycopg.Error as error:
            raise StoreUnusable(f"the database cannot be used: {reason_of(error)}") from None
        self._log.info(
            "{sentence} (node {node})", sentence=self.durability.describe(), node=self.node
        )
        self._executor.start(partial(self._run_jobs, 0))
        self._executors[1].start(partial(self._run_jobs, 1))
        self._state_reader.start(self._run_reads)
        self._open = True
        self._cutting.clock = self._clock
        self._cutting.start(_CUT_INTERVAL, now=False)
        self._background.start()
        if self._listener is not None:
            self._listener.start()

    def _closing_steps(self) -> Sequence[Callable[[], object]]:
        """Finish the commands of both committers, then close all connections."""
        return (
            self._stop_listening,
            self._background.stop,
            partial(self._stop_committer, 0),
            partial(self._stop_committer, 1),
            self._state_reader.stop,
            # Not earlier: the steps above need it if the database stops answering.
            self._cutting.stop,
            self._close_connections,
        )

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.stop()

    def _stop_committer(self, number: int) -> Deferred[None]:
        executor = self._executors[number]
        executor.submit_write(BackgroundTask(self._committers[number].session.close))
        return executor.stop()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()

    # -- commands -------------------------------------------------------------------------------

    def _run_jobs(self, number: int, jobs: list[QueuedCommand | BackgroundTask]) -> None:
        """Carry out queued jobs in order, commands in bounded batches.

        Runs on a committer thread.
        """
        since, self._queued_since = self._queued_since, 0.0
        waited = perf_counter() - since if since else 0.0
        while jobs:
            job = jobs[0]
            if isinstance(job, BackgroundTask):
                self._executors[number].call_from_thread(
                    partial(self._task_done, job, self._run_guarded(job.run))
                )
                jobs = jobs[1:]
                continue
            batch = _first_batch(jobs)
            jobs = self._run_batch(number, batch, waited) + jobs[len(batch) :]

    def _run_batch(
        self, number: int, batch: list[QueuedCommand], waited: float
    ) -> list[QueuedCommand | BackgroundTask]:
        """Carry out a batch; return the commands that are left over. Runs on a committer thread."""
        begun = perf_counter()
        if not number and self._blocked_paths:
            with self._blocked_lock:
                blocked = blocked_commands([job.command for job in batch], set(self._blocked_paths))
            batch = self._defer(batch, blocked)
            if not batch:
                return []
        commands = [job.command for job in batch]
        result = self._run_guarded(partial(self._committers[number].step, commands))
        if result is None:
            result = BatchResult([BUG] * len(batch), [], {}, 0, failed=True)
        left = batch[result.taken :]
        batch = self._defer(batch[: result.taken], result.waiting)
        if number:
            with self._blocked_lock:
                for job in batch:
                    self._count_blocked(job, -1)
        took = perf_counter() - begun
        self._executors[number].call_from_thread(
            partial(self._batch_done, batch, result, waited, took)
        )
        return [*left]

    def _defer(self, batch: list[QueuedCommand], indexes: Sequence[int]) -> list[QueuedCommand]:
        """Pass commands of a batch to the blocking committer; return the others."""
        if not indexes:
            return batch
        chosen = set(indexes)
        deferred = [job for index, job in enumerate(batch) if index in chosen]
        with self._blocked_lock:
            for job in deferred:
                self._count_blocked(job, 1)
        self._executor.call_from_thread(partial(self._queue_blocked, deferred))
        return [job for index, job in enumerate(batch) if index not in chosen]

    def _count_blocked(self, job: QueuedCommand, change: int) -> None:
        counts = self._blocked_paths
        for path in paths_of(job.command):
            counts[path] = counts.get(path, 0) + change
            if counts[path] <= 0:
                del counts[path]

    def _queue_blocked(self, jobs: list[QueuedCommand]) -> None:
        for job in jobs:
            self._executors[1].submit_write(job)

    def _batch_done(
        self, batch: list[QueuedCommand], result: BatchResult, waited: float, took: float
    ) -> None:
        """Publish a batch of commands. Runs on the reactor's thread."""
        self._publish(batch, result)
        self._observe(batch, result, waited, took)

    def _publish(self, batch: Sequence[QueuedCommand], result: BatchResult) -> None:
        for change in result.changes:
            if change.gone:
                self._access.forget(change.state.id)
            elif change.data:
                self._chunks.put(change.state.id, change.start, change.data)
            self._followed.update(change.state)
        self._report(batch, result)
        if result.doubt is not None:
            self._poll_followed(None)

    def _end_frozen_sessions(self) -> None:
        self._in_session(end_frozen_sessions).addErrback(
            lambda failure: self._log.failure("Ending the sessions of frozen nodes failed", failure)
        )

    # -- other nodes ----------------------------------------------------------------------------

    def _hints(self, ids: Iterable[int]) -> list[str]:
        """Return the notifications for other nodes. Runs on a committer thread."""
        return [] if self._background.other_nodes == 0 else encode_hints(self.node, set(ids))

    def _hint_received(self, ids: set[int] | None) -> None:
        """Poll the streams of a hint. Runs on the listener's thread."""
        self._executor.call_from_thread(partial(self._poll_hinted, ids))

    def _poll_hinted(self, ids: set[int] | None) -> None:
        self._hints_received += ids is not None
        self._poll_followed(ids)

    def _poll_followed(self, ids: set[int] | None) -> None:
        """Announce changes by other nodes to the followed streams in ``ids``, None for all."""
        chosen = self._followed.select(ids)
        if not chosen or not self._open:
            return
        if self._polling:
            known = self._poll_next
            self._poll_next = None if known is None or ids is None else known | ids
            return
        self._polling = True
        polled: Deferred[dict[int, StreamState] | Refusal] = self._in_session(
            lambda connection: load_states(connection, list(chosen))
        )
        polled.addCallback(partial(self._polled, chosen, ids is None)).addErrback(
            lambda failure: self._log.failure("Polling followed streams failed", failure)
        )

    def _polled(
        self,
        before: dict[int, StreamState | None],
        all_followed: bool,
        found: dict[int, StreamState] | Refusal,
    ) -> None:
        self._polling = False
        again, self._poll_next = self._poll_next, set()
        if not isinstance(found, Refusal):
            changes = self._followed.compare(before, found)
            self._found_late += all_followed * len(changes)
            notify_listeners(self._listeners, changes)
        self._poll_followed(again)

    def pin(self, stream_id: int) -> None:
        """Keep a stream from expiring by its TTL, and announce its changes at other nodes."""
        super().pin(stream_id)
        self._followed.pin(stream_id)

    def unpin(self, stream_id: int) -> None:
        """Undo one `pin`."""
        self._followed.unpin(stream_id)
        super().unpin(stream_id)

    # -- reads ----------------------------------------------------------------------------------

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Return the state of the stream at a path."""
        return self._queue_read(_PendingRead(path, Deferred()))

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Return bytes of the stream at a path."""
        return self._queue_read(_PendingRead(path, Deferred(), offset, limit, stream_id, piece))

    def _queue_read(self, read: _PendingRead) -> Deferred[Any]:
        if not self._open:
            return succeed(STOPPING)
        self._state_reader.submit_write(read)
        return read.done

    def _run_reads(self, reads: list[_PendingRead]) -> None:
        """Answer all reads that have queued. Runs on the thread of the state reader."""
        results = self._run_guarded(partial(self._call, partial(self._answer_reads, reads)))
        self._state_reader.call_from_thread(partial(self._reads_done, results or BUG, reads))

    def _reads_done(self, results: list[Any] | Refusal, reads: list[_PendingRead]) -> None:
        if isinstance(results, Refusal):
            results = [results] * len(reads)
        for read, result in zip(reads, results, strict=True):
            if isinstance(result, _LargeRead):
                done = self._in_session(partial(self._answer, read, result.state))
                done.addCallbacks(self._finish_read, read.done.errback, (read,))
            else:
                self._finish_read(result, read)

    def _finish_read(self, result: StreamState | Chunk | Refusal, read: _PendingRead) -> None:
        """Note the access and the bytes of a read, and report its result."""
        if isinstance(result, StreamState):
            self._update_followed(result)
        elif isinstance(result, Chunk):
            state = result.state
            self._update_followed(state)
            if self._chunks.get(state.id, result.start) is not result.data:
                self._chunks.put(state.id, result.start, result.data)
            if state.lifetime.ttl is not None:
                now, deadline = self._now(), state.deadline()
                self._access.record(state.id, now)
                assert deadline is not None, "a TTL sets a deadline"
                if self._open and deadline - now < _ACCESS_MARGIN:
                    self._background.write_access(state.id, partial(read.done.callback, result))
                    return
        read.done.callback(result)

    def _update_followed(self, state: StreamState) -> None:
        newer = self._followed.update(state)
        if newer is not None:
            notify_listeners(self._listeners, [Change(newer, newer.tail, b"")])

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Return exactly the bytes ``[start, stop)`` of a stream."""

        def read(connection: Connection) -> bytes | Refusal:
            found = self._check_usable(load_stream_at(connection, path))
            state = check_same_stream(found, stream_id)
            if isinstance(state, Refusal):
                return state
            reader = ConnectionReader(connection, reach=stop - start)
            return reader.gather(state, start, stop, stop - start)

        return self._in_session(read)

    def query(self, question: Query[T]) -> Deferred[T | Refusal]:
        """Return the answer to a question on a snapshot, from a reader thread."""

        def ask(connection: Connection) -> T:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return question.answer(DatabaseSnapshot(connection, self._is_usable))

        return self._in_session(ask)

    # -- on reader threads ----------------------------------------------------------------------

    def _in_session(self, function: Callable[[Connection], T]) -> Deferred[Any]:
        """Call a function with a connection, on a reader thread.

        Fires with a refusal if the database is unavailable, a record is corrupt, or the store is
        closed.
        """
        if not self._open:
            return succeed(STOPPING)
        return self._submit_read(partial(self._call, function))

    def _call(self, function: Callable[[Connection], T]) -> T | Refusal:
        """Call a function with this thread's connection, twice if the connection breaks."""
        for last in (False, True):
            connection: Connection | None = getattr(self._sessions, "open", None)
            try:
                if connection is None or connection.closed:
                    connection = self._sessions.open = self._connect_reader()
                with self._guard.limit(connection, 1.5 * _READ_TIMEOUT / 1000):
                    result = function(connection)
                if self._unreadable:
                    self._unreadable = False
                    self._log.info("Reads work again")
                return result
            except CorruptRecord as corrupt:
                self._log.error("{corrupt}", corrupt=corrupt)
                return CORRUPT
            except (psycopg.ProgrammingError, psycopg.DataError):
                raise
            except psycopg.Error as error:
                if connection is not None:
                    connection.close()
                if last and not self._unreadable:
                    self._unreadable = True
                    self._log.error("Reads fail: {reason}", reason=reason_of(error))
        return _UNREADABLE

    def _connect_reader(self) -> Connection:
        connection = connect(self._settings)
        arrays.register(connection)
        connection.execute(f"SET statement_timeout = {_READ_TIMEOUT}".encode())
        self._connections = [each for each in self._connections if not each.closed] + [connection]
        return connection

    def _answer_reads(self, reads: list[_PendingRead], connection: Connection) -> list[Any]:
        """Return the results of reads of one turn: states, chunks, refusals or large reads."""
        found = load_streams(connection, {read.path for read in reads})
        results: list[Any] = []
        for read in reads:
            state = found.get(read.path)
            if isinstance(state, CorruptRecord):
                self._log.error("{corrupt}", corrupt=state)
                results.append(CORRUPT)
            elif isinstance(usable := self._check_usable(state), Refusal) or read.offset is None:
                results.append(usable)
            else:
                results.append(self._read_shared(read, usable, connection, len(reads) == 1))
        return results

    def _read_shared(
        self, read: _PendingRead, state: StreamState, connection: Connection, alone: bool
    ) -> Chunk | Refusal | _LargeRead:
        assert read.offset is not None, "the read asks for bytes"
        position = resolve_offset(state, read.offset, read.stream_id)
        if isinstance(position, Refusal):
            return position
        limit = read.limit if read.piece is None else min(read.limit, read.piece)
        data = self._chunks.response(state, position, limit)
        if data is not None:
            return Chunk(state, position, data)
        if alone or min(limit, state.tail - position) <= _SHARED_READ:
            return self._answer(read, state, connection)
        return _LargeRead(state)

    def _answer(
        self, read: _PendingRead, state: StreamState, connection: Connection
    ) -> Chunk | Refusal:
        """Read the bytes of a usable stream."""
        assert read.offset is not None, "the read asks for bytes"
        reader = ConnectionReader(connection, reach=read.piece or read.limit)
        try:
            return reader.read_chunk(state, read.offset, read.limit, read.stream_id, read.piece)
        except CorruptRecord as corrupt:
            found = self._check_usable(load_stream_at(connection, read.path))
            if isinstance(found, Refusal):
                # The stream has ended since its state was read.
                return found
            if found.id != state.id:
                return self._answer(read, found, connection)
            self._log.error("{corrupt}", corrupt=corrupt)
            return CORRUPT

    def _count_some(
        self, command: Create, counting: Counting | None
    ) -> Create | Counting | Refusal:
        """Count messages of a fork's source. Runs on a reader thread."""
        return self._call(
            lambda connection: forks.count_some(ConnectionReader(connection), command, counting)
        )

    def _check_acks(self, command: Settle) -> Settle | Refusal:
        """Check that acks lie between messages. Runs on a reader thread."""

        def check(connection: Connection) -> Settle:
            try:
                state = load(connection, SUBSCRIPTIONS, subscription_key(command.id))
                reader = ConnectionReader(connection)
                return subscriptions.check_acks(reader, state, command, self._now())
            except CorruptRecord:
                # The transaction reads the record again and reports it.
                return command

        return self._call(check)

    # -- operation ------------------------------------------------------------------------------

    def stats(self) -> Deferred[Stats | None]:
        """Return the counters of this node and the state of the database."""
        queued, size = self._queued, self._queued_bytes
        hints, late = self._hints_received, self._found_late
        schema = self._settings.schema

        def read(found: tuple[int, float] | Refusal) -> NodeStats:
            others = self._background.other_nodes
            counters = [committer.counters for committer in self._committers]
            dead, age = (None, None) if isinstance(found, Refusal) else found
            return NodeStats(
                queued,
                size,
                sum(each.deferred for each in counters),
                sum(each.restarts for each in counters),
                sum(each.repeats for each in counters),
                sum(committer.session.reconnects for committer in self._committers),
                hints,
                late,
                dead,
                age,
                None if others is None else others + 1,
            )

        asked: Deferred[Any] = self._in_session(partial(_database_state, schema))
        return asked.addCallback(read)

    def check_writable(self) -> Deferred[str | None]:
        """Return why the store cannot write, None if it can.

        Waits for a reader thread and for both committers.
        """
        if not self._open:
            return succeed("the store is closed")
        obstacles: list[Deferred[str | None]] = [
            self._in_session(_check_read).addCallback(
                lambda found: found.detail if isinstance(found, Refusal) else None
            )
        ]
        for executor, committer in zip(self._executors, self._committers, strict=True):
            obstacles.append(find_obstacle(executor, committer.obstacle))
        found: Deferred[list[str | None]] = gatherResults(obstacles)
        return found.addCallback(lambda all_found: next(filter(None, all_found), None))


def _database_state(schema: str, connection: Connection) -> tuple[int, float]:
    """Return the dead rows of the table of streams, and the age of the oldest snapshot in s."""
    row = connection.execute(_DATABASE_STATE, (schema,)).fetchone()
    assert row is not None, "the query returns one row"
    return row[0], row[1]


def _check_read(connection: Connection) -> None:
    connection.execute("SELECT 1")


def _first_batch(jobs: list[QueuedCommand | BackgroundTask]) -> list[QueuedCommand]:
    """Return the first jobs that share a transaction.

    Commands that change which subscriptions there are have transactions of their own, because
    these stop the batches of all nodes.
    """
    first = jobs[0]
    assert isinstance(first, QueuedCommand), "a batch begins with a command"
    kind, size = changes_registry(first.command), 0
    batch: list[QueuedCommand] = []
    for job in jobs[:MAX_BATCH_COMMANDS]:
        if isinstance(job, BackgroundTask) or changes_registry(job.command) is not kind:
            break
        size += job.size
        if batch and size > MAX_BATCH:
            break
        batch.append(job)
    return batch
