"""Rate and CPU of durable appends, without subscriptions and with many.

One store, 64 appends always in flight, over 100 streams. The streams belong to none
of the subscriptions, to one of them, or to ten; all others are globs over other streams, half of
them with a ** in front, so that no first segment tells them apart.

    python bench/subscriptions.py [--directory DIR] [--seconds 2] [--rounds 3] [--many 10000]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import react

from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.protocol.subscriptions.commands import Subscribe
from durable_streams_tw.protocol.subscriptions.outcomes import Subscribed
from durable_streams_tw.protocol.subscriptions.parsing import config_digest
from durable_streams_tw.protocol.subscriptions.state import Config, Kind
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.shared.executor import ThreadExecutor

BYTES = "application/octet-stream"
STREAMS = 100
WRITERS = 64


def subscribe(name: str, pattern: str) -> Subscribe:
    """Return the command for a webhook subscription."""
    config = Config(Kind.WEBHOOK, pattern, "https://hook.example/", None, 30_000, None)
    return Subscribe(name, config, (), config_digest(config, ()))


def others(count: int) -> list[Subscribe]:
    """Yield subscriptions to other streams."""
    patterns = [f"**/team-{n}/*" if n % 2 else f"team-{n}/**" for n in range(count)]
    return [subscribe(f"other-{n}", pattern) for n, pattern in enumerate(patterns)]


async def rate(
    reactor: Any, parent: str | None, seconds: float, commands: list[Subscribe]
) -> tuple[float, float]:
    """Return acknowledged appends per second, and microseconds of CPU per append."""
    directory = tempfile.mkdtemp(dir=parent)
    store = DurableStore(directory, reactor, ThreadExecutor(reactor))
    store.open()
    try:
        made = await gatherResults([store.submit(command) for command in commands])
        assert all(isinstance(outcome, Subscribed) for outcome in made), made
        names = [f"events/{number}" for number in range(STREAMS)]
        creates = [store.submit(Create(name, BYTES, NO_EXPIRY, False, EMPTY)) for name in names]
        assert all(isinstance(outcome, Created) for outcome in await gatherResults(creates))
        started, worked = time.perf_counter(), time.process_time()
        until = started + seconds
        done = 0

        async def writer(number: int) -> None:
            nonlocal done
            while time.perf_counter() < until:
                append = Append(names[number % STREAMS], BYTES, Body(b"x" * 100))
                outcome = await store.submit(append)
                assert isinstance(outcome, Appended), outcome
                done += 1
                number += 1

        await gatherResults([ensureDeferred(writer(number)) for number in range(WRITERS)])
        cpu = time.process_time() - worked
        return done / (time.perf_counter() - started), 1e6 * cpu / done
    finally:
        await store.close()
        shutil.rmtree(directory)


def main(reactor: IReactorCore) -> Deferred[None]:
    """Measure all cases in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--directory", help="where to put the stores (default: the system's)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=10_000)
    options = parser.parse_args()
    sys.setswitchinterval(0.0002)
    many = others(options.many)
    ten = [subscribe(f"ten-{number}", "events/*") for number in range(10)]
    cases = {
        "no subscriptions": [],
        f"{options.many:,}, none of these streams": many,
        f"{options.many:,}, one of them matches": [*many, *ten[:1]],
        f"{options.many:,}, ten of them match": [*many, *ten],
    }

    async def measure() -> None:
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            for name, commands in cases.items():
                results[name].append(
                    await rate(reactor, options.directory, options.seconds, commands)
                )
        for name, figures in results.items():
            rates = [figure for figure, _ in figures]
            cpu = statistics.median([figure for _, figure in figures])
            print(
                f"{name:>36}: {statistics.median(rates):8.0f} appends/s"
                f"  ({min(rates):.0f} to {max(rates):.0f}), {cpu:5.1f} µs of CPU each"
            )

    measuring: Coroutine[Deferred[Any], Any, None] = measure()
    return ensureDeferred(measuring)


if __name__ == "__main__":
    react(main)
