"""CPU time per request, and rates, of front processes and the owner of their store.

    python -m bench.workers [--fronts 0,1,2] [--seconds 2] [--rounds 3]

With 0 fronts, one process does everything, as without ``--workers``. Each front has a core of its
own, then the owner, as far as there are cores; further processes share them, beginning with the
first. The load runs on the last core. So rates of more processes than cores are those of shared
cores: compare CPU times. The estimates for 4 and 8 cores are computed from these: one core for the
owner, the others for fronts.

Appends to subscribers are sent at a pace at which each reaches all of them before the next, so a
delivery is one write to a socket. A faster writer makes no figure to compare: while a front writes
to its subscribers, appends gather and share the next write, and with fewer subscribers for each
front, fewer gather.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import wrk
from bench.client import BYTES, ROOT, TEXT, Client
from bench.process import Process
from bench.subscribers import Subscribers

START_SECONDS = 30.0
SUBSCRIBERS = 400
MANY = 1000
BURST = 100
PACE = 0.02
ESTIMATED = (4, 8)
HEADER = (
    "| load | processes | rate/s | front or whole, us | owner, us | "
    + " | ".join([f"{cores} cores, estimated/s" for cores in ESTIMATED])
    + " |\n|---|--:|--:|--:|--:|"
    + "--:|" * len(ESTIMATED)
)


@dataclass(frozen=True)
class Figures:
    """Operations per second, and microseconds of CPU time per operation.

    ``front`` is the time of all fronts, or of the only process; then ``owner`` is 0.
    """

    rate: float
    front: float
    owner: float

    def estimate(self, cores: int) -> float:
        """Return the operations per second of a machine with one process per core."""
        if not self.owner:
            return self.rate
        return min((cores - 1) / self.front, 1 / self.owner) * 1e6


class Workers:
    """Running processes: fronts, or one whole server, and the owner if there are fronts."""

    def __init__(self, fronts: list[Process], owner: Process | None) -> None:
        self.port = fronts[0].port
        self._fronts = fronts
        self._owner = owner

    def measure(self, work: Callable[[], tuple[int, float]]) -> Figures:
        """Do work, which returns the number of operations and the seconds that it took."""
        before = self._cpu()
        count, seconds = work()
        front, owner = (1e6 * (now - then) for now, then in zip(self._cpu(), before, strict=True))
        return Figures(count / seconds, front / count, owner / count)

    def _cpu(self) -> tuple[float, float]:
        owner = 0.0 if self._owner is None else self._owner.cpu()
        return sum(process.cpu() for process in self._fronts), owner


@contextmanager
def running(fronts: int, port: int) -> Iterator[Workers]:
    """Run processes with an empty durable store."""
    home = Path(tempfile.mkdtemp(prefix="bench-workers-"))
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, home)

        def start(role: str, core: int) -> Process:
            line = [sys.executable, "-m", "bench.worker", role, str(core), str(port)]
            line += [str(home / "data"), str(home / "socket")]
            top = str(Path(__file__).resolve().parent.parent)
            process = Process(line, {"PYTHONPATH": top}, port, home / "log")
            ending.callback(process.stop)
            return process

        owner = start("owner", cores[fronts % len(cores)]) if fronts else None
        role = "front" if fronts else "whole"
        serving = [start(role, cores[number % len(cores)]) for number in range(fronts or 1)]
        for process in serving:
            process.await_answer(ROOT + "none", START_SECONDS)
        time.sleep(1.0)
        os.sched_setaffinity(0, {cores[-1]})
        try:
            yield Workers(serving, owner)
        finally:
            os.sched_setaffinity(0, cores)


def requests(workers: Workers, connections: int, seconds: float, *arguments: str) -> Figures:
    """Load one stream, after a second of warming up."""
    url = f"http://127.0.0.1:{workers.port}{ROOT}one"

    def load() -> tuple[int, float]:
        result = wrk.run(url, connections, seconds, *arguments)
        return result.requests, result.seconds

    wrk.run(url, connections, 1, *arguments)
    return workers.measure(load)


def deliveries(workers: Workers, seconds: float) -> Figures:
    """Deliver paced appends to subscribers of one stream."""
    with Client(workers.port) as client:
        client.create("live", TEXT)

    with Subscribers(workers.port, "live", SUBSCRIBERS) as subscribers:
        subscribers.open()

        def deliver() -> tuple[int, float]:
            count, lasted = 0, 0.0
            while lasted < seconds:
                followed = subscribers.follow(BURST, PACE, 60.0)
                count += followed.deliveries
                lasted += followed.seconds
            return count, lasted

        return workers.measure(deliver)


def measure(fronts: int, seconds: float, port: int) -> dict[str, Figures]:
    """Measure all loads with a number of fronts."""
    found: dict[str, Figures] = {}
    with running(fronts, port) as workers:
        with Client(workers.port) as client:
            client.create("one", BYTES)
        for connections in (64, 256):
            name = f"append of 100 B, {connections} connections"
            found[name] = requests(workers, connections, seconds, "append", "100")
    with running(fronts, port) as workers:
        with Client(workers.port) as client:
            client.create("one", BYTES)
            client.append("one", b"x" * 1024)
        found["GET of 1 KB, 64 connections"] = requests(workers, 64, seconds, "get")
        with Client(workers.port) as client:
            for number in range(MANY):
                client.create(f"s{number}", BYTES)
                client.append(f"s{number}", b"x" * 1024)
        found[f"GET of 1 KB of {MANY:,} streams, 64 connections"] = requests(
            workers, 64, seconds, "get-from", f"{ROOT}s", "0", str(MANY)
        )
        found[f"SSE, deliveries to {SUBSCRIBERS}"] = deliveries(workers, seconds)
    return found


def median(results: list[Figures]) -> Figures:
    """Return the medians of several results."""
    columns = zip(*((one.rate, one.front, one.owner) for one in results), strict=True)
    return Figures(*(statistics.median(column) for column in columns))


def main() -> None:
    """Measure in turn, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fronts", default="0,1,2", help="numbers of fronts (default: 0,1,2)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=21437)
    options = parser.parse_args()
    counts = [int(number) for number in options.fronts.split(",")]
    results: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(options.rounds):
        for fronts in counts:
            for load, figures in measure(fronts, options.seconds, options.port).items():
                results.setdefault((load, fronts), []).append(figures)
    print(HEADER)
    for load in dict.fromkeys(load for load, _ in results):
        for fronts in counts:
            row = median(results[load, fronts])
            cells = [load, str(fronts + 1), f"{row.rate:,.0f}", f"{row.front:.1f}"]
            cells.append(f"{row.owner:.1f}" if fronts else "")
            cells += [f"{row.estimate(cores):,.0f}" if fronts else "" for cores in ESTIMATED]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
