"""Faults of file system calls under a running server: once, five times, and for some seconds.

    python -m tests.crash.fault_sweep
    python -m tests.crash.fault_sweep --seconds 1 --only fdatasync

A server process runs under `faulty_files` while a few producers append. For each fault

- every response is 200, 204, 503 or 507, and no connection breaks;
- while all appends are refused, ``/-/ready`` reports it;
- after the fault, each stream accepts appends and reads, and the server becomes ready;
- each stream has the acknowledged messages, once and in order.

The server is killed and restarted regularly, and its store is checked.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import itertools
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from tests.crash.faulty_files import SHORT, Call, FaultyFiles
from tests.crash.server import PATIENCE, Producer, Server
from tests.storage.durable.store_case import scratch_directory
from tests.storage.fsck_assertions import check_directory

_PRODUCERS = ("p0", "p1", "p2", "p3")
_RIGHT = {200, 204, 503, 507}

# Restarts take a second each, about as long as the rest of the sweep.
_RESTART_EVERY = 12

TIMES: Final = ("once", "five times", "seconds")


@dataclass(frozen=True)
class Fault:
    """Kinds of calls that fail, files, error, and times (one of `TIMES`).

    Calls of the kinds ``later`` fail too, but for the first.
    """

    calls: frozenset[Call]
    name: str
    error: int
    times: str
    later: frozenset[Call] = frozenset()

    def __str__(self) -> str:
        kinds = ", ".join(sorted(call.name.lower() for call in self.calls | self.later))
        error = "short" if self.error == SHORT else errno.errorcode[self.error]
        return f"{kinds} of {self.name}: {error} {self.times}"


META_AND_SYNC: Final = Fault(
    frozenset({Call.DSYNC}), "data.mdb", errno.EIO, "seconds", frozenset({Call.FDATASYNC})
)
"""A commit fails in its meta page, and LMDB's environment cannot be reopened."""


def faults() -> list[Fault]:
    """Return all faults of a sweep."""
    found = []
    names = ("data.mdb", "journal.*", "*")
    files: list[tuple[Collection[Call], Sequence[str], Sequence[int]]] = [
        ([Call.WRITE], names, (errno.EIO, errno.ENOSPC, SHORT)),
        ([Call.DSYNC], ("data.mdb",), (errno.EIO, errno.ENOSPC, SHORT)),
        ([Call.FDATASYNC], names, (errno.EIO, errno.ENOSPC)),
        ([Call.FSYNC, Call.FDATASYNC], ("*",), (errno.EIO,)),
        (set(Call) - {Call.MARK}, ("*",), (errno.EIO, errno.ENOSPC)),
    ]
    for call in (Call.FSYNC, Call.OPEN, Call.ALLOCATE, Call.TRUNCATE, Call.CLOSE, Call.RENAME):
        files.append(([call], ("*",), (errno.EIO, errno.ENOSPC)))
    for calls, patterns, errors in files:
        for name, error, times in itertools.product(patterns, errors, TIMES):
            found.append(Fault(frozenset(calls), name, error, times))
    return [*found, META_AND_SYNC]


@dataclass
class _Producer(Producer):
    """Client that retries each message until it is acknowledged."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: str = ""

    def run(self, port: int, go_on: Event) -> None:
        """Append until `stop`."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            while go_on.is_set():
                self.statuses[self.post(connection)] += 1
                time.sleep(0.005)
        except (OSError, http.client.HTTPException) as error:
            self.broken = f"{type(error).__name__}: {error}"
        finally:
            connection.close()


class Sweep:
    """Server with injected faults, and its producers."""

    def __init__(self, seconds: float, within: float) -> None:
        self._seconds = seconds
        self._within = within
        self._scratch = scratch_directory()
        self._directory = os.path.join(self._scratch, "data")
        self.layer = FaultyFiles(self._scratch, self._directory, traced=False)
        self._producers = [_Producer(name, name) for name in _PRODUCERS]
        self.slowest = 0.0
        self._server = Server(self._directory, **self.layer.environment)
        for producer in self._producers:
            status, _, _ = self._server.request("PUT", f"/v1/stream/{producer.path}")
            assert status == 201, status

    def finish(self) -> None:
        """Stop the server and check its store. Raises `AssertionError`."""
        self.restart()
        self._server.stop()

    def close(self) -> None:
        """Kill everything."""
        self._server.kill()
        self.layer.close()
        shutil.rmtree(self._scratch)

    def restart(self) -> None:
        """Kill the server, check the store, start again, compare. Raises `AssertionError`."""
        self._server.kill()
        findings = check_directory(self._directory, deep=True)
        if findings:
            raise AssertionError(f"check: {findings[:3]}")
        self._server = Server(self._directory, **self.layer.environment)
        self._compare()

    def log(self) -> str:
        """Return what the server has logged."""
        return self._server.log()

    def run(self, fault: Fault) -> None:
        """Inject a fault and check the responses. Raises `AssertionError`."""
        for producer in self._producers:
            producer.statuses.clear()
        with self._server.load(self._producers):
            try:
                ready = self._fail(fault)
                ended = time.monotonic()
                counts = sum((producer.statuses for producer in self._producers), Counter[int]())
                self._await_service(ended)
            finally:
                self.layer.mend()
        if not set(counts) <= _RIGHT:
            raise AssertionError(f"answers: {dict(counts)}")
        if fault.times == "seconds" and not counts[200] + counts[204] and 503 not in ready:
            raise AssertionError(f"nothing was written, and readiness said {sorted(ready)}")
        broken = [producer.broken for producer in self._producers if producer.broken]
        if broken:
            raise AssertionError(f"connections broke: {broken}")
        self._compare()

    def _fail(self, fault: Fault) -> set[int]:
        """Inject the fault until it has ended, and return the readiness responses."""
        ready = set()
        count = {"once": 1, "five times": 5, "seconds": -1}[fault.times]
        self.layer.fail(fault.calls, fault.error, name=fault.name, count=count)
        if fault.later:
            self.layer.fail(fault.later, fault.error, name=fault.name, skip=1, count=count)
        # Some calls are rare and may not occur.
        until = time.monotonic() + self._seconds
        while time.monotonic() < until and self.layer.hits() != count:
            ready.add(self._server.request("GET", "/-/ready")[0])
            time.sleep(0.1)
        self.layer.mend()
        return ready

    def _await_service(self, ended: float) -> None:
        request = self._server.request

        def serves() -> bool:
            for producer in self._producers:
                path = f"/v1/stream/plain-{producer.path}"
                if request("PUT", path)[0] not in (200, 201):
                    return False
                if request("POST", path, b"x")[0] != 204:
                    return False
                if request("GET", f"/v1/stream/{producer.path}")[0] != 200:
                    return False
            return request("GET", "/-/ready")[0] == 200

        while not serves():
            if time.monotonic() - ended > self._within:
                raise AssertionError(f"no full service {self._within} s after the end of the fault")
            time.sleep(0.02)
        self.slowest = max(self.slowest, time.monotonic() - ended)

    def _compare(self) -> None:
        for producer in self._producers:
            stored = producer.stored(self._server)
            # The last append may have been applied without a response.
            if not producer.acknowledged <= stored <= producer.acknowledged + 1:
                raise AssertionError(f"{producer.name}: {stored} of {producer.acknowledged}")


def main(arguments: Sequence[str]) -> int:
    """Run a sweep, print failures, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.fault_sweep")
    parser.add_argument("--seconds", type=float, default=4, help="how long faults last (4)")
    parser.add_argument("--within", type=float, default=2, help="seconds until full service (2)")
    parser.add_argument("--only", default="", help="faults with this word in their name")
    parser.add_argument("--log", action="store_true", help="show the server's log of what is wrong")
    options = parser.parse_args(arguments)
    chosen = [fault for fault in faults() if options.only in str(fault)]
    random.Random(0).shuffle(chosen)
    failed = 0
    slowest = 0.0
    sweep = Sweep(options.seconds, options.within)
    for number, fault in enumerate(chosen, 1):
        said = "right"
        try:
            sweep.run(fault)
            if number == len(chosen):
                sweep.finish()
            elif number % _RESTART_EVERY == 0:
                sweep.restart()
        except AssertionError as wrong:
            failed += 1
            said = f"WRONG: {wrong}"
            if options.log:
                said += "\n" + sweep.log()
            sweep.close()
            sweep = Sweep(options.seconds, options.within)
        slowest = max(slowest, sweep.slowest)
        print(f"{number}/{len(chosen)} {fault}: {said}", flush=True)
    sweep.close()
    print(f"{len(chosen)} faults, {failed} wrong; full service after {slowest:.2f} s at most")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
