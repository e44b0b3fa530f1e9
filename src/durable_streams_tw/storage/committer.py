"""The committer: a batch of commands in, one durable commit, their outcomes out.

A plain function over a keyspace, without a thread of its own, so that a keyspace which
fails, delays or lies can be put under it. The rules of a batch:

1. commands are decided in order, each on what the ones before it left;
2. a refused command leaves no trace, and the others go on; so does one that meets a bug of
   ours: the batch is begun again without it;
3. a batch in which nothing changed is not committed;
4. where there is no room, commands that only shrink or end things are still carried out;
5. a commit that fails otherwise has an unknown outcome, and every command of the batch says
   so: even a refusal might rest on what was not written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import DELETE_STEP, SWEEP_STEP
from durable_streams_tw.protocol.requests import Append, Create
from durable_streams_tw.protocol.state import StreamState
from durable_streams_tw.storage import records
from durable_streams_tw.storage.access import AccessTimes
from durable_streams_tw.storage.apply import apply, expire, touch
from durable_streams_tw.storage.interfaces import Change, Command, Outcome
from durable_streams_tw.storage.keyspace import (
    Keyspace,
    KeyspaceFailed,
    KeyspaceFull,
    WriteBatch,
)
from durable_streams_tw.storage.records import CorruptRecord
from durable_streams_tw.storage.transaction import BatchTransaction
from durable_streams_tw.storage.written import Written

FULL = Refusal(Problem.STORAGE_FULL, "there is no room for more bytes")
UNKNOWN = Refusal(
    Problem.OUTCOME_UNKNOWN,
    "the disk failed while this was written: it may have happened or not. A producer's retry "
    "finds out",
)
UNAVAILABLE = Refusal(Problem.STORAGE_UNAVAILABLE, "the disk failed; nothing was written")
CORRUPT = Refusal(Problem.CORRUPT_RECORD, "stored bytes of this stream failed their checksum")
BUG = Refusal(Problem.INTERNAL, "the server failed; nothing was written")


class Committed(Struct, frozen=True):
    """What came of a batch.

    ``outcomes`` belong to the commands in order; ``changes`` and ``published`` are what
    listeners and readers are to see of the commit numbered ``version``.
    """

    outcomes: list[Outcome]
    changes: list[Change]
    published: dict[str, StreamState | None]
    version: int
    more: bool = False


class Committer:
    """Carries out batches, one at a time, on whatever thread calls it.

    ``now`` tells milliseconds since 1970; ``reserve`` and ``quota`` are bytes that stay free
    on the disk and that stored pairs may take (None for no quota).
    """

    _log = Logger()

    def __init__(
        self,
        keyspace: Keyspace,
        access: AccessTimes,
        now: Callable[[], int],
        reserve: int = 0,
        quota: int | None = None,
    ) -> None:
        self._keyspace = keyspace
        self._access = access
        self._now = now
        self._reserve = reserve
        self._quota = quota
        self._written = Written()

    def step(self, commands: Sequence[Command]) -> Committed:
        """Carry out commands in one commit. Raises nothing that a disk or a client can cause."""
        spared: dict[int, Refusal] = {}
        full = not self._has_room()
        while True:
            try:
                batch = self._keyspace.begin()
            except KeyspaceFailed as failure:
                return self._failed(len(commands), UNAVAILABLE, failure)
            transaction = BatchTransaction(batch, self._written, self._access)
            broken = len(spared)
            try:
                outcomes = self._decide(transaction, commands, full, spared)
                if len(spared) > broken:
                    self._drop(batch)
                    continue
                return self._commit(batch, transaction, outcomes)
            except KeyspaceFull as failure:
                self._drop(batch)
                if full:
                    return self._failed(len(commands), FULL, failure)
                full = True
            except KeyspaceFailed as failure:
                self._drop(batch)
                return self._failed(len(commands), UNKNOWN, failure)

    def sweep(self) -> Committed | None:
        """End expired streams and free a step's worth of ended streams' bytes.

        None where there is nothing to do. ``more`` says that another step is due at once.
        """
        now = self._now()
        try:
            due, garbage = self._due(now)
            if not due and not garbage:
                return None
            batch = self._keyspace.begin()
        except KeyspaceFailed as failure:
            return self._failed(0, UNAVAILABLE, failure)
        transaction = BatchTransaction(batch, self._written, self._access)
        try:
            for deadline, stream_id in due:
                transaction.reindex(stream_id, deadline, self._expire(transaction, stream_id, now))
            freeing = bool(garbage) and self._free(batch, transaction, garbage[0])
            committed = self._commit(batch, transaction, [])
        except (KeyspaceFull, KeyspaceFailed) as failure:
            self._drop(batch)
            return self._failed(0, UNAVAILABLE, failure)
        except BaseException:
            self._drop(batch)
            raise
        more = freeing or len(garbage) > 1 or len(due) == SWEEP_STEP
        return Committed([], committed.changes, committed.published, committed.version, more)

    def write_accesses(self, accesses: dict[int, int]) -> Committed:
        """Write down when streams were last read (ms since 1970, by id)."""
        try:
            batch = self._keyspace.begin()
        except KeyspaceFailed as failure:
            return self._failed(0, UNAVAILABLE, failure)
        transaction = BatchTransaction(batch, self._written, self._access)
        try:
            for stream_id, accessed_at in accesses.items():
                try:
                    touch(transaction, stream_id, accessed_at)
                except CorruptRecord as corrupt:
                    self._log.error("{corrupt}", corrupt=corrupt)
            return self._commit(batch, transaction, [])
        except (KeyspaceFull, KeyspaceFailed) as failure:
            self._drop(batch)
            return self._failed(0, UNAVAILABLE, failure)

    # -- one batch ----------------------------------------------------------------------------

    def _decide(
        self,
        transaction: BatchTransaction,
        commands: Sequence[Command],
        full: bool,
        spared: dict[int, Refusal],
    ) -> list[Outcome]:
        """Each command's outcome; one that meets a bug is put among the ``spared``."""
        now = self._now()
        outcomes: list[Outcome] = []
        for index, command in enumerate(commands):
            outcome: Outcome
            if index in spared:
                outcome = spared[index]
            elif full and _grows(command):
                outcome = FULL
            else:
                try:
                    outcome = apply(transaction, command, now)
                except CorruptRecord as corrupt:
                    self._log.error("{corrupt}", corrupt=corrupt)
                    outcome = CORRUPT
                except (KeyspaceFull, KeyspaceFailed):
                    raise
                except Exception:  # noqa: BLE001 - whatever it is, it is one command's
                    self._log.failure("a command failed")
                    spared[index] = BUG
                    return outcomes
            outcomes.append(outcome)
        return outcomes

    def _commit(
        self, batch: WriteBatch, transaction: BatchTransaction, outcomes: list[Outcome]
    ) -> Committed:
        if transaction.flush():
            version = batch.commit()
        else:
            batch.abort()
            version = 0
        self._written.trim()
        return Committed(outcomes, transaction.changes, transaction.published, version)

    def _drop(self, batch: WriteBatch) -> None:
        batch.abort()
        self._written.clear()

    def _failed(self, count: int, refusal: Refusal, failure: Exception) -> Committed:
        self._written.clear()
        self._log.error("a batch was not written: {failure}", failure=failure)
        return Committed([refusal] * count, [], {}, 0)

    def _has_room(self) -> bool:
        keyspace = self._keyspace
        if self._quota is not None and keyspace.used() >= self._quota:
            return False
        return keyspace.has_room(self._reserve)

    # -- the sweep ----------------------------------------------------------------------------

    def _due(self, now: int) -> tuple[list[tuple[int, int]], list[int]]:
        due: list[tuple[int, int]] = []
        with self._keyspace.snapshot() as view:
            first, _ = records.DEADLINES
            for key, _ in view.scan(first, records.deadline_key(now + 1, 0)):
                due.append((records.unpack_integer(key[1:9]), records.unpack_integer(key[9:17])))
                if len(due) == SWEEP_STEP:
                    break
            garbage: list[int] = []
            for key, _ in view.scan(*records.GARBAGE):
                garbage.append(records.unpack_integer(key[1:9]))
                if len(garbage) == 2:
                    break
        return due, garbage

    def _expire(self, transaction: BatchTransaction, stream_id: int, now: int) -> int | None:
        try:
            return expire(transaction, stream_id, now)
        except CorruptRecord as corrupt:
            self._log.error("{corrupt}", corrupt=corrupt)
            return None

    def _free(self, batch: WriteBatch, transaction: BatchTransaction, stream_id: int) -> bool:
        """Free up to a step's worth of records; whether some may be left."""
        freed = 0
        for first, behind in records.owned_ranges(stream_id):
            for key, _ in batch.scan(first, behind):
                transaction.delete_key(bytes(key))
                freed += 1
                if freed == DELETE_STEP:
                    return True
        transaction.delete_key(records.garbage_key(stream_id))
        return False


def _grows(command: Command) -> bool:
    return isinstance(command, Create) or (isinstance(command, Append) and command.body is not None)
