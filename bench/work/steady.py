"""Steady state: the same load for minutes, past the size of every cache.

A row compares the first, the middle and the last of ten equal slices of its load: their rates,
the server's CPU per request, and its anonymous memory after each.
"""

from __future__ import annotations

from bench import wrk
from bench.client import ROOT, AppendCounter, Client, check_count
from bench.figures import Figure
from bench.process import Process
from bench.work import loads
from bench.work.appends import SIZE
from bench.work.row import Row, Trial

SLICES = 10
CONNECTIONS = 64
#: One slice lasts this many times as long as other loads: ten of them are two minutes by default.
LONGER = 2.4
#: Seconds after which the first streams of the mixed load have expired.
EXPIRY = 22.0
MIB = 2**20

FIGURES = (
    Figure("rate_end", "requests, last tenth", "/s", "more"),
    Figure("kept", "of the first tenth's rate", "%", "more"),
    Figure("cpu_start", "CPU per request, first tenth", "µs", "less"),
    Figure("cpu_middle", "middle", "µs", "context"),
    Figure("cpu_end", "last tenth", "µs", "less"),
    Figure("memory_start", "anonymous memory after the first tenth", "MiB", "context"),
    Figure("memory_middle", "middle", "MiB", "context"),
    Figure("memory_end", "end", "MiB", "less"),
    Figure("requests", "requests", "", "context"),
)


class Steady(Row):
    """POST of 100 bytes to one stream, for minutes."""

    name = "steady"
    title = "append of 100 B, 64 connections, for 24 times as long"
    stores = ("durable",)
    figures = FIGURES

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that every acknowledged append is present. Raise `Mismatch`."""
        with trial.server() as server:
            with Client(server.port) as client:
                counter = AppendCounter(client, "ruler", SIZE)
                client.create("one")
                before = client.tail("one")
            warm = wrk.run(_url(server, ROOT + "one"), CONNECTIONS, 1, "append", str(SIZE))
            seconds = LONGER * trial.settings.seconds
            figures = run(server, ROOT + "one", seconds, lambda _: ["append", str(SIZE)])
            # The server has closed the idle connection of the first client.
            with Client(server.port) as client:
                there = counter.appends(before, client.tail("one"))
            answered = warm.requests + round(figures["requests"])
            check_count(there, answered, (SLICES + 1) * CONNECTIONS)
            return figures


class SteadyMixed(Row):
    """Creates, producers, reads and streams that expire together, for minutes.

    Each stream that is created gets one append of a producer of its own, is read twice, and
    expires together with all others of the same ten seconds. Where the server has subscriptions,
    each append also becomes pending work of one that no worker claims.
    """

    name = "steady-mixed"
    title = "creates, producers, reads and expiry, 64 connections, for 24 times as long"
    stores = ("durable",)
    figures = FIGURES

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure. Raise `BadLoad` if a request is refused."""
        with trial.server() as server, Client(server.port) as client:
            client.create("one")
            client.create("wakes", "application/json")
            client.subscribe("mixed", "mixed/**", "wakes")
            seconds = LONGER * trial.settings.seconds

            # Measured from the time at which as many streams expire as are created.
            url, warm_up = _url(server, ROOT), max(seconds, EXPIRY)
            wrk.run(url, CONNECTIONS, warm_up, "mixed", f"{ROOT}mixed/w-", ROOT + "one", str(SIZE))

            def arguments(number: int) -> list[str]:
                return ["mixed", f"{ROOT}mixed/{number}-", ROOT + "one", str(SIZE)]

            return run(server, ROOT, seconds, arguments)


def run(
    server: Process, target: str, seconds: float, arguments: loads.Arguments
) -> dict[str, float]:
    """Load a server in ten slices of ``seconds`` each; return the figures of a row.

    ``arguments`` returns the arguments of ``load.lua`` for the number of a slice.
    """
    rates, cpu, memory, requests = [], [], [], 0
    for number in range(SLICES):
        before = server.cpu()
        load = wrk.run(_url(server, target), CONNECTIONS, seconds, *arguments(number))
        rates.append(load.rate)
        cpu.append(1e6 * (server.cpu() - before) / load.requests)
        memory.append(server.anonymous() / MIB)
        requests += load.requests
    middle = SLICES // 2
    return {
        "rate_end": rates[-1],
        "kept": 100 * rates[-1] / rates[0],
        "cpu_start": cpu[0],
        "cpu_middle": cpu[middle],
        "cpu_end": cpu[-1],
        "memory_start": memory[0],
        "memory_middle": memory[middle],
        "memory_end": memory[-1],
        "requests": float(requests),
    }


def _url(server: Process, target: str) -> str:
    return f"http://127.0.0.1:{server.port}{target}"
