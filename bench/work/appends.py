"""Appends of 100 bytes to one stream or ten thousand, over one connection or many."""

from __future__ import annotations

from bench.client import BYTES, ROOT, AppendCounter, Client, check_count
from bench.crowd import fill, put
from bench.figures import Figure
from bench.process import Process
from bench.servers import Store
from bench.work import loads
from bench.work.row import Row, Trial, Unmeasurable

SIZE = 100
MANY = 10_000
FIGURES = (Figure("rate", "appends", "/s", "more"), *loads.CONTEXT)


class Appends(Row):
    """POST of 100 bytes, to the same stream."""

    figures = FIGURES

    def __init__(self, connections: int, stores: tuple[Store, ...]) -> None:
        self.name = f"append-{connections}"
        self.title = f"append of 100 B, {connections} connection" + "s" * (connections > 1)
        self.stores = stores
        self._connections = connections

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that every acknowledged append is present."""
        with trial.server() as server, Client(server.port) as client:
            return to_one(server, client, self._connections, trial.settings.seconds).figures


def to_one(server: Process, client: Client, connections: int, seconds: float) -> loads.Loaded:
    """Load one new stream with appends and check that all are present. Raise `Mismatch`."""
    counter = AppendCounter(client, "ruler", SIZE)
    client.create("one")
    before = client.tail("one")
    target = ROOT + "one"
    loaded = loads.run(server, target, connections, seconds, ["append", str(SIZE)])
    there = counter.appends(before, client.tail("one"))
    check_count(there, loaded.answered, loaded.under_way)
    return loaded


class AppendsToMany(Row):
    """POST of 100 bytes, each to the next of ten thousand streams."""

    name = "append-many"
    title = "append of 100 B, 64 connections, over 10,000 streams"
    stores = ("durable",)
    figures = FIGURES

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that the sum over all streams equals the acknowledged appends."""
        settings = trial.settings
        count = settings.scaled(MANY)
        with trial.server() as server, Client(server.port) as client:
            requests = (put(f"{ROOT}many{number}", BYTES) for number in range(count))
            filled = fill(server.port, requests, count, 64, settings.fill_limit)
            if filled.acknowledged < count:
                raise Unmeasurable(f"made only {filled.acknowledged} of {count} streams in time")
            counter = AppendCounter(client, "ruler", SIZE)
            return to_many(server, client, counter, "many", count, settings.seconds).figures


def to_many(
    server: Process, client: Client, counter: AppendCounter, prefix: str, count: int, seconds: float
) -> loads.Loaded:
    """Load existing streams with appends and check that all are present."""
    names = [f"{prefix}{number}" for number in range(count)]
    before = sum(map(client.tail, names))
    arguments = ["append-to", str(SIZE), ROOT + prefix, "0", str(count)]
    loaded = loads.run(server, ROOT, 64, seconds, arguments)
    there = counter.appends(before, sum(map(client.tail, names)))
    check_count(there, loaded.answered, loaded.under_way)
    return loaded
