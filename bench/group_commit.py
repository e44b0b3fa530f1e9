"""Durable appends per second with group commit, against one commit per append.

Both sides are the same store on the same disk; only the executor differs: one passes all
queued commands to the committer, the other one at a time. 64 appends are always in flight.

    python bench/group_commit.py [--directory DIR] [--seconds 2] [--rounds 3] [--writers 64]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import react

from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.shared.executor import Job, ThreadExecutor

BYTES = "application/octet-stream"


class SingleFile(ThreadExecutor):
    """Executor that commits one command at a time."""

    def start(self, work: Callable[[list[Job]], None]) -> None:
        def one_by_one(jobs: list[Job]) -> None:
            for job in jobs:
                work([job])

        super().start(one_by_one)


async def rate(
    reactor: Any, executor: type[ThreadExecutor], parent: str | None, seconds: float, writers: int
) -> float:
    """Return acknowledged appends per second."""
    directory = tempfile.mkdtemp(dir=parent)
    store = DurableStore(directory, reactor, executor(reactor))
    store.open()
    try:
        await store.submit(Create("bench", BYTES, NO_EXPIRY, False, EMPTY))
        append = Append("bench", BYTES, Body(b"x" * 100))
        started = time.perf_counter()
        until = started + seconds
        done = 0

        async def writer() -> None:
            nonlocal done
            while time.perf_counter() < until:
                outcome = await store.submit(append)
                assert isinstance(outcome, Appended), outcome
                done += 1

        await gatherResults([ensureDeferred(writer()) for _ in range(writers)])
        return done / (time.perf_counter() - started)
    finally:
        await store.close()
        shutil.rmtree(directory)


def main(reactor: IReactorCore) -> Deferred[None]:
    """Measure both sides in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--directory", help="where to put the stores (default: the system's)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, default=64)
    options = parser.parse_args()
    sys.setswitchinterval(0.0002)

    async def measure() -> None:
        results: dict[str, list[float]] = {"grouped": [], "one by one": []}
        for _ in range(options.rounds):
            for name, executor in (("grouped", ThreadExecutor), ("one by one", SingleFile)):
                figure = await rate(
                    reactor, executor, options.directory, options.seconds, options.writers
                )
                results[name].append(figure)
        for name, figures in results.items():
            print(
                f"{name:>10}: {statistics.median(figures):8.0f} appends/s"
                f"  ({min(figures):.0f} to {max(figures):.0f})"
            )
        ratio = statistics.median(results["grouped"]) / statistics.median(results["one by one"])
        print(f"{'ratio':>10}: {ratio:8.1f}")

    measuring: Coroutine[Deferred[Any], Any, None] = measure()
    return ensureDeferred(measuring)


if __name__ == "__main__":
    react(main)
