"""Committer: execution of batches of commands, each in one durable commit.

The committer has no thread of its own: the durable store calls it on the committer thread, and
tests call it directly with an engine that injects failures. Rules of a batch:

1. Commands are carried out in order, each on the state that the previous ones left.
2. A refused command changes nothing, and the other commands are carried out. The same holds for a
   command that raises because of a bug or a corrupt record: if it has written anything, the batch
   starts over without it.
3. A batch that changed nothing is not committed.
4. If the disk or the quota is full, commands that only delete are still carried out. Deleting needs
   pages too, so if the commit does not fit, the batch is split in halves, down to one command or
   one record.
5. A batch is committed after BATCH_TIME; the remaining commands stay queued. No single command
   takes much longer: the fan-out of an event to many subscriptions (`pending`) and the staging of a
   large body (`staging`) are divided over several batches, and commands that could observe an
   intermediate state wait until the fan-out or the staging is finished.
6. If a commit fails for any other reason, its outcome is unknown, and so is that of every command
   in the batch: even a refusal may depend on data that was not written. The committer then clears
   its caches. After the disk works again, the next batch notifies the followers of all streams that
   the failed commit was to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic, perf_counter
from typing import Final

from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import (
    OF_STREAMS,
    WITH_BODY,
    Change,
    Command,
    Outcome,
    RecordChange,
)
from durable_streams_tw.storage.commands import pending
from durable_streams_tw.storage.commands.appends import FULL
from durable_streams_tw.storage.commands.batches import (
    BatchResult,
    SparedCommands,
    grows,
)
from durable_streams_tw.storage.commands.streams import apply, body_position, expire, touch
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.staging import Upload
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.durable.write_cache import WriteCache
from durable_streams_tw.storage.engine import codec, kv, tables
from durable_streams_tw.storage.engine.format_version import first_id
from durable_streams_tw.storage.engine.tables import StagedBody
from durable_streams_tw.storage.errors import CorruptRecord

UNKNOWN = Refusal(
    Problem.OUTCOME_UNKNOWN,
    "the disk failed during the write, which may have been carried out or not: retry as an "
    "idempotent producer to find out",
)
FULL_DISK = "the disk is full: appends and creates are refused until space is free"
UNAVAILABLE = Refusal(Problem.STORAGE_UNAVAILABLE, "the disk failed; nothing was written")

_LARGEST: Final = max(limits.DELETE_STEP, limits.SWEEP_STEP)
_SLOWEST: Final = 32


class _Decided(Struct):
    """Outcomes of commands, and the indexes of commands that wait."""

    outcomes: list[Outcome]
    waiting: list[int]


class Committer:
    """Executor of batches, one at a time, on the calling thread.

    ``now`` returns ms since the Unix epoch. ``clock`` returns monotonic seconds, which bound the
    time of a batch. ``reserve`` is the number of bytes to leave free on the disk, and ``quota`` the
    number of bytes that stored keys and values may occupy, None for no limit. ``max_producers`` is
    the number of producers that a stream remembers at least.

    The durable store calls all methods on the committer thread. They return failures of the disk
    as results; anything they raise is a bug.
    """

    _log = Logger()

    def __init__(
        self,
        engine: kv.KeyValueEngine,
        access: AccessTimes,
        now: Callable[[], int],
        reserve: int = 0,
        quota: int | None = None,
        clock: Callable[[], float] = monotonic,
        max_producers: int = limits.MAX_PRODUCERS,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._access = access
        self._now = now
        self._reserve = reserve
        self._quota = quota
        self._had_room = True
        # Number of entries that a step of the sweep may process; lower while the disk is full.
        self._portion = _LARGEST
        # Number of entries that a step of the sweep can process within BATCH_TIME.
        self._pace = _LARGEST
        # Progress of the sweep.
        self._passed = _NOTHING_PASSED
        # The first id exceeds those of earlier processes and of copies of the store: reused ids
        # would make offsets valid for other bytes.
        self._written = WriteCache(first_id(now()), max_producers)
        # Commands whose body is being staged, by stream path.
        self._uploads: dict[str, Upload] = {}
        # States that commits of unknown outcome were to write, by stream id.
        self._doubtful: dict[int, StreamState] = {}
        # Watched records that commits of unknown outcome were to write, by whole key.
        self._doubtful_notes: dict[bytes, RecordChange] = {}

    def step(self, commands: Sequence[Command]) -> BatchResult:
        """Carry out commands in one commit, at least one and as many as BATCH_TIME allows.

        Failures of the disk and errors of clients are in the result; anything raised is a bug. A
        batch that is too large for a full disk takes several commits.
        """
        return self._step(commands, None, self._clock() + limits.BATCH_TIME)

    def _step(self, commands: Sequence[Command], full: bool | None, until: float) -> BatchResult:
        """Carry out commands until ``until`` (monotonic seconds).

        ``full`` means that the disk or the quota is full; None means that it has to be checked.
        """
        spared = SparedCommands()
        # Whether fan-outs continue. If there is no space even for them, commands that would wait
        # for them are refused: they could wait forever.
        resuming = not full
        while True:
            try:
                if full is None:
                    full = not self._has_room()
                batch = self._engine.begin()
            except kv.EngineFailed as failure:
                return self._failed(len(commands), UNAVAILABLE, failure)
            transaction = BatchTransaction(batch, self._written, self._access, not full)
            try:
                self._settle(batch, transaction)
                if resuming:
                    self._resume(transaction, until - limits.BATCH_TIME / 2)
                    self._discard(
                        batch, transaction, limits.DELETE_STEP, until - limits.BATCH_TIME / 2
                    )
                decided = self._decide(transaction, commands, full, resuming, spared, until)
                if decided is not None:
                    more = self._unfinished(transaction)
                    return self._commit(batch, transaction, decided, more)
            except kv.EngineFull as failure:
                if full:
                    self._drop(batch)
                    if len(commands) > 1:
                        return self._in_halves(commands, full, until)
                    return self._failed(1, FULL, failure)
                full, resuming = True, False
            except kv.EngineFailed as failure:
                return self._unknown(batch, transaction, len(commands), failure)
            except BaseException:
                self._drop(batch)
                raise
            self._drop(batch)
            if spared.too_many:
                return self._in_halves(commands, full, until)

    def sweep(self) -> BatchResult | None:
        """Run one step of the sweep: continue fan-outs, end expired streams, delete garbage.

        Return None if there is nothing to do. If ``more`` is set in the result, the caller has to
        run another step immediately. Failures of the disk are in the result.
        """
        now = self._now()
        until = self._clock() + limits.BATCH_TIME
        spared: set[int] = set()
        while True:
            try:
                # Call this even if nothing is due: it repairs an engine after a failed commit.
                batch = self._engine.begin()
            except kv.EngineFailed as failure:
                return self._failed(0, UNAVAILABLE, failure)
            portion = min(self._portion, self._pace)
            transaction = BatchTransaction(batch, self._written, self._access)
            try:
                # A deadline is due only when both the wall clock and the stream time have passed
                # it, because an entry does not tell which of them it refers to.
                due_by = now + min(0, self._access.lead())
                try:
                    due, garbage = _due(batch, self._passed, due_by, portion)
                except CorruptRecord as corrupt:
                    self._log.error("{corrupt}", corrupt=corrupt)
                    due, garbage = [], []
                doubtful = self._doubtful or self._doubtful_notes
                unfinished = self._unfinished(transaction)
                if not due and not garbage and not doubtful and not unfinished:
                    batch.abort()
                    self._passed = _NOTHING_PASSED
                    return None
                self._settle(batch, transaction)
                if self._portion == _LARGEST:
                    # A smaller portion means that the disk is full: free space before fan-outs.
                    self._resume(transaction, until)
                self._discard(batch, transaction, min(limits.DELETE_STEP, portion), until)
                ended = self._expire(transaction, due, spared, now, until)
                if ended is not None:
                    most = min(limits.DELETE_STEP, portion)
                    freed, gone, left = self._free(batch, transaction, garbage, most, until)
                    more = left or ended < len(due) or ended == min(limits.SWEEP_STEP, portion)
                    more = more or self._unfinished(transaction)
                    last = codec.deadline_key(*due[ended - 1]) if ended else b""
                    # Look up fewer entries next time if there was no time to process these.
                    late = self._clock() >= until
                    self._pace = max(portion // 2, _SLOWEST) if late else min(2 * portion, _LARGEST)
                    committed = self._commit(batch, transaction, _Decided([], []), more)
                    passed = _Passed(last or self._passed.deadline, gone, freed)
                    # Entries added before this position meanwhile are left to the next sweep.
                    self._passed = passed if more else _NOTHING_PASSED
                    self._portion = min(2 * self._portion, _LARGEST)
                    return committed
            except kv.EngineFull as failure:
                if self._portion == 1:
                    self._drop(batch)
                    return self._failed(0, FULL, failure)
                self._portion = max(self._portion // 8, 1)
            except kv.EngineFailed as failure:
                return self._unknown(batch, transaction, 0, failure)
            except BaseException:
                self._drop(batch)
                raise
            self._drop(batch)

    def write_accesses(self, accesses: Iterable[tuple[int, int]]) -> BatchResult:
        """Save the last access times of streams: pairs of stream id and ms since the Unix epoch."""
        try:
            batch = self._engine.begin()
        except kv.EngineFailed as failure:
            return self._failed(0, UNAVAILABLE, failure)
        transaction = BatchTransaction(batch, self._written, self._access)
        try:
            self._settle(batch, transaction)
            for stream_id, accessed_at in accesses:
                try:
                    touch(transaction, stream_id, accessed_at)
                except CorruptRecord as corrupt:
                    self._log.error("{corrupt}", corrupt=corrupt)
            return self._commit(batch, transaction, _Decided([], []))
        except kv.EngineFull as failure:
            self._drop(batch)
            return self._failed(0, FULL, failure)
        except kv.EngineFailed as failure:
            return self._unknown(batch, transaction, 0, failure)
        except BaseException:
            self._drop(batch)
            raise

    def obstacle(self) -> str | None:
        """Return the reason why streams cannot grow, or None if they can.

        The readiness check calls this on the committer thread.
        """
        try:
            if not self._has_room():
                return FULL_DISK
            self._engine.begin().abort()
        except kv.EngineFailed as failure:
            return f"the disk failed: {failure}"
        return None

    # -- one batch ----------------------------------------------------------------------------

    def _in_halves(self, commands: Sequence[Command], full: bool, until: float) -> BatchResult:
        """Carry out a batch as two, or only its first half if ``until`` has passed by then."""
        half = len(commands) // 2
        first = self._step(commands[:half], full, until)
        if len(first.outcomes) < half or self._clock() >= until:
            # The second half must not overtake commands of the first that wait or are left over.
            return first
        second = self._step(commands[half:], full, until)
        return first.followed_by(second, half)

    def _decide(
        self,
        transaction: BatchTransaction,
        commands: Sequence[Command],
        full: bool,
        resuming: bool,
        spared: SparedCommands,
        until: float,
    ) -> _Decided | None:
        """Carry out commands until ``until`` (monotonic seconds).

        Return None if the batch has to start over because a command failed and may have written
        something. That command is then in ``spared`` with its refusal.
        """
        now = self._now()
        outcomes: list[Outcome] = []
        waiting: list[int] = []
        # Whether a command of a subscription waits, and the paths of streams whose commands wait.
        held, blocked = False, set[str]()
        fan_outs, staged = transaction.fan_outs, transaction.staged
        # Carry out at least the commands up to the last spared one again. Otherwise a restarted
        # batch could end before the failed command, and the next batch would fail there again.
        least = max(spared, default=0) + 1
        clock = self._clock
        for index, command in enumerate(commands):
            if index >= least and clock() >= until:
                break
            outcome: Outcome | None
            if (held or fan_outs or staged or blocked) and self._must_wait(
                transaction, command, held, blocked
            ):
                if not resuming:
                    outcomes.append(FULL)
                    continue
                waiting.append(index)
                least += 1
                if isinstance(command, OF_STREAMS):
                    blocked.add(command.path)
                else:
                    held = True
                continue
            if index in spared:
                outcome = spared[index]
            elif full and grows(command):
                outcome = FULL
            else:
                writes = transaction.writes
                try:
                    if (
                        isinstance(command, WITH_BODY)
                        and command.body is not None
                        and len(command.body.data) > limits.MAX_BATCH
                    ):
                        outcome = self._carry_out_step(transaction, command, command.body, now)
                    else:
                        outcome = apply(transaction, command, now)
                except (kv.EngineFull, kv.EngineFailed):
                    raise
                except Exception as error:  # noqa: BLE001 - fails one command, not the batch
                    outcome = spared.failed(index, error, transaction.writes != writes)
                    if outcome is None:
                        return None
            if outcome is None and not resuming:
                outcome = FULL
            if outcome is None:
                assert isinstance(command, WITH_BODY), "only these are done in steps"
                waiting.append(index)
                least += 1
                blocked.add(command.path)
            else:
                outcomes.append(outcome)
        return _Decided(outcomes, waiting)

    def _must_wait(
        self, transaction: BatchTransaction, command: Command, held: bool, blocked: set[str]
    ) -> bool:
        """Return whether a command has to wait for a fan-out, a staged body or another command."""
        if isinstance(command, OF_STREAMS):
            path = command.path
            if path in blocked:
                return True
            if path in transaction.staged:
                upload = self._uploads.get(path)
                if upload is None or upload.command is not command:
                    return True
        return pending.must_wait(transaction, command, held)

    def _carry_out_step(
        self, transaction: BatchTransaction, command: Append | Create, body: Body, now: int
    ) -> Outcome | None:
        """Run the next step of a command with a large body; return None until the last one."""
        path = command.path
        upload = self._uploads.get(path)
        if upload is None:
            target = body_position(transaction, command, now)
            if target is None:
                return apply(transaction, command, now)
            if transaction.staging:
                # More than one step in a batch would exceed BATCH_TIME.
                return None
            stream_id, start = target
            if stream_id is None:
                stream_id = transaction.new_id()
            upload = Upload(command, StagedBody(path, stream_id, start), body)
            self._uploads[path] = upload
            transaction.begin_staging(upload.record)
        elif transaction.staging:
            return None
        if not transaction.has_space:
            # `_discard` deletes the staged records of a command that is not in _uploads.
            del self._uploads[path]
            return FULL
        if not upload.advance(transaction):
            return None
        del self._uploads[path]
        new = isinstance(command, Create)
        with transaction.offering(upload.record, upload.last_start, new) as offered:
            outcome = apply(transaction, command, now)
        if offered.taken:
            transaction.end_staging(upload.record)
        return outcome

    def _unfinished(self, transaction: BatchTransaction) -> bool:
        """Return whether there are unfinished fan-outs, or staged bodies to delete."""
        return bool(transaction.fan_outs) or not transaction.staged.keys() <= self._uploads.keys()

    def _discard(
        self, batch: kv.WriteBatch, transaction: BatchTransaction, most: int, until: float
    ) -> None:
        """Delete at most ``most`` records of staged bodies whose command is gone.

        Stop at ``until`` (monotonic seconds), after at least one record.
        """
        left = most
        for record in [*transaction.staged.values()]:
            if record.path in self._uploads:
                continue
            state = transaction.stream(record.stream_id)
            start = record.start if state is None else max(record.start, state.tail)
            stop = codec.stream_ranges(record.stream_id)[0][1]
            try:
                for key in _ascending(batch, codec.data_key(record.stream_id, start), stop):
                    if not left or (left < most and self._clock() >= until):
                        return
                    transaction.delete_key(key)
                    left -= 1
            except CorruptRecord as corrupt:
                self._log.error("{corrupt}", corrupt=corrupt)
            transaction.end_staging(record)

    def _resume(self, transaction: BatchTransaction, until: float) -> None:
        """Continue fan-outs until ``until`` (monotonic seconds), by at least one step."""
        if not transaction.fan_outs:
            return
        now = self._now()
        while True:
            try:
                pending.resume(transaction, now)
            except (kv.EngineFull, kv.EngineFailed):
                raise
            except Exception:  # noqa: BLE001 - else every later batch fails here
                self._log.failure("A fan-out failed")
                pending.abandon(transaction)
            if not transaction.fan_outs or self._clock() >= until:
                return

    def _commit(
        self,
        batch: kv.WriteBatch,
        transaction: BatchTransaction,
        decided: _Decided,
        more: bool = False,
    ) -> BatchResult:
        seconds = 0.0
        if transaction.flush():
            begun = perf_counter()
            version = batch.commit()
            seconds = perf_counter() - begun
        else:
            batch.abort()
            version = 0
        self._doubtful.clear()
        self._doubtful_notes.clear()
        self._written.trim()
        return BatchResult(
            decided.outcomes,
            transaction.changes,
            transaction.published,
            version,
            more,
            notes=transaction.notes,
            seconds=seconds,
            waiting=decided.waiting,
        )

    def _settle(self, batch: kv.WriteBatch, transaction: BatchTransaction) -> None:
        """Report the stored state of all streams and records of commits of unknown outcome."""
        for stream_id, state in self._doubtful.items():
            try:
                record = reader.load_stream(batch, stream_id)
            except CorruptRecord:
                # Readers of the stream get the error. Raising it here would fail every batch.
                continue
            gone = record is None or record.state.deleted
            state = state if record is None else record.state
            transaction.changes.append(Change(state, state.tail, b"", gone))
        for note in self._doubtful_notes.values():
            try:
                value = tables.load(batch, note.table, note.key)
            except CorruptRecord:
                continue
            transaction.notes.append(RecordChange(note.table, note.key, value))

    def _drop(self, batch: kv.WriteBatch) -> None:
        batch.abort()
        self._forget()
        self._passed = _NOTHING_PASSED

    def _forget(self) -> None:
        """Clear the cache and the uploads, because the disk may differ from them."""
        self._written.clear()
        self._uploads.clear()

    def _failed(self, count: int, refusal: Refusal, failure: Exception) -> BatchResult:
        self._forget()
        self._log.error("A batch was not written: {reason}", reason=failure)
        return BatchResult([refusal] * count, [], {}, 0, failed=True)

    def _unknown(
        self, batch: kv.WriteBatch, transaction: BatchTransaction, count: int, failure: Exception
    ) -> BatchResult:
        self._drop(batch)
        for change in transaction.changes:
            self._doubtful[change.state.id] = change.state
        for note in transaction.notes:
            self._doubtful_notes[note.table.prefix + note.key] = note
        self._log.error("The outcome of a batch is unknown: {reason}", reason=failure)
        return BatchResult(
            [UNKNOWN] * count, [], {}, 0, failed=True, doubt=self._engine.min_version
        )

    def _has_room(self) -> bool:
        engine = self._engine
        room = self._quota is None or engine.used_bytes() < self._quota
        room = room and engine.has_space(self._reserve)
        if room != self._had_room:
            self._had_room = room
            if room:
                self._log.info("The disk has space again: appends and creates are accepted")
            else:
                self._log.warn(FULL_DISK)
        return room

    # -- the sweep ----------------------------------------------------------------------------

    def _expire(
        self,
        transaction: BatchTransaction,
        due: list[tuple[int, int]],
        spared: set[int],
        now: int,
        until: float,
    ) -> int | None:
        """End expired streams and move the entries of others; return the number processed.

        Stop at ``until`` (monotonic seconds). ``now`` is in ms since the Unix epoch. Return None if
        the step has to start over because a stream failed; that stream is then in ``spared``.
        """
        for done, (found_at, stream_id) in enumerate(due):
            if done > len(spared) and self._clock() >= until:
                return done
            if stream_id in spared:
                transaction.postpone(stream_id, found_at, now + int(limits.SWEEP_RETRY * 1000))
                continue
            try:
                waits = bool(transaction.fan_outs or transaction.staged)
                state = transaction.stream(stream_id) if waits else None
                if state is not None and (
                    state.path in transaction.fan_outs or state.path in transaction.staged
                ):
                    # Leave the entry to a later sweep: ending the stream now would break the
                    # fan-out or the staging in progress.
                    continue
                deadline = expire(transaction, stream_id, now)
                if deadline is not None:
                    # If a crash lost the access time, the entry would be later than the deadline of
                    # the stored state, and the stream would expire too late.
                    touch(transaction, stream_id, self._access.last_access(stream_id, now))
                transaction.reindex(stream_id, found_at, deadline)
            except CorruptRecord as corrupt:
                self._log.error("{corrupt}", corrupt=corrupt)
            except (kv.EngineFull, kv.EngineFailed):
                raise
            except Exception:  # noqa: BLE001 - the other streams must expire too
                self._log.failure("Ending an expired stream failed")
            else:
                continue
            spared.add(stream_id)
            return None
        return len(due)

    def _free(
        self,
        batch: kv.WriteBatch,
        transaction: BatchTransaction,
        garbage: list[bytes],
        most: int,
        until: float,
    ) -> tuple[bytes, bytes, bool]:
        """Delete at most ``most`` records of ended streams and forgotten producers.

        Stop at ``until`` (monotonic seconds). Return the last deleted key, the last entry whose
        records are all deleted, and whether garbage may be left.
        """
        freed, ended = self._passed.freed, self._passed.garbage
        left = most
        try:
            for entry in garbage:
                for first, stop in codec.garbage_ranges(entry):
                    if first <= freed < stop:
                        first = freed + b"\x00"
                    for key in _ascending(batch, first, stop):
                        if not left or (left < most and self._clock() >= until):
                            return freed, ended, True
                        freed = key
                        transaction.delete_key(freed)
                        left -= 1
                if not left or (left < most and self._clock() >= until):
                    return freed, ended, True
                ended = entry
                transaction.delete_key(ended)
                left -= 1
        except CorruptRecord as corrupt:
            # Keep the entry, because some of its records are not deleted.
            self._log.error("{corrupt}", corrupt=corrupt)
            return freed, ended, False
        return freed, ended, len(garbage) == most


class _Passed(Struct, frozen=True):
    """Progress of a sweep: keys of the last deadline, garbage entry and deleted record.

    The next step continues there. A search from the first key would skip all keys removed since the
    last checkpoint, one by one.
    """

    deadline: bytes = b""
    garbage: bytes = b""
    freed: bytes = b""


_NOTHING_PASSED: Final = _Passed()


def _ascending(batch: kv.WriteBatch, first: bytes, stop: bytes) -> Iterator[bytes]:
    """Yield the keys of a range in order. Raises `CorruptRecord` if they are out of order.

    A scan of a damaged map can return a key repeatedly that cannot be deleted, so without this
    check a sweep would never end.
    """
    for raw, _ in batch.scan(first, stop):
        key = bytes(raw)
        if not first <= key < stop:
            raise CorruptRecord(key, "keys in LMDB are out of order")
        yield key
        first = key + b"\x00"


def _due(
    batch: kv.WriteBatch, passed: _Passed, now: int, most: int
) -> tuple[list[tuple[int, int]], list[bytes]]:
    """Return due deadlines (ms since the Unix epoch, and stream id), and keys of garbage entries.

    Return at most ``most`` of each, from ``passed`` on. Raises `CorruptRecord` if keys are out of
    order.
    """
    due: list[tuple[int, int]] = []
    first = max(codec.DEADLINES[0], passed.deadline + b"\x00")
    for key in _ascending(batch, first, codec.deadline_key(now + 1, 0)):
        due.append((codec.unpack_integer(key[1:9]), codec.unpack_integer(key[9:17])))
        if len(due) == min(limits.SWEEP_STEP, most):
            break
    first, stop = codec.GARBAGE
    keys = _ascending(batch, max(first, passed.garbage + b"\x00"), stop)
    return due, list(islice(keys, min(limits.DELETE_STEP, most)))
