"""Committer: carries out batches of commands, each in one durable commit.

It has no thread of its own: the store calls it on the committer thread, tests call it over an
engine that fails on purpose. Rules of a batch:

1. Commands are carried out in order, each on the state that the ones before it left.
2. A refused command changes nothing, and the others go on. The same holds for a command that raises
   because of a bug or a corrupt record: if it has written something by then, the batch starts over
   without it.
3. A batch that changed nothing is not committed.
4. Without space, commands that only delete are still carried out. As deleting takes pages too, the
   batch is split into smaller and smaller parts, down to one command or one record.
5. A batch is committed once BATCH_TIME is over; commands that are left stay queued. No command
   takes much longer by itself: an event of a stream with many subscriptions (`pending`) and a large
   body (`staging`) are worked off in several batches, and commands that would see the difference
   wait until that is done.
6. If a commit fails for any other reason its outcome is unknown, and so is that of every command in
   the batch: even a refusal may rest on data that was not written. The committer then clears its
   caches, and once the disk works again the next batch notifies the followers of all streams
   concerned.
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
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import LinkStreams, Subscribe
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Change, Command, Outcome, RecordChange
from durable_streams_tw.storage.commands import pending
from durable_streams_tw.storage.commands.appends import FULL
from durable_streams_tw.storage.commands.streams import apply, body_position, expire, touch
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.staging import Upload
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.durable.write_cache import WriteCache
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.format_version import first_id
from durable_streams_tw.storage.engine.kv import (
    EngineFailed,
    EngineFull,
    KeyValueEngine,
    WriteBatch,
)
from durable_streams_tw.storage.engine.tables import StagedBody
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import (
    BATCH_TIME,
    DELETE_STEP,
    MAX_BATCH,
    MAX_PRODUCERS,
    SWEEP_RETRY,
    SWEEP_STEP,
)

UNKNOWN = Refusal(
    Problem.OUTCOME_UNKNOWN,
    "the disk failed while this was written: it may have happened or not. A producer's retry "
    "finds out",
)
UNAVAILABLE = Refusal(Problem.STORAGE_UNAVAILABLE, "the disk failed; nothing was written")
CORRUPT = Refusal(Problem.CORRUPT_RECORD, "stored bytes of this stream failed their checksum")
BUG = Refusal(Problem.INTERNAL, "the server failed; nothing was written")

_LARGEST: Final = max(DELETE_STEP, SWEEP_STEP)
_WITH_BODY: Final = (Append, Create)
_SLOWEST: Final = 32
_SPARED: Final = 16


class BatchResult(Struct, frozen=True):
    """What came of a batch.

    ``waiting`` are the indexes of commands that have to be given again, before all later ones,
    because a fan-out has to finish first. ``outcomes`` belong to the other commands in order, as
    far as there was time for them. ``changes``, ``notes`` and ``published`` are what listeners and
    readers are to see of the commit numbered ``version``. ``more`` asks for a sweep at once.
    ``failed`` says that nothing was written, or that the outcome is unknown: then ``doubt`` is the
    version before which nothing that was seen may be trusted. ``seconds`` is how long the disk
    took.
    """

    outcomes: list[Outcome]
    changes: list[Change]
    published: dict[str, StreamState | None]
    version: int
    more: bool = False
    failed: bool = False
    doubt: int | None = None
    notes: Sequence[RecordChange] = ()
    seconds: float = 0.0
    waiting: Sequence[int] = ()

    @property
    def taken(self) -> int:
        """Number of commands that were carried out or have to wait."""
        return len(self.outcomes) + len(self.waiting)


class _Decided(Struct):
    """Outcomes of commands, and the indexes of those that have to wait."""

    outcomes: list[Outcome]
    waiting: list[int]


class Committer:
    """Carries out batches, one at a time, on whatever thread calls it.

    ``now`` tells milliseconds since 1970; ``reserve`` and ``quota`` are bytes that stay free
    on the disk and that stored pairs may take (None for no quota). ``clock`` counts monotonic
    seconds, by which the time of a batch is bounded. ``max_producers`` is how many producers a
    stream remembers at least.
    """

    _log = Logger()

    def __init__(
        self,
        engine: KeyValueEngine,
        access: AccessTimes,
        now: Callable[[], int],
        reserve: int = 0,
        quota: int | None = None,
        clock: Callable[[], float] = monotonic,
        max_producers: int = MAX_PRODUCERS,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._access = access
        self._now = now
        self._reserve = reserve
        self._quota = quota
        self._had_room = True
        # How much a sweep takes at a time.
        self._portion = _LARGEST
        # How much of that there was time for.
        self._pace = _LARGEST
        # How far it has come.
        self._passed = _NOTHING_PASSED
        # No id that an earlier process or a copy of the store has given.
        self._written = WriteCache(first_id(now()), max_producers)
        # Commands whose body is being written, by stream.
        self._uploads: dict[str, Upload] = {}
        # Streams that a commit of unknown outcome was to change, as it was to leave them.
        self._doubtful: dict[int, StreamState] = {}
        # Watched records that it was to change, by whole key.
        self._doubtful_notes: dict[bytes, RecordChange] = {}

    def step(self, commands: Sequence[Command]) -> BatchResult:
        """Carry out commands in one commit, one at least and as many as BATCH_TIME allows.

        Raises nothing that a disk or a client can cause.
        """
        return self._step(commands, None, self._clock() + BATCH_TIME)

    def _step(self, commands: Sequence[Command], full: bool | None, until: float) -> BatchResult:
        """Carry out commands up to a time of the clock.

        ``full`` says that nothing may grow; None, that this is to be found out.
        """
        spared: dict[int, Refusal] = {}
        # Whether fan-outs can go on. Without room even for that, what would wait for them is
        # refused instead: it might wait for ever.
        resuming = not full
        while True:
            try:
                if full is None:
                    full = not self._has_room()
                batch = self._engine.begin()
            except EngineFailed as failure:
                return self._failed(len(commands), UNAVAILABLE, failure)
            transaction = BatchTransaction(batch, self._written, self._access, not full)
            try:
                self._settle(batch, transaction)
                if resuming:
                    self._resume(transaction, until - BATCH_TIME / 2)
                    self._discard(batch, transaction, DELETE_STEP, until - BATCH_TIME / 2)
                decided = self._decide(transaction, commands, full, resuming, spared, until)
                if decided is not None:
                    more = self._unfinished(transaction)
                    return self._commit(batch, transaction, decided, more)
            except EngineFull as failure:
                if full:
                    self._drop(batch)
                    if len(commands) > 1:
                        return self._in_halves(commands, full, until)
                    return self._failed(1, FULL, failure)
                full, resuming = True, False
            except EngineFailed as failure:
                return self._unknown(batch, transaction, len(commands), failure)
            except BaseException:
                self._drop(batch)
                raise
            self._drop(batch)
            if len(spared) > _SPARED:
                # Each costs the whole batch another beginning.
                return self._in_halves(commands, full, until)

    def sweep(self) -> BatchResult | None:
        """Go on with fan-outs, end expired streams and free records of ended ones: one step.

        Return None if there is nothing to do. ``more`` says that another step is due at once.
        """
        now = self._now()
        until = self._clock() + BATCH_TIME
        spared: set[int] = set()
        while True:
            try:
                # First of all, for it makes a broken engine whole again.
                batch = self._engine.begin()
            except EngineFailed as failure:
                return self._failed(0, UNAVAILABLE, failure)
            portion = min(self._portion, self._pace)
            transaction = BatchTransaction(batch, self._written, self._access)
            try:
                # Of an entry that is found, whichever clock its deadline is of has passed it.
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
                    # Otherwise there was no room: first free some.
                    self._resume(transaction, until)
                self._discard(batch, transaction, min(DELETE_STEP, portion), until)
                ended = self._expire(transaction, due, spared, now, until)
                if ended is not None:
                    most = min(DELETE_STEP, portion)
                    freed, gone, left = self._free(batch, transaction, garbage, most, until)
                    more = left or ended < len(due) or ended == min(SWEEP_STEP, portion)
                    more = more or self._unfinished(transaction)
                    last = codec.deadline_key(*due[ended - 1]) if ended else b""
                    # What there is no time for is not looked up either.
                    late = self._clock() >= until
                    self._pace = max(portion // 2, _SLOWEST) if late else min(2 * portion, _LARGEST)
                    committed = self._commit(batch, transaction, _Decided([], []), more)
                    passed = _Passed(last or self._passed.deadline, gone, freed)
                    # What came in between, and belongs before that, is the next sweep's.
                    self._passed = passed if more else _NOTHING_PASSED
                    self._portion = min(2 * self._portion, _LARGEST)
                    return committed
            except EngineFull as failure:
                if self._portion == 1:
                    self._drop(batch)
                    return self._failed(0, FULL, failure)
                self._portion = max(self._portion // 8, 1)
            except EngineFailed as failure:
                return self._unknown(batch, transaction, 0, failure)
            except BaseException:
                self._drop(batch)
                raise
            self._drop(batch)

    def write_accesses(self, accesses: Iterable[tuple[int, int]]) -> BatchResult:
        """Write down when streams were last read: pairs of id and ms since 1970."""
        try:
            batch = self._engine.begin()
        except EngineFailed as failure:
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
        except EngineFull as failure:
            self._drop(batch)
            return self._failed(0, FULL, failure)
        except EngineFailed as failure:
            return self._unknown(batch, transaction, 0, failure)
        except BaseException:
            self._drop(batch)
            raise

    def obstacle(self) -> str | None:
        """Why streams cannot grow, None where they can. On the thread that calls the rest."""
        try:
            if not self._has_room():
                return "there is no room: streams cannot grow until some is made"
            self._engine.begin().abort()
        except EngineFailed as failure:
            return f"the disk failed: {failure}"
        return None

    # -- one batch ----------------------------------------------------------------------------

    def _in_halves(self, commands: Sequence[Command], full: bool, until: float) -> BatchResult:
        """Carry out a batch in two, or the first of them where there is no time for more."""
        half = len(commands) // 2
        first = self._step(commands[:half], full, until)
        if len(first.outcomes) < half or self._clock() >= until:
            # Later commands must not overtake those that wait.
            return first
        second = self._step(commands[half:], full, until)
        return BatchResult(
            first.outcomes + second.outcomes,
            first.changes + second.changes,
            {**first.published, **second.published},
            max(first.version, second.version),
            failed=first.failed or second.failed,
            doubt=first.doubt if second.doubt is None else second.doubt,
            notes=[*first.notes, *second.notes],
            seconds=first.seconds + second.seconds,
            waiting=[half + index for index in second.waiting],
            more=first.more or second.more,
        )

    def _decide(
        self,
        transaction: BatchTransaction,
        commands: Sequence[Command],
        full: bool,
        resuming: bool,
        spared: dict[int, Refusal],
        until: float,
    ) -> _Decided | None:
        """Carry out commands up to a time of the clock.

        Return None if one has failed and left a trace: it is among the ``spared`` now, and the
        batch is to begin again.
        """
        now = self._now()
        outcomes: list[Outcome] = []
        waiting: list[int] = []
        # Whether a command of a subscription waits, and the streams whose commands wait.
        held, blocked = False, set[str]()
        fan_outs, staged = transaction.fan_outs, transaction.staged
        # Those before a spared one were decided before, so what a failure costs is bounded too.
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
                if isinstance(command, Append | Create | Delete):
                    blocked.add(command.path)
                else:
                    held = True
                continue
            if index in spared:
                outcome = spared[index]
            elif full and _grows(command):
                outcome = FULL
            else:
                writes = transaction.writes
                try:
                    if (
                        isinstance(command, _WITH_BODY)
                        and command.body is not None
                        and len(command.body.data) > MAX_BATCH
                    ):
                        outcome = self._carry_out_step(transaction, command, command.body, now)
                    else:
                        outcome = apply(transaction, command, now)
                except CorruptRecord as corrupt:
                    self._log.error("{corrupt}", corrupt=corrupt)
                    outcome = CORRUPT
                    if transaction.writes != writes:
                        spared[index] = CORRUPT
                        return None
                except (EngineFull, EngineFailed):
                    raise
                except Exception:  # noqa: BLE001 - whatever it is, it is one command's
                    self._log.failure("a command failed")
                    spared[index] = BUG
                    return None
            if outcome is None and not resuming:
                outcome = FULL
            if outcome is None:
                assert isinstance(command, Append | Create), "only these are done in steps"
                waiting.append(index)
                least += 1
                blocked.add(command.path)
            else:
                outcomes.append(outcome)
        return _Decided(outcomes, waiting)

    def _must_wait(
        self, transaction: BatchTransaction, command: Command, held: bool, blocked: set[str]
    ) -> bool:
        """Whether a command has to wait for a fan-out, a large body or an earlier command."""
        if isinstance(command, Append | Create | Delete):
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
        """Carry out the next step of a command with a large body; return None until the last."""
        path = command.path
        upload = self._uploads.get(path)
        if upload is None:
            target = body_position(transaction, command, now)
            if target is None:
                return apply(transaction, command, now)
            if transaction.staging:
                # One step a batch, or its time would not be bounded.
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
            # The sweep deletes what was written.
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
        """Whether there is a fan-out to go on with, or a staged body to delete."""
        return bool(transaction.fan_outs) or not transaction.staged.keys() <= self._uploads.keys()

    def _discard(
        self, batch: WriteBatch, transaction: BatchTransaction, most: int, until: float
    ) -> None:
        """Delete records of staged bodies whose command is gone, up to a time of the clock."""
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
        """Go on with fan-outs, by one step at least and up to a time of the clock."""
        if not transaction.fan_outs:
            return
        now = self._now()
        while True:
            try:
                pending.resume(transaction, now)
            except (EngineFull, EngineFailed):
                raise
            except Exception:  # noqa: BLE001 - or no command would be carried out ever again
                self._log.failure("a fan-out failed")
                pending.abandon(transaction)
            if not transaction.fan_outs or self._clock() >= until:
                return

    def _commit(
        self,
        batch: WriteBatch,
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

    def _settle(self, batch: WriteBatch, transaction: BatchTransaction) -> None:
        """After a commit of unknown outcome: say anew what its streams are."""
        for stream_id, state in self._doubtful.items():
            try:
                record = reader.load_stream(batch, stream_id)
            except CorruptRecord:
                # Whoever reads the stream is told.
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

    def _drop(self, batch: WriteBatch) -> None:
        batch.abort()
        self._forget()
        self._passed = _NOTHING_PASSED

    def _forget(self) -> None:
        """Forget what is remembered of the disk, which may differ."""
        self._written.clear()
        self._uploads.clear()

    def _failed(self, count: int, refusal: Refusal, failure: Exception) -> BatchResult:
        self._forget()
        self._log.error("a batch was not written: {reason}", reason=failure)
        return BatchResult([refusal] * count, [], {}, 0, failed=True)

    def _unknown(
        self, batch: WriteBatch, transaction: BatchTransaction, count: int, failure: Exception
    ) -> BatchResult:
        self._drop(batch)
        for change in transaction.changes:
            self._doubtful[change.state.id] = change.state
        for note in transaction.notes:
            self._doubtful_notes[note.table.prefix + note.key] = note
        self._log.error("the outcome of a batch is unknown: {reason}", reason=failure)
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
                self._log.info("there is room again: streams can grow")
            else:
                self._log.warn("there is no room: streams cannot grow until some is made")
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
        """End expired streams and move the entries of others; return how many were processed.

        Return None after a failure: the stream is in ``spared`` now, and the sweep begins
        again.
        """
        for done, (found_at, stream_id) in enumerate(due):
            if done > len(spared) and self._clock() >= until:
                return done
            if stream_id in spared:
                transaction.postpone(stream_id, found_at, now + int(SWEEP_RETRY * 1000))
                continue
            try:
                waits = bool(transaction.fan_outs or transaction.staged)
                state = transaction.stream(stream_id) if waits else None
                if state is not None and (
                    state.path in transaction.fan_outs or state.path in transaction.staged
                ):
                    # Its entry stays for a later sweep.
                    continue
                deadline = expire(transaction, stream_id, now)
                if deadline is not None:
                    # An entry must not lie behind what is known of the stream after a crash.
                    touch(transaction, stream_id, self._access.last_access(stream_id, now))
                transaction.reindex(stream_id, found_at, deadline)
            except CorruptRecord as corrupt:
                self._log.error("{corrupt}", corrupt=corrupt)
            except (EngineFull, EngineFailed):
                raise
            except Exception:  # noqa: BLE001 - the others' time has come too
                self._log.failure("ending an expired stream failed")
            else:
                continue
            spared.add(stream_id)
            return None
        return len(due)

    def _free(
        self,
        batch: WriteBatch,
        transaction: BatchTransaction,
        garbage: list[bytes],
        most: int,
        until: float,
    ) -> tuple[bytes, bytes, bool]:
        """Free so many records of ended streams and forgotten producers, up to a time of the clock.

        Return the last key that was freed, the last entry with nothing left, and whether
        some may be left.
        """
        freed, ended = self._passed.freed, self._passed.garbage
        left = most
        try:
            for entry in garbage:
                for first, behind in codec.garbage_ranges(entry):
                    if first <= freed < behind:
                        first = freed + b"\x00"
                    for key in _ascending(batch, first, behind):
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
            # The entry stays: its records are not all freed.
            self._log.error("{corrupt}", corrupt=corrupt)
            return freed, ended, False
        return freed, ended, len(garbage) == most


class _Passed(Struct, frozen=True):
    """Progress of a sweep: the last deadline, ended stream and freed record.

    Each step continues there. A search from the first key would pass over all keys removed since
    the last checkpoint.
    """

    deadline: bytes = b""
    garbage: bytes = b""
    freed: bytes = b""


_NOTHING_PASSED: Final = _Passed()


def _ascending(batch: WriteBatch, first: bytes, stop: bytes) -> Iterator[bytes]:
    """Yield the keys of a range. Raises `CorruptRecord` where they are out of order.

    In a damaged map a key may turn up again and again, and cannot be deleted where it is: a sweep
    that went on from there would never end.
    """
    for raw, _ in batch.scan(first, stop):
        key = bytes(raw)
        if not first <= key < stop:
            raise CorruptRecord(key, "the keys of the map are out of order")
        yield key
        first = key + b"\x00"


def _due(
    batch: WriteBatch, passed: _Passed, now: int, most: int
) -> tuple[list[tuple[int, int]], list[bytes]]:
    """Return due deadlines (deadline and stream id), and entries of what is to be freed.

    Raises `CorruptRecord` where their keys are out of order.
    """
    due: list[tuple[int, int]] = []
    first = max(codec.DEADLINES[0], passed.deadline + b"\x00")
    for key in _ascending(batch, first, codec.deadline_key(now + 1, 0)):
        due.append((codec.unpack_integer(key[1:9]), codec.unpack_integer(key[9:17])))
        if len(due) == min(SWEEP_STEP, most):
            break
    first, stop = codec.GARBAGE
    keys = _ascending(batch, max(first, passed.garbage + b"\x00"), stop)
    return due, list(islice(keys, min(DELETE_STEP, most)))


def _grows(command: Command) -> bool:
    """Return True if a full disk refuses a command without deciding it.

    Commands on streams are decided: a duplicate, or a stream that exists, needs no space.
    """
    return isinstance(command, Subscribe | LinkStreams)
