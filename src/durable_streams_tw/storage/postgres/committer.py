"""Committer of the PostgreSQL store: batches of commands, each in one transaction.

A batch takes two round trips: one locks and reads what its commands need, the other writes their
changes and commits. In between, the commands decide in memory by the rules of `storage.commands`,
as in every other store. A refused command changes nothing, a batch that changed nothing is rolled
back, and the rules for failed commands and a full disk are those of the durable store.

A node has two committers. The main one leaves out commands on rows that other nodes have locked and
returns them as ``waiting``; the blocking one waits for those rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic, perf_counter
from typing import Any, Final, TypeVar

import psycopg
from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import OF_STREAMS, Command, Outcome
from durable_streams_tw.storage.commands import pending
from durable_streams_tw.storage.commands.appends import FULL
from durable_streams_tw.storage.commands.batches import BatchResult, SparedCommands, grows
from durable_streams_tw.storage.commands.streams import apply, expire, touch
from durable_streams_tw.storage.commands.subscriptions import build_index
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    LINKS,
    SUBSCRIPTIONS,
    subscription_key,
)
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MAX_PRODUCERS, STATE_CACHE, SWEEP_RETRY
from durable_streams_tw.storage.postgres import locks
from durable_streams_tw.storage.postgres.arrays import ByteaArray, Int8Array, TextArray, TidArray
from durable_streams_tw.storage.postgres.connection import reason_of
from durable_streams_tw.storage.postgres.packing import PackingQueue
from durable_streams_tw.storage.postgres.reader import (
    Connection,
    load_chain,
    scan_with_errors,
)
from durable_streams_tw.storage.postgres.session import (
    ROW_TIMEOUT,
    DatabaseUnavailable,
    NodeSession,
    OutcomeUnknown,
)
from durable_streams_tw.storage.postgres.transaction import (
    PRODUCERS,
    DatabaseTransaction,
    LockedRows,
    NodeContext,
    ProducerRows,
    decode_row,
)

T = TypeVar("T")

FULL_DISK: Final = (
    "the disk of the database is full: appends and creates are refused until space is free"
)
UNKNOWN: Final = Refusal(
    Problem.OUTCOME_UNKNOWN,
    "the database failed during the write, which may have been carried out or not: retry as an "
    "idempotent producer to find out",
)
UNAVAILABLE: Final = Refusal(
    Problem.STORAGE_UNAVAILABLE,
    "the database is unavailable; nothing was written",
    ((b"Retry-After", b"1"),),
)

#: Attempts of a batch that other transactions make fail, and of one that lacks locks.
_ATTEMPTS: Final = 20
_RESTARTS: Final = 1_000

#: Least speed of sending a commit, in bytes per second; slower connections are cut.
_MIN_RATE: Final = 256 * KIB

#: Time in ms for which a batch waits for the registry's exclusive lock. The wait stops the batches
#: of all nodes.
_REGISTRY_TIMEOUT: Final = 50

_SHARE_REGISTRY: Final = "SELECT pg_advisory_xact_lock_shared(%s::int, %s::int)"
_OWN_REGISTRY: Final = "SELECT pg_advisory_xact_lock(%s::int, %s::int)"
_NUMBER: Final = """UPDATE node n SET batch = %s, heartbeat = clock_timestamp() FROM registry r
WHERE n.name = %s AND n.committer = %s AND n.batch = %s RETURNING r.version, r.lineage"""
_LOCK: Final = "SELECT ctid, record FROM stream WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
_LOCK_PATHS: Final = """SELECT ctid, record FROM stream WHERE id = ANY(ARRAY(
  SELECT unnest(%s) UNION SELECT id FROM stream WHERE path = ANY(%s))) ORDER BY id FOR UPDATE"""
_FIND: Final = "SELECT id, path FROM stream WHERE path = ANY(%s)"
_AT: Final = "SELECT id, path FROM stream WHERE ctid = ANY(%s)"
_CURSORS: Final = "SELECT key, record FROM cursor WHERE key = ANY(%s)"
_LOCK_SUBSCRIPTIONS: Final = """SELECT key, record FROM subscription WHERE key = ANY(%s)
ORDER BY key FOR UPDATE"""
_NOTIFY: Final = """SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, hint)
FROM unnest(%s) AS w (hint)"""

# Errors after which a transaction has certainly not been committed and can be repeated.
_REPEATABLE: Final = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UniqueViolation,
)
_BUGS: Final = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)


class DatabaseFull(Exception):
    """Failure to write because the disk of the database is full; nothing was written."""


class CommitterCounters(Struct):
    """Counters of a committer since its start.

    ``deferred`` commands went to the blocking committer; ``restarts`` batches began again with more
    locks; ``repeats`` after another transaction was in the way.
    """

    deferred: int = 0
    restarts: int = 0
    repeats: int = 0


class _Locked(Struct):
    """Result of the first round trip; ``held`` are paths that other nodes have locked.

    ``producers`` are those of streams whose ids were known, ``producer_rows`` their rows.
    """

    rows: LockedRows
    held: set[str]
    first_id: int
    producers: ProducerRows
    producer_rows: list[tuple[Any, ...]]


class Committer:
    """Executor of batches through one connection.

    ``now`` returns ms since the Unix epoch, ``clock`` monotonic seconds. ``channel`` is that of
    notifications; ``hints`` returns the payloads for the ids of changed streams. With ``blocking``
    the committer waits for rows that other nodes have locked. All methods run on the committer's
    thread; anything that they raise is a bug.
    """

    _log = Logger()

    def __init__(
        self,
        session: NodeSession,
        access: AccessTimes,
        now: Callable[[], int],
        *,
        channel: str,
        hints: Callable[[Iterable[int]], list[str]],
        packing: PackingQueue,
        blocking: bool = False,
        clock: Callable[[], float] = monotonic,
        max_producers: int = MAX_PRODUCERS,
    ) -> None:
        self.session = session
        self.counters = CommitterCounters()
        self._context = NodeContext(session.node, access, session, max_producers)
        self._access = access
        self._now = now
        self._clock = clock
        self._channel = channel
        self._hints = hints
        self._packing = packing
        self._blocking = blocking
        # A hint: a path may have another stream by now.
        self._ids: BoundedCache[str, int] = BoundedCache(STATE_CACHE)
        self._index = SubscriptionIndex()
        self._version = -1
        self._wake_streams: dict[bytes, str] = {}
        self._has_space = True

    # -- commands -------------------------------------------------------------------------------

    def step(self, commands: Sequence[Command]) -> BatchResult:
        """Carry out commands in one transaction, or in halves if the disk is full.

        ``waiting`` in the result has the indexes of commands for the blocking committer.
        """
        return self._step(commands, full=False)

    def _step(self, commands: Sequence[Command], full: bool) -> BatchResult:
        spared = SparedCommands()
        needs = locks.required_locks(commands, self._index, self._wake_streams)
        needs.wait = self._blocking
        deferred: list[int] = []

        def decide(transaction: DatabaseTransaction, held: set[str]) -> list[Outcome]:
            deferred[:] = blocked_commands(commands, held)
            return self._decide(transaction, commands, set(deferred), full, spared)

        while True:
            try:
                outcomes, transaction, seconds = self._run(needs, decide, full=full)
            except DatabaseFull as failure:
                if not full:
                    full = True
                    self._set_space(False)
                    continue
                if len(commands) > 1:
                    return self._in_halves(commands, full)
                return self._failed(1, FULL, failure)
            except _StartOver:
                if spared.too_many and len(commands) > 1:
                    return self._in_halves(commands, full)
                continue
            except DatabaseUnavailable as failure:
                return self._failed(len(commands), UNAVAILABLE, failure)
            except OutcomeUnknown as failure:
                result = self._failed(len(commands), UNKNOWN, failure)
                return BatchResult(result.outcomes, [], {}, 0, failed=True, doubt=0)
            break
        if transaction.chunks:
            self._set_space(True)
        self.counters.deferred += len(deferred)
        return BatchResult(
            outcomes,
            transaction.changes,
            {},
            0,
            notes=transaction.notes,
            seconds=seconds,
            waiting=deferred,
        )

    def _in_halves(self, commands: Sequence[Command], full: bool) -> BatchResult:
        """Carry out a batch as two, or only its first half if commands of that one wait."""
        half = len(commands) // 2
        first = self._step(commands[:half], full)
        if first.waiting:
            return first
        return first.followed_by(self._step(commands[half:], full), half)

    def _decide(
        self,
        transaction: DatabaseTransaction,
        commands: Sequence[Command],
        deferred: set[int],
        full: bool,
        spared: SparedCommands,
    ) -> list[Outcome]:
        """Return the outcomes of commands that are not deferred, in order.

        Raises `_StartOver` if a command failed and may have written.
        """
        now = self._now()
        outcomes: list[Outcome] = []
        for index, command in enumerate(commands):
            if index in deferred:
                continue
            outcome: Outcome | None = spared.get(index)
            if outcome is None and full and grows(command):
                outcome = FULL
            if outcome is None:
                writes = transaction.writes
                transaction.reads_unlocked = not isinstance(command, OF_STREAMS)
                try:
                    outcome = _carry_out(transaction, command, now)
                except (locks.MissingLock, psycopg.Error):
                    raise
                except Exception as error:  # noqa: BLE001 - fails one command, not the batch
                    outcome = spared.failed(index, error, transaction.writes != writes)
                    if outcome is None:
                        raise _StartOver from None
            outcomes.append(outcome)
        return outcomes

    def _set_space(self, has_space: bool) -> None:
        if has_space != self._has_space:
            self._has_space = has_space
            if has_space:
                self._log.info("The disk has space again: appends and creates are accepted")
            else:
                self._log.warn(FULL_DISK)

    def _failed(self, count: int, refusal: Refusal, failure: Exception) -> BatchResult:
        if refusal is not UNAVAILABLE or not self.session.unavailable:
            # The session has logged that the database is unavailable.
            self._log.error(
                "A batch failed with {problem}: {reason}",
                problem=refusal.problem.slug,
                reason=str(failure).strip(),
            )
        return BatchResult([refusal] * count, [], {}, 0, failed=True)

    def obstacle(self) -> str | None:
        """Return the reason why streams cannot grow, or None if they can."""
        if not self._has_space:
            return FULL_DISK
        try:
            self.call(lambda connection: connection.execute("SELECT 1"))
        except DatabaseUnavailable as failure:
            return f"the database is unavailable: {str(failure).strip()}"
        return None

    # -- the sweep ------------------------------------------------------------------------------

    def expire(self, due: Sequence[tuple[int, str]]) -> BatchResult:
        """End expired ones of some streams, pairs of id and path, and reindex the others."""
        needs = locks.LockSet(ids={stream_id for stream_id, _ in due})
        if self._index:
            for _, path in due:
                needs.add_cursors(self._index.linked(path), path, True)

        failed = set[int]()

        def end(transaction: DatabaseTransaction) -> None:
            now = self._now()
            for stream_id, _ in due:
                if stream_id in failed:
                    transaction.postpone(stream_id, now + int(SWEEP_RETRY * 1000))
                    continue
                try:
                    self._expire(transaction, stream_id, now)
                except (locks.MissingLock, psycopg.Error):
                    raise
                except Exception as error:
                    self._log.failure("Ending an expired stream failed")
                    failed.add(stream_id)
                    raise _StartOver from error

        while True:
            try:
                return self._background(needs, end)
            except _StartOver:
                continue

    def _expire(self, transaction: DatabaseTransaction, stream_id: int, now: int) -> None:
        if not transaction.is_locked(stream_id):
            return
        deadline = expire(transaction, stream_id, now)
        if deadline is not None:
            touch(transaction, stream_id, self._access.last_access(stream_id, now))
        transaction.reindex(stream_id, deadline)
        _finish_fan_outs(transaction, now)

    def write_accesses(self, accesses: Iterable[tuple[int, int]]) -> BatchResult:
        """Save the last access times of streams: pairs of stream id and ms since the Unix epoch."""
        known = dict(accesses)
        needs = locks.LockSet(ids=set(known), wait=True)

        def save(transaction: DatabaseTransaction) -> None:
            for stream_id, accessed_at in known.items():
                touch(transaction, stream_id, accessed_at)

        return self._background(needs, save)

    def _background(
        self, needs: locks.LockSet, work: Callable[[DatabaseTransaction], None]
    ) -> BatchResult:
        try:
            _, transaction, seconds = self._run(needs, lambda transaction, _: work(transaction))
        except DatabaseFull as failure:
            return self._failed(0, FULL, failure)
        except DatabaseUnavailable as failure:
            return self._failed(0, UNAVAILABLE, failure)
        except OutcomeUnknown as failure:
            self._failed(0, UNKNOWN, failure)
            return BatchResult([], [], {}, 0, failed=True, doubt=0)
        return BatchResult([], transaction.changes, {}, 0, notes=transaction.notes, seconds=seconds)

    # -- one transaction ------------------------------------------------------------------------

    def call(self, work: Callable[[Connection], T]) -> T:
        """Call a function with the committer's connection, outside a batch.

        Its transactions have no outcome to report: they may be repeated. Raises
        `DatabaseUnavailable`.
        """
        deadline = self.session.deadline()
        while True:
            connection, _ = self.session.open(deadline)
            try:
                with self.session.limit():
                    return work(connection)
            except psycopg.Error as error:
                self.session.drop()
                if isinstance(error, _BUGS):
                    raise
                if self._clock() >= deadline:
                    raise DatabaseUnavailable(error) from None
            except BaseException:
                # psycopg has rolled back, and would deallocate all prepared statements.
                self.session.drop()
                raise

    def _run(
        self,
        needs: locks.LockSet,
        decide: Callable[[DatabaseTransaction, set[str]], T],
        full: bool = False,
    ) -> tuple[T, DatabaseTransaction, float]:
        """Carry out one batch: lock, decide, write and commit, again until it succeeds.

        ``decide`` gets the transaction, and the paths that other nodes have locked. Return its
        result, the transaction, and the duration of the commit, which is 0 if nothing changed.
        Raises `DatabaseFull`, `DatabaseUnavailable` and `OutcomeUnknown`.
        """
        session = self.session
        deadline = session.deadline()
        decided: tuple[T, DatabaseTransaction, float] | None = None
        broken: psycopg.Error | None = None
        attempts = restarts = 0
        while True:
            connection, committed = session.open(deadline)
            if committed and decided is not None:
                return decided
            if broken is not None and self._clock() >= deadline:
                raise DatabaseUnavailable(broken)
            decided = None
            try:
                with session.limit():
                    locked = self._lock(connection, needs)
                    transaction = self._begin(connection, locked, needs, full)
                    result = decide(transaction, locked.held)
                    decided = result, transaction, 0.0
                with session.limit(transaction.size / _MIN_RATE):
                    seconds = self._commit(transaction, needs.exclusive)
            except locks.MissingLock as missing:
                self._invalidate_index(needs)
                restarts += 1
                self.counters.restarts += 1
                assert restarts < _RESTARTS, f"a batch can never be locked: {missing}"
                self._add_locks(connection, needs, missing)
                continue
            except psycopg.errors.DiskFull as error:
                session.roll_back()
                self._invalidate_index(needs)
                raise DatabaseFull(error) from None
            except _REPEATABLE as error:
                session.roll_back()
                self._invalidate_index(needs)
                attempts += not isinstance(error, psycopg.errors.LockNotAvailable)
                self.counters.repeats += 1
                if attempts >= _ATTEMPTS or self._clock() >= deadline:
                    raise DatabaseUnavailable(error) from None
                if isinstance(error, psycopg.errors.UniqueViolation):
                    self._forget(needs.paths)
                continue
            except _BUGS:
                session.roll_back()
                raise
            except psycopg.Error as error:
                session.drop()
                self._invalidate_index(needs)
                self._log.warn(
                    "The connection to the database broke: {reason}", reason=reason_of(error)
                )
                broken = error
                continue
            except BaseException:
                session.roll_back()
                self._invalidate_index(needs)
                raise
            return result, transaction, seconds

    def _add_locks(
        self, connection: Connection, needs: locks.LockSet, missing: locks.MissingLock
    ) -> None:
        """Add what a decision lacked, and what it would lack next."""
        session, wanted = self.session, missing.wanted
        session.roll_back()
        if isinstance(missing, _LocksAdded):
            return
        if isinstance(wanted, str):
            # The last attempt skipped this lock because another node held it: wait for it.
            needs.wait = needs.wait or wanted in needs.paths
            needs.paths.add(wanted)
        elif isinstance(wanted, int):
            needs.wait = needs.wait or wanted in needs.ids
            try:
                for state in load_chain(connection, wanted):
                    needs.ids.add(state.id)
                    # The ancestors of a stream that others need are not deleted with it.
                    if not state.deleted or state.forks != 1:
                        break
            except psycopg.Error:
                # The next attempt to lock opens another connection.
                session.drop()
            needs.ids.add(wanted)
        else:
            needs.subscriptions.add(wanted)
            for path in needs.paths:
                members = self._index.linked(path)
                needs.subscriptions.update([subscription_key(name) for _, name in members])

    def _invalidate_index(self, needs: locks.LockSet) -> None:
        """Read the index again: commands have changed it whose transaction was not committed."""
        if needs.exclusive:
            self._version = -1

    def _forget(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._ids.pop(path)

    # -- first round trip -----------------------------------------------------------------------

    def _lock(self, connection: Connection, needs: locks.LockSet) -> _Locked:
        """Begin the transaction; lock and read streams."""
        session, ids = self.session, self._ids
        known = {path: stream_id for path in needs.paths if (stream_id := ids.get(path))}
        unknown = TextArray(needs.paths.difference(known))
        wanted = Int8Array(needs.ids.union(known.values()))
        suffix = "" if needs.wait else " SKIP LOCKED"
        pipeline = session.pipeline()
        pipeline.add("BEGIN")
        advisory = session.advisory, locks.REGISTRY
        if needs.exclusive:
            pipeline.add(f"SET LOCAL lock_timeout = {_REGISTRY_TIMEOUT}")
            pipeline.add(_OWN_REGISTRY, advisory)
            pipeline.add(f"SET LOCAL lock_timeout = {ROW_TIMEOUT}")
        else:
            pipeline.add(_SHARE_REGISTRY, advisory)
        numbered = pipeline.add(
            _NUMBER, (session.number + 1, session.node, session.committer, session.number)
        )
        if unknown:
            streams = pipeline.add(_LOCK_PATHS + suffix, (wanted, unknown))
            found = pipeline.add(_FIND, (unknown,))
        else:
            streams = pipeline.add(_LOCK + suffix, (wanted,))
        producers = ProducerRows(
            [(known[path], name) for path, name in needs.producers if path in known]
        )
        if producers:
            producing = pipeline.add(PRODUCERS, producers.parameters())
        pipeline.run()
        registry = pipeline.rows(numbered)
        if not registry:
            # Another node has removed the row of this one, which it believed to be dead.
            raise psycopg.OperationalError("the row of this node is gone")
        [(version, first_id)] = registry
        rows = LockedRows([], needs.paths.copy(), needs.ids.copy(), {})
        for tid, record in pipeline.rows(streams):
            try:
                rows.streams.append(decode_row(tid, record))
            except CorruptRecord as corrupt:
                self._add_corrupt(connection, rows, tid, corrupt)
        locked = {stream.state.id for stream in rows.streams}.union(rows.corrupt)
        at: dict[str, int] = {}
        if unknown:
            at = {path: stream_id for stream_id, path in pipeline.rows(found)}
        missing = [path for path, stream_id in known.items() if stream_id not in locked]
        if missing:
            rest = connection.execute(_FIND, (TextArray(missing),), binary=True)
            at.update({path: stream_id for stream_id, path in rest})
            self._forget(missing)
        held = set[str]()
        for path, stream_id in at.items():
            ids.insert(path, stream_id)
            if stream_id not in locked:
                if needs.wait or (path in known and known[path] != stream_id):
                    # Another node has just made it: lock it by its id.
                    raise _LocksAdded(path)
                held.add(path)
        ids.trim()
        rows.paths -= held
        if not needs.wait:
            rows.ids &= locked
        self._load_index(connection, version)
        producer_rows = pipeline.rows(producing) if producers else []
        return _Locked(rows, held, first_id, producers, producer_rows)

    def _add_corrupt(
        self, connection: Connection, rows: LockedRows, tid: bytes, corrupt: CorruptRecord
    ) -> None:
        found = connection.execute(_AT, (TidArray([tid]),)).fetchall()
        for stream_id, path in found:
            rows.corrupt[stream_id] = rows.corrupt[path] = corrupt

    def _load_index(self, connection: Connection, version: int) -> None:
        if version == self._version:
            return
        self._index = build_index(
            [state for _, state in scan_with_errors(connection, SUBSCRIPTIONS)],
            lambda: scan_with_errors(connection, LINKS),
            lambda corrupt: self._log.error(
                "Skipped a subscription that cannot be read: {c}", c=corrupt
            ),
        )
        self._version = version
        self._wake_streams.clear()

    def _begin(
        self, connection: Connection, locked: _Locked, needs: locks.LockSet, full: bool
    ) -> DatabaseTransaction:
        """Return the transaction, with the producers, cursors and subscriptions that it needs."""
        transaction = DatabaseTransaction(
            connection,
            self._context,
            locked.rows,
            index=self._index,
            first_id=locked.first_id,
            now=self._now(),
            exclusive=needs.exclusive,
            has_space=not full,
        )
        transaction.set_producers(locked.producers, locked.producer_rows)
        if len(locked.producers) < len(needs.producers):
            by_path = {each.state.path: each.state.id for each in locked.rows.streams}
            wanted_producers = {
                (by_path[path], name) for path, name in needs.producers if path in by_path
            }
            transaction.load_producers(wanted_producers.difference(locked.producers.values()))
        wanted = set(needs.subscriptions)
        if needs.cursors:
            cursors: dict[bytes, Any] = dict.fromkeys(needs.cursors)
            rows = connection.execute(_CURSORS, (ByteaArray(needs.cursors),), binary=True)
            for key, record in rows:
                cursors[key] = CURSORS.decode(CURSORS.prefix + key, record)
            transaction.set_cursors(cursors)
            for key, (subscription, exists) in needs.cursors.items():
                if exists is None or exists is (cursors[key] is not None):
                    wanted.add(subscription)
        if wanted:
            self._lock_subscriptions(connection, transaction, needs, wanted)
        return transaction

    def _lock_subscriptions(
        self,
        connection: Connection,
        transaction: DatabaseTransaction,
        needs: locks.LockSet,
        wanted: set[bytes],
    ) -> None:
        found: dict[bytes, Subscription | None] = dict.fromkeys(wanted)
        rows = connection.execute(_LOCK_SUBSCRIPTIONS, (ByteaArray(wanted),), binary=True)
        lacking: str | None = None
        for key, record in rows:
            state = SUBSCRIPTIONS.decode(SUBSCRIPTIONS.prefix + key, record)
            found[key] = state
            wake_stream = state.config.wake_stream
            if wake_stream is not None:
                self._wake_streams[key] = wake_stream
                if (state.idle or key in needs.subscriptions) and wake_stream not in needs.paths:
                    # The wake may append an event to this stream.
                    needs.paths.add(wake_stream)
                    lacking = wake_stream
        if lacking is not None:
            needs.subscriptions |= wanted
            raise _LocksAdded(lacking)
        transaction.set_subscriptions(found)

    # -- second round trip ----------------------------------------------------------------------

    def _commit(self, transaction: DatabaseTransaction, exclusive: bool) -> float:
        session = self.session
        if not transaction.writes:
            session.roll_back()
            return 0.0
        begun = perf_counter()
        hints = self._hints(change.state.id for change in transaction.changes)
        pipeline = session.pipeline()
        written = transaction.flush(pipeline.add)
        commit = pipeline.add("COMMIT")
        if hints:
            # After the commit, and without a flush: a notification holds a lock of the whole
            # database until its own commit is done.
            pipeline.add(_NOTIFY, (self._channel, TextArray(hints)))
        session.committing()
        try:
            pipeline.run()
        except psycopg.Error as error:
            results = pipeline.results
            if len(results) <= commit or results[commit].command_status != b"COMMIT":
                raise
            # Only the hint failed: other nodes poll once a second.
            self._log.warn("A notification failed: {reason}", reason=reason_of(error))
            session.committed()
            session.roll_back()
        else:
            session.committed()
        self._packing.add(transaction.chunks)
        for change in transaction.changes:
            state = change.state
            if change.gone:
                self._ids.pop(state.path)
            elif state.id in transaction.created:
                self._ids.insert(state.path, state.id)
        if exclusive:
            # The commands have changed the index, and `flush` has counted that in the registry.
            self._version += written
        return perf_counter() - begun


class _StartOver(Exception):
    """Failure of a command that may have written: the batch starts over without it."""


class _LocksAdded(locks.MissingLock):
    """Need of rows that have been added to the lock set already."""


def _carry_out(transaction: DatabaseTransaction, command: Command, now: int) -> Outcome:
    """Carry out a command and its fan-outs, which other stores divide over several batches."""
    while True:
        outcome = apply(transaction, command, now)
        if transaction.fan_outs:
            _finish_fan_outs(transaction, now)
        if outcome is not None:
            return outcome


def _finish_fan_outs(transaction: DatabaseTransaction, now: int) -> None:
    while transaction.fan_outs:
        pending.resume(transaction, now)


def blocked_commands(commands: Sequence[Command], held: set[str]) -> list[int]:
    """Return the indexes of commands on held paths, and of all later ones that share a path."""
    if not held:
        return []
    blocked, found = set(held), []
    for index, command in enumerate(commands):
        paths = locks.paths_of(command)
        if not blocked.isdisjoint(paths):
            blocked.update(paths)
            found.append(index)
    return found
