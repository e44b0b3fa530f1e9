"""Reads of a small stream, and catch-up reads of a large one."""

from __future__ import annotations

import time
from itertools import repeat

from bench.client import BYTES, ROOT, Client, Mismatch
from bench.crowd import fill, post
from bench.figures import Figure
from bench.process import Process
from bench.work import loads
from bench.work.row import Row, Trial, Unmeasurable

SMALL = 1024
LARGE = 100_000_000
READS = 5
FILLERS = 64
MIB = 2**20


class Gets(Row):
    """GET of a stream of one kilobyte."""

    name = "get-1k"
    title = "GET of 1 KB, 64 connections"
    figures = (Figure("rate", "reads", "/s", "more"), *loads.CONTEXT)

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that every response contains the kilobyte."""
        with trial.server() as server, Client(server.port) as client:
            client.create("small")
            client.append("small", b"x" * SMALL)
            found = client.catch_up("small").size
            if found != SMALL:
                raise Mismatch(f"a stream of {SMALL} bytes was read as {found}")
            target = f"{ROOT}small?offset=-1"
            loaded = loads.run(server, target, 64, trial.settings.seconds, ["get"])
            if loaded.load.read < loaded.load.requests * SMALL:
                raise Mismatch("responses were shorter than the stream")
            return loaded.figures


class CatchUps(Row):
    """A stream of 100 MB, read from its start to its tail by one client."""

    needs_wrk = False
    figures = (
        Figure("cpu", "server's CPU", "s", "less"),
        Figure("seconds", "time", "s", "less"),
        Figure("peak", "peak memory", "MiB", "less"),
        Figure("growth", "of which for reading", "MiB", "context"),
        # Mapped pages of the page cache count as resident memory, but can be reclaimed.
        Figure("mapped", "of that, mapped files", "MiB", "context"),
        Figure("requests", "requests", "", "context"),
    )

    def __init__(self, name: str, written: str, size: int) -> None:
        self.name = name
        self.title = f"catch-up of 100 MB written as {written} appends"
        self._size = size

    def measure(self, trial: Trial) -> dict[str, float]:
        """Read five times and return figures for one read; check that every byte arrives."""
        if trial.variant.store == "memory":
            with trial.server() as server:
                size = self._fill(trial, server)
                return _read(server, size)
        facts = trial.kept.facts
        if "size" not in facts:
            with trial.server(trial.kept.home) as server:
                facts["size"] = self._fill(trial, server)
        with trial.server(trial.kept.home) as server:
            return _read(server, facts["size"])

    def _fill(self, trial: Trial, server: Process) -> int:
        settings = trial.settings
        count = settings.scaled(-(-LARGE // self._size))
        request = post(ROOT + "large", BYTES, b"x" * self._size)
        with Client(server.port) as client:
            client.create("large")
        filled = fill(server.port, repeat(request, count), count, FILLERS, settings.fill_limit)
        if filled.refused:
            raise Mismatch(f"{len(filled.refused)} appends were answered {filled.refused[0]}")
        if filled.acknowledged < count:
            rate = filled.acknowledged / filled.seconds
            raise Unmeasurable(
                f"too slow to fill: {rate:.0f} appends/s, {count / rate:.0f} s for {count}"
                f" (the limit was {settings.fill_limit:.0f} s; --full allows more)"
            )
        return count * self._size


def _read(server: Process, size: int) -> dict[str, float]:
    with Client(server.port) as client:
        server.forget_peak()
        resident, mapped = server.resident(), server.mapped()
        used, begun = server.cpu(), time.perf_counter()
        for _ in range(READS):
            got = client.catch_up("large")
            if got.size != size:
                raise Mismatch(f"a stream of {size} bytes was read as {got.size}")
        seconds, used = time.perf_counter() - begun, server.cpu() - used
        peak, mapped = server.peak(), server.mapped() - mapped
    return {
        "cpu": used / READS,
        "seconds": seconds / READS,
        "peak": peak / MIB,
        "growth": (peak - resident) / MIB,
        "mapped": mapped / MIB,
        "requests": got.requests,
    }
