"""Power cuts: record file system calls, cut them anywhere, and open what the disk may contain.

    python -m tests.crash.powercut --images 10000
    python -m tests.crash.powercut --images 500 --seed 7 --workload steady

A workload runs in a process under `faulty_files`. For each image, a moment of its trace is chosen,
and `lossy_disk` decides which unflushed changes are kept. The store opens the image in this
process. Then

- its streams are those of one moment between the last acknowledgement and the last command: nothing
  acknowledged is missing, duplicated or changed, and nothing refused is present;
- retries of producers are duplicates, and new writes work;
- the checker has no findings;
- a backup under its final name is complete, an interrupted restore can be repeated, a compacted
  store is complete, and keys are unchanged.

The same seed yields the same images, except for the workload ``threads``.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.logger import globalLogBeginner

from durable_streams_tw.storage.admin.backup import read_manifest
from durable_streams_tw.storage.admin.restore import restore
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.subscriptions.keyring import KEYS_FILE, Keyring
from tests.crash.acknowledged import Ledger, Operation, State, digest, marked
from tests.crash.faulty_files import KILL, Call, FaultyFiles, Traced, read_trace
from tests.crash.inline_store import NOW, InlineStore
from tests.crash.lossy_disk import CUTS, HALF_KEPT, NOTHING_KEPT, Cut, Image, LossyDisk
from tests.crash.workloads import BACKUP, DATA, RESTORED, ignore_progress
from tests.storage.durable.store_case import scratch_directory
from tests.storage.fsck_assertions import check_directory

_AT_DISK = frozenset(Call) - {Call.MARK, Call.CLOSE, Call.MSYNC, Call.RANGE}
_PATIENCE = 120.0

# Bases of second cuts that one process opens, one after the other.
_RECOVERIES = 12

_SHOWN = 5

# Images of one recording.
_AT_ONCE = 200


class Lost(AssertionError):
    """Violation of a guarantee by an image."""


@dataclass
class Recording:
    """Recorded calls of processes on ``disk``.

    ``ledgers`` has the known states of stores that existed before. With ``one_by_one``, only the
    store in use is checked.
    """

    name: str
    disk: LossyDisk
    calls: list[Traced]
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    one_by_one: bool = False

    def paths(self) -> list[str]:
        """Return the paths of all streams in the commands."""
        marks = [marked(call.data) for call in self.calls if call.call is Call.MARK]
        return sorted({mark["do"][1] for mark in marks if "do" in mark})


@dataclass
class Known:
    """State derived from the marks of a trace so far."""

    ledgers: dict[str, Ledger]
    store: str = DATA
    copied: set[str] = field(default_factory=set)
    backed_up: State | None = None
    compacted: int | None = None
    keys: tuple[str, int] | None = None

    def take(self, mark: dict[str, Any]) -> None:
        """Process a mark."""
        if "store" in mark:
            self.store = mark["store"]
            self.ledgers.setdefault(self.store, Ledger())
        elif "copied" in mark:
            self.copied.add(mark["copied"])
            self.compacted = mark.get("size")
        elif "keys" in mark:
            self.keys = (mark["keys"][0], mark["keys"][1])
        else:
            self.compacted = None
            self.ledgers[self.store].take(mark)


# -- recording -------------------------------------------------------------------------------


class Recorder:
    """Runner of workloads in a scratch directory, with their traces."""

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.root = os.path.join(scratch, "root")
        self.layer = FaultyFiles(scratch, self.root)

    def run(self, workload: str, seed: str, expected: int = 0) -> None:
        """Run a workload to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.workloads", workload, self.root, seed],
            env={**os.environ, **self.layer.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
        )
        if done.returncode != expected:
            raise Lost(f"{workload} ended with {done.returncode}:\n{done.stdout.decode()}")

    def paths(self, paths: Sequence[str]) -> None:
        """Write the paths of possible streams for the workload ``reopen``."""
        with open(os.path.join(self.scratch, "paths"), "w") as file:
            json.dump(paths, file)


@contextmanager
def _recorder() -> Iterator[Recorder]:
    scratch = scratch_directory()
    recorder = Recorder(scratch)
    try:
        yield recorder
    finally:
        recorder.layer.close()
        shutil.rmtree(scratch)


def record(workload: str, seed: str) -> Recording:
    """Record a workload on a disk without faults."""
    with _recorder() as recorder:
        disk = LossyDisk(recorder.root)
        recorder.run(workload, seed)
        return Recording(workload, disk, list(read_trace(recorder.layer.trace)))


def record_without_wal(seed: str) -> Recording:
    """Record a first start on a disk without space for a WAL."""
    with _recorder() as recorder:
        disk = LossyDisk(recorder.root)
        recorder.layer.fail({Call.ALLOCATE}, errno.ENOSPC, name="journal.*")
        recorder.run("small", seed)
        assert recorder.layer.hits(), "the WAL was not created"
        return Recording("without-wal", disk, list(read_trace(recorder.layer.trace)))


def record_faults(seed: str) -> Recording:
    """Record a workload with random faults."""
    chance = random.Random(seed)
    with _recorder() as recorder:
        disk = LossyDisk(recorder.root)
        for _ in range(4):
            calls = chance.choice([{Call.WRITE}, {Call.FDATASYNC}, {Call.WRITE, Call.FDATASYNC}])
            error = chance.choice([errno.EIO, errno.ENOSPC])
            name = chance.choice(["journal.*", "data.mdb", "*"])
            count = chance.choice([1, 2, 5])
            recorder.layer.fail(calls, error, name=name, skip=chance.randrange(8, 50), count=count)
        recorder.run("faults", seed)
        return Recording("faults", disk, list(read_trace(recorder.layer.trace)))


def record_killed(
    seed: str, calls: set[Call], name: str, skip: Sequence[int], full: bool = False
) -> Recording:
    """Record a process that is killed in a call of some kinds, after ``skip`` of them.

    Another process continues from the page cache; with ``full``, LMDB cannot be written then.
    """
    chance = random.Random(seed)
    with _recorder() as recorder:
        disk = LossyDisk(recorder.root)
        recorder.layer.fail(calls, KILL, name=name, skip=chance.choice(skip))
        recorder.run("small", seed, expected=-signal.SIGKILL)
        recorder.layer.mend()
        if full:
            recorder.layer.fail({Call.WRITE}, errno.ENOSPC, name="data.mdb")
        killed = Recording("killed", disk, list(read_trace(recorder.layer.trace)))
        recorder.paths(killed.paths())
        recorder.run("reopen", seed)
        return Recording("killed", disk, list(read_trace(recorder.layer.trace)))


def record_recoveries(seed: str) -> Recording:
    """Record recoveries of stores that a power cut has left, to cut them again."""
    chance = random.Random(seed)
    base = record(chance.choice(["first", "steady", "large", "full-wal"]), seed)
    with _recorder() as recorder:
        ledgers: dict[str, Ledger] = {}
        for number, (image, known) in enumerate(images(base, seed, range(_RECOVERIES))):
            name = f"{number:03}"
            inside = os.path.join(recorder.scratch, "image")
            image.write(inside)
            target = os.path.join(recorder.root, name)
            store = os.path.join(inside, known.store)
            if os.path.isdir(store):
                shutil.move(store, target)
            else:
                os.mkdir(target)
            shutil.rmtree(inside)
            found = known.ledgers.get(known.store)
            ledgers[name] = Ledger()
            if found is not None:
                ledgers[name] = Ledger(found.possible(), found.acknowledged)
        disk = LossyDisk(recorder.root)
        recorder.paths(base.paths())
        recorder.run("reopen", seed)
        calls = list(read_trace(recorder.layer.trace))
        return Recording("recoveries", disk, calls, ledgers, one_by_one=True)


WORKLOADS: dict[str, Callable[[str], Recording]] = {
    **{
        name: partial(record, name)
        for name in ("first", "steady", "large", "full-wal", "threads", "keys", "copies")
    },
    "without-wal": record_without_wal,
    "faults": record_faults,
    "killed-early": partial(
        record_killed, calls={Call.FSYNC, Call.OPEN, Call.ALLOCATE}, name="*", skip=range(18)
    ),
    "killed-in-append": partial(
        record_killed, calls={Call.FDATASYNC}, name="journal.*", skip=range(12), full=True
    ),
    # The first writes are those of the format record and the first checkpoint record.
    "killed-in-checkpoint": partial(record_killed, calls={Call.WRITE}, name="data.mdb", skip=[5]),
    "recoveries": record_recoveries,
}


# -- cutting ---------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class _Moment:
    """Moment after ``position`` calls; the last call has ended or not."""

    position: int
    ended: bool
    number: int
    cut: Cut


def _moments(recording: Recording, seed: str, numbers: Sequence[int]) -> list[_Moment]:
    calls = recording.calls
    chance = random.Random(seed)
    kinds: dict[Call, list[int]] = {}
    for position, call in enumerate(calls, 1):
        kinds.setdefault(call.call, []).append(position)
    for positions in kinds.values():
        chance.shuffle(positions)
    marks = kinds[Call.MARK]
    flushes = [*kinds.get(Call.FSYNC, []), *kinds.get(Call.FDATASYNC, [])]
    chance.shuffle(flushes)
    renamed = _renamed(calls) or flushes
    chance.shuffle(renamed)
    touching = sorted(kinds.keys() & _AT_DISK)
    found = []
    for number in numbers:
        turn, way = divmod(number, 4)
        chance = random.Random(f"{seed}:{number}")
        cut = chance.choice(CUTS)
        if way == 0:
            # The last acknowledged data may not have reached the disk without its flush.
            found.append(_Moment(marks[turn % len(marks)], True, number, NOTHING_KEPT))
        elif way == 1:
            # At this moment most changes are unflushed.
            found.append(_Moment(flushes[turn % len(flushes)], False, number, cut))
        elif way == 2:
            # A new entry may be kept without the content of its file, or without other entries.
            found.append(_Moment(renamed[turn % len(renamed)], False, number, HALF_KEPT))
        else:
            positions = kinds[touching[turn % len(touching)]]
            at = positions[turn // len(touching) % len(positions)]
            found.append(_Moment(at, chance.random() < 0.5, number, cut))
    return sorted(found)


def _renamed(calls: Sequence[Traced]) -> list[int]:
    """Return the positions from each rename to the end of the flush that follows."""
    found = []
    unsafe = False
    for position, call in enumerate(calls, 1):
        unsafe = unsafe or call.call is Call.RENAME
        if unsafe and call.call in _AT_DISK:
            found.append(position)
        if call.call is Call.FSYNC:
            unsafe = False
    return found


def images(
    recording: Recording, seed: str, numbers: Sequence[int]
) -> Iterator[tuple[Image, Known]]:
    """Yield images of a recording's disk in the order of their moments, with the known state.

    Each number is an image. The recording's disk is consumed.
    """
    disk, known = recording.disk, Known(recording.ledgers)
    position = 0
    for moment in _moments(recording, seed, numbers):
        while position < moment.position:
            disk.finish()
            call = recording.calls[position]
            if call.call is Call.MARK:
                mark = marked(call.data)
                if mark.get("copied") == "backup":
                    (known.backed_up,) = known.ledgers[known.store].possible()
                known.take(mark)
            disk.begin(call)
            position += 1
        if moment.ended:
            disk.finish()
        chance = random.Random(f"{seed}:{moment.number}:image")
        under = known.store if recording.one_by_one else ""
        yield disk.power_cut(chance, moment.cut, under), known


# -- judging ---------------------------------------------------------------------------------


def judge(directory: str, known: Known, chance: random.Random, one: bool) -> None:
    """Check an image in a directory. Raises `Lost`, and what the store raises."""
    _judge_keys(os.path.join(directory, DATA), known)
    if known.compacted is not None:
        size = os.stat(os.path.join(directory, DATA, DATA_FILE)).st_size
        if size != known.compacted:
            raise Lost(f"the store has {size} bytes, and was compacted to {known.compacted}")
    for name, ledger in known.ledgers.items():
        if one and name != known.store:
            continue
        _judge_store(directory if one else os.path.join(directory, name), ledger, chance)
    backup = os.path.join(directory, BACKUP)
    if os.path.exists(backup) or "backup" in known.copied:
        read_manifest(backup)
        _judge_restored(directory, backup, known, chance)


def _judge_store(directory: str, ledger: Ledger, chance: random.Random) -> None:
    possible = ledger.possible()
    paths = sorted({path for state in possible for path in state.streams})
    if ledger.acknowledged and chance.random() < 0.3:
        _sound(directory)
    store = InlineStore(directory)
    try:
        found = store.contents(paths)
        held = digest(found)
        states = [state for state in possible if digest(state.streams) == held]
        if not states:
            raise Lost(_difference(found, possible))
        _continue(store, states[-1], chance)
    finally:
        store.close()
    _sound(directory)


def _difference(found: Any, possible: list[State]) -> str:
    lines = [f"the streams are none of the {len(possible)} states that are possible"]
    for title, state in (("acknowledged", possible[0]), ("submitted", possible[-1])):
        for path in sorted({*found, *state.streams}):
            mine, other = found.get(path), state.streams.get(path)
            if mine != other:
                sizes = [None if one is None else (len(one[0]), one[1]) for one in (mine, other)]
                lines.append(f"  {path}: found {sizes[0]}, {title} {sizes[1]}")
    return "\n".join(lines)


def _continue(store: InlineStore, state: State, chance: random.Random) -> None:
    """Retry as producers, append, create and delete streams."""
    operations: list[Operation] = []
    for path, name in chance.sample(sorted(state.producers), min(len(state.producers), 3)):
        if not state.streams[path][1]:
            last = state.producers[path, name]
            operations.append(["append", path, "twice", 1, [name, last], False])
            operations.append(["append", path, "<next>", 3, [name, last + 1], False])
    operations.append(["create", "after-the-cut", "<new>", 50])
    operations.append(["append", "after-the-cut", "<large>", 2000, None, False])
    for path in sorted(state.streams)[:1]:
        operations.append(["delete", path])
    expected = []
    for operation in operations:
        state, outcome = state.after(operation)
        expected.append(outcome)
    outcomes = store.submit(operations)
    if outcomes != expected:
        raise Lost(f"after the cut {operations} came to {outcomes}")
    found = store.contents(sorted(state.streams))
    if digest(found) != digest(state.streams):
        raise Lost("after the cut: " + _difference(found, [state]))


def _sound(directory: str) -> None:
    findings = check_directory(directory, deep=True)
    if findings:
        raise Lost(f"check: {findings[:3]}")


def _judge_keys(directory: str, known: Known) -> None:
    if known.keys is None and not os.path.exists(os.path.join(directory, KEYS_FILE)):
        return
    keyring = Keyring(directory, lambda: NOW / 1000)
    keyring.open()
    if known.keys is not None:
        secret, number = known.keys
        if keyring.secret.hex() != secret or keyring.jwks().count(b'"kid"') < number:
            raise Lost("keys that were in use are lost")


def _judge_restored(directory: str, backup: str, known: Known, chance: random.Random) -> None:
    if known.backed_up is None:
        (state,) = known.ledgers[DATA].possible()
    else:
        state = known.backed_up
    restored = os.path.join(directory, RESTORED)
    if "restore" in known.copied or os.path.exists(os.path.join(restored, DATA_FILE)):
        _judge_store(restored, Ledger([state]), chance)
        if not os.path.exists(os.path.join(restored, KEYS_FILE)):
            raise Lost("the keys were not restored")
    else:
        restore(backup, restored, NOW, ignore_progress)
        _judge_store(restored, Ledger([state]), chance)


# -- running ---------------------------------------------------------------------------------


def run(workload: str, seed: int, number: int) -> list[str]:
    """Return the failures of images of a workload, one text each."""
    name = f"{workload}:{seed}"
    try:
        recording = WORKLOADS[workload](name)
    except Lost as lost:
        return [f"{workload}, seed {seed}: {lost}"]
    wrong = []
    numbers = range(number)
    scratch = scratch_directory()
    try:
        moments = _moments(recording, name, numbers)
        for moment, (image, known) in zip(moments, images(recording, name, numbers), strict=True):
            directory = os.path.join(scratch, str(moment.number))
            image.write(directory)
            try:
                judge(directory, known, random.Random(f"{name}:{moment}"), recording.one_by_one)
            except Exception as error:  # noqa: BLE001
                call = recording.calls[moment.position - 1]
                wrong.append(
                    f"{workload}, seed {seed}, image {moment.number}, cut at call "
                    f"{moment.position} ({call.call.name} {os.path.basename(call.path)}, "
                    f"{'ended' if moment.ended else 'under way'}), {moment.cut}: "
                    f"{type(error).__name__}: {error}"
                )
            shutil.rmtree(directory)
    finally:
        shutil.rmtree(scratch)
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Check images, print failures, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.powercut")
    parser.add_argument("--images", type=int, default=1000, help="how many in all (1000)")
    parser.add_argument("--seed", type=int, default=0, help="where to begin (0)")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), help="only this one")
    options = parser.parse_args(arguments)
    chosen = [options.workload] if options.workload else list(WORKLOADS)
    # Recovery logs its findings.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    done = failed = 0
    seed = options.seed
    while done < options.images:
        for workload in chosen:
            number = min(_AT_ONCE, options.images - done)
            if not number:
                break
            began = time.process_time()
            wrong = run(workload, seed, number)
            done, failed = done + number, failed + len(wrong)
            took = time.process_time() - began
            print(f"{workload}, seed {seed}: {number} images, {len(wrong)} wrong, {took:.1f} s")
            for sentence in wrong[:_SHOWN]:
                print("  " + sentence)
        seed += 1
    print(f"{done} images, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
