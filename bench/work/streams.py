"""Thousands of streams: creating them, and starting a server with them."""

from __future__ import annotations

from bench.client import BYTES, ROOT, AppendCounter, Client, Mismatch
from bench.crowd import fill, put
from bench.figures import Figure
from bench.process import Process
from bench.work import loads
from bench.work.appends import MANY, SIZE, to_many
from bench.work.row import START_SECONDS, Row, Trial, Unmeasurable

CONNECTIONS = 64
SAMPLES = 100
MIB = 2**20
# A start with fewer streams is not meaningful.
TELLING = 1_000


class Creates(Row):
    """PUT of new streams."""

    name = "create"
    title = "create streams, 64 connections"
    figures = (Figure("rate", "creates", "/s", "more"), *loads.CONTEXT)

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that a sample of the acknowledged streams exists."""
        with trial.server() as server, Client(server.port) as client:
            return create(server, client, "new", trial.settings.seconds).figures


def create(server: Process, client: Client, prefix: str, seconds: float) -> loads.Loaded:
    """Create streams for some seconds. Raise `Mismatch` if one of a sample is missing."""
    arguments, warm_up = ["create", f"{ROOT}{prefix}-"], ["create", f"{ROOT}{prefix}-warm-"]
    loaded = loads.run(server, ROOT, CONNECTIONS, seconds, arguments, warm_up)
    # The newest requests may have been cut off at the end.
    safe = max(2, loaded.load.requests - 10 * CONNECTIONS)
    # wrk generates one request before it begins and does not send it: number 0 is missing.
    for number in range(1, safe, max(1, safe // SAMPLES)):
        if not client.exists(f"{prefix}-{number}"):
            raise Mismatch(f"stream {number} of {loaded.load.requests} is missing")
    return loaded


class Starts(Row):
    """Start with many streams on disk, and rates with all of them."""

    stores = ("durable",)
    figures = (
        Figure("seconds", "start to first response", "s", "less"),
        Figure("memory", "memory after it", "MiB", "less"),
        Figure("append", "appends over 10,000 of them", "/s", "more"),
        Figure("create", "creates", "/s", "more"),
        Figure("streams", "streams on disk", "", "context"),
    )

    def __init__(self, name: str, title: str, count: int, only_full: bool) -> None:
        self.name = name
        self.title = title
        self.only_full = only_full
        self._count = count

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure from process start to the response to a HEAD; then rates."""
        facts = trial.kept.facts
        if "streams" not in facts:
            facts["streams"] = self._fill(trial)
        streams = facts["streams"]
        server = trial.start(trial.kept.home)
        try:
            seconds = server.await_answer(f"{ROOT}old0", trial.settings.fill_limit + START_SECONDS)
            memory = server.resident()
            with Client(server.port) as client:
                if not client.exists(f"old{streams - 1}"):
                    raise Mismatch("streams are gone after a start")
                counter = AppendCounter(client, f"ruler{trial.round}", SIZE)
                count = min(streams, trial.settings.scaled(MANY))
                length = trial.settings.seconds
                append = to_many(server, client, counter, "old", count, length)
                made = create(server, client, f"new{trial.round}", length)
            # The next start includes the streams created now.
            facts["more"] = facts.get("more", 0) + made.answered
        finally:
            server.stop()
        return {
            "seconds": seconds,
            "memory": memory / MIB,
            "append": append.load.rate,
            "create": made.load.rate,
            "streams": streams + facts["more"] - made.answered,
        }

    def _fill(self, trial: Trial) -> int:
        count = trial.settings.scaled(self._count)
        with trial.server(trial.kept.home) as server:
            requests = (put(f"{ROOT}old{number}", BYTES) for number in range(count))
            filled = fill(
                server.port, requests, count, CONNECTIONS, trial.settings.fill_limit, enough=TELLING
            )
        if filled.acknowledged < min(count, TELLING):
            raise Unmeasurable(
                f"made only {filled.acknowledged} of {count} streams, refused {filled.refused[:3]}"
            )
        # The last requests were in flight at the end and may be missing.
        return max(1, filled.acknowledged - (CONNECTIONS if filled.acknowledged < count else 0))


class EmptyStarts(Row):
    """Start with an empty store: the time of the program itself."""

    name = "start-empty"
    title = "start with nothing on disk"
    needs_wrk = False
    stores = ("durable",)
    figures = Starts.figures[:2]

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure from process start to the response to a HEAD."""
        server = trial.start(trial.fresh())
        try:
            seconds = server.await_answer(f"{ROOT}nothing", START_SECONDS)
            return {"seconds": seconds, "memory": server.resident() / MIB}
        finally:
            server.stop()
