"""Workloads of processes whose file system calls are recorded.

Run as ``python -m tests.crash.workloads NAME ROOT SEED``. Each uses files below ROOT and writes
marks into the trace:

===============================  ==========================================================
mark                             meaning
===============================  ==========================================================
``{"store": directory}``         the next marks concern this store, below ROOT
``{"do": operation}``            a command is submitted
``{"told": outcome}``            the outcome of a command is known
``{"seen": digest}``             all streams have been read
``{"found": digest}``            all streams have been read after an unknown outcome
``{"copied": kind}``             a ``backup``, ``restore`` or ``compact`` has returned; with
                                 ``compact`` comes the ``size`` of the store's file
``{"keys": [secret, number]}``   the keyring is open: its secret, and how many keys it has
===============================  ==========================================================
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.storage.admin.backup import back_up
from durable_streams_tw.storage.admin.compact import compact
from durable_streams_tw.storage.admin.restore import restore
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.storage.limits import CHECKPOINT_INTERVAL, SWEEP_INTERVAL
from durable_streams_tw.storage.shared.executor import ThreadExecutor
from durable_streams_tw.subscriptions.keyring import KEYS_FILE, Keyring
from tests.crash.acknowledged import Operation, State, command, digest, outcome_of
from tests.crash.faulty_files import mark
from tests.crash.inline_store import NOW, SEGMENT_SIZE, InlineStore

DATA = "data"
DEEP = "new/folders/data"
BACKUP = "backup"
RESTORED = "restored"

_REFUSED = {"storage-unavailable", "storage-full"}
_ATTEMPTS = 100


def mark_json(**what: Any) -> None:
    """Write a mark."""
    mark(json.dumps(what))


class Writer:
    """Generator of random commands that knows the state of the store."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.state = State()
        self._number = 0
        self.largest = 60

    def batch(self, size: int) -> list[Operation]:
        """Return commands for one batch; some are refused."""
        state, made = self.state, []
        for _ in range(size):
            operation = self._operation(state)
            state, _outcome = state.after(operation)
            made.append(operation)
        return made

    def _operation(self, state: State) -> Operation:
        self._number += 1
        there = sorted(state.streams)
        kind = self.chance.random()
        if len(there) < 3 or (kind < 0.08 and len(there) < 15):
            return ["create", f"s{self._number}", self._text(), self._times()]
        path = self.chance.choice(there)
        if kind < 0.12 and not state.streams[path][1]:
            return ["fork", f"f{self._number}", path]
        if kind < 0.17:
            return ["delete", path]
        if kind < 0.20:
            return ["append", f"absent{self._number}", self._text(), 1, None, False]
        producer = None
        if kind < 0.6 and not state.streams[path][1]:
            name = self.chance.choice("pqr")
            last = state.producers.get((path, name), -1)
            producer = [name, last if last >= 0 and kind < 0.25 else last + 1]
        return ["append", path, self._text(), self._times(), producer, kind > 0.97]

    def _text(self) -> str:
        return f"<{self._number}>"

    def _times(self) -> int:
        return self.chance.randrange(1, self.largest)

    def update(self, operations: Sequence[Operation], outcomes: Sequence[str]) -> list[State]:
        """Update the state from the outcomes of a batch.

        Return the possible states if an outcome is unknown, else an empty list.
        """
        possible: list[State] = []
        for operation, outcome in zip(operations, outcomes, strict=True):
            after, expected = self.state.after(operation)
            if outcome == "outcome-unknown":
                possible = possible or [self.state]
            elif outcome in _REFUSED:
                continue
            else:
                assert outcome == expected, (operation, outcome, expected)
            self.state = after
        return [*possible, self.state] if possible else []


class Session:
    """Store below ROOT and a writer, with a mark for each event."""

    def __init__(self, root: str, seed: str, name: str = DATA) -> None:
        self.root = root
        self.name = name
        self.directory = os.path.join(root, name)
        self.writer = Writer(seed)
        self.chance = self.writer.chance
        mark_json(store=name)

    def open(self, segment_size: int = SEGMENT_SIZE) -> None:
        """Open the store."""
        self.store = InlineStore(self.directory, segment_size)

    def submit(self, operations: list[Operation]) -> list[str]:
        """Carry out one batch, with marks; return the outcomes."""
        for operation in operations:
            mark_json(do=operation)
        outcomes = self.store.submit(operations)
        for outcome in outcomes:
            mark_json(told=outcome)
        return outcomes

    def batches(self, number: int, *, checkpoints: bool = True) -> None:
        """Carry out batches of random commands; advance the clock between some."""
        for _ in range(number):
            operations = self.writer.batch(self.chance.choice([1, 1, 2, 5]))
            outcomes = self.submit(operations)
            possible = self.writer.update(operations, outcomes)
            if possible:
                self._resolve(possible)
            if checkpoints and self.chance.random() < 0.15:
                self.store.advance(self.chance.choice([CHECKPOINT_INTERVAL, SWEEP_INTERVAL, 6.0]))

    def _resolve(self, possible: list[State]) -> None:
        """Read until the disk works again, and continue from the content found."""
        paths = sorted({path for state in possible for path in state.streams})
        for _ in range(_ATTEMPTS):
            found = self.store.contents_or_none(paths)
            if found is not None:
                held = digest(found)
                (self.writer.state,) = [
                    state for state in possible if digest(state.streams) == held
                ][:1]
                mark_json(found=held)
                return
            self.store.advance(SWEEP_INTERVAL)
        raise AssertionError("the disk never worked again")

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def see(self) -> None:
        """Read all streams that may exist."""
        mark_json(seen=digest(self.store.contents(sorted(self.writer.state.streams))))


# -- workloads -------------------------------------------------------------------------------


def first(root: str, seed: str) -> None:
    """Start in a directory whose parents are missing too, and start again."""
    session = Session(root, seed, DEEP)
    session.open()
    session.batches(4)
    session.close()
    session.open()
    session.batches(2)
    session.close()


def steady(root: str, seed: str) -> None:
    """Many small batches: segments switch often."""
    session = Session(root, seed)
    session.open()
    session.batches(90)
    session.close()
    session.open()
    session.batches(30)
    session.see()


def large(root: str, seed: str) -> None:
    """Batches that are committed to LMDB directly, between small ones."""
    _mixed_sizes(root, seed, [60, 2000, 30_000], 3)


def _mixed_sizes(root: str, seed: str, sizes: Sequence[int], batches: int) -> None:
    """Batches whose largest body changes after every few, chosen from ``sizes``."""
    session = Session(root, seed)
    session.open()
    for _ in range(8):
        session.writer.largest = session.chance.choice(sizes)
        session.batches(batches)
    session.close()


def full_wal(root: str, seed: str) -> None:
    """Both segments fill before a timed checkpoint."""
    session = Session(root, seed)
    session.open(16 * KIB)
    session.writer.largest = 400
    session.batches(70, checkpoints=False)


def threads(root: str, seed: str) -> None:
    """Concurrent commands on real threads, with checkpoints."""
    from twisted.internet import reactor

    running: Any = reactor
    writer = Writer(seed)
    mark_json(store=DATA)
    executor = ThreadExecutor(running)
    store = DurableStore(
        os.path.join(root, DATA), running, executor, segment_size=SEGMENT_SIZE, now=lambda: NOW
    )
    store.open()
    left = 25

    def burst(_: object = None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            store.close().addCallback(lambda _: running.stop())
            return
        operations = writer.batch(writer.chance.choice([1, 3, 10, 25]))
        done: list[Deferred[str]] = []
        for operation in operations:
            mark_json(do=operation)
            answered = store.submit(command(operation)).addCallback(outcome_of)
            done.append(answered.addCallback(told))
        gathered = DeferredList(done, fireOnOneErrback=True).addCallback(
            lambda results: writer.update(operations, [outcome for _, outcome in results])
        )
        gathered.addCallback(burst)
        gathered.addErrback(failed)

    def told(outcome: str) -> str:
        mark_json(told=outcome)
        return outcome

    def failed(failure: Any) -> None:
        failure.printTraceback()
        os._exit(1)

    running.callWhenRunning(burst)
    running.run()


def keys(root: str, _seed: str) -> None:
    """A keyring: created, read again, and rotated twice."""
    directory = os.path.join(root, DATA)
    Session(root, "").open()
    seconds = 1_800_000_000.0
    for rotate in (False, False, True, True):
        keyring = Keyring(directory, partial(float, seconds))
        keyring.open(rotate)
        mark_json(keys=[keyring.secret.hex(), keyring.jwks().count(b'"kid"')])
        seconds += 10 * 86400


def ignore_progress(_what: str, _done: int, _of: int) -> None:
    """Ignore the progress of a copy."""


def copies(root: str, seed: str) -> None:
    """A backup, a restore of it, and a compaction, with writes between them."""
    session = Session(root, seed)
    session.open()
    Keyring(session.directory, lambda: 1_800_000_000.0).open()
    session.writer.largest = 300
    session.batches(40)
    session.close()
    backup, restored = os.path.join(root, BACKUP), os.path.join(root, RESTORED)
    back_up(session.directory, backup, [KEYS_FILE], lambda: NOW, ignore_progress)
    mark_json(copied="backup")
    restore(backup, restored, NOW, ignore_progress)
    mark_json(copied="restore")
    compact(session.directory, ignore_progress)
    mark_json(copied="compact", size=os.stat(os.path.join(session.directory, DATA_FILE)).st_size)
    session.open()
    session.batches(10)
    session.close()


def small(root: str, seed: str) -> None:
    """A first start and some batches, for a disk on which calls fail."""
    session = Session(root, seed)
    session.open()
    session.batches(15)
    session.close()


def faults(root: str, seed: str) -> None:
    """Small and large batches, for a disk on which calls fail now and then."""
    _mixed_sizes(root, seed, [60, 60, 3000], 6)


def reopen(root: str, seed: str) -> None:
    """Open, read and write stores that crashes have left, one after the other."""
    for name in sorted(os.listdir(root)):
        session = Session(root, seed, name)
        with open(os.path.join(os.path.dirname(root), "paths")) as file:
            paths = json.load(file)
        session.open()
        mark_json(seen=digest(session.store.contents(paths)))
        _append_to_new_streams(session)
        session.close()


def _append_to_new_streams(session: Session) -> None:
    """Write to new streams."""
    for number in range(4):
        operations: list[Operation] = [["create", f"again{number}", "<again>", number * 40]]
        operations.append(["append", f"again{number}", "<more>", 20, None, False])
        session.submit(operations)
        if number == 2:
            session.store.advance(CHECKPOINT_INTERVAL)


WORKLOADS: dict[str, Callable[[str, str], None]] = {
    "first": first,
    "steady": steady,
    "large": large,
    "full-wal": full_wal,
    "threads": threads,
    "keys": keys,
    "copies": copies,
    "small": small,
    "faults": faults,
    "reopen": reopen,
}


if __name__ == "__main__":
    WORKLOADS[sys.argv[1]](sys.argv[2], sys.argv[3])
