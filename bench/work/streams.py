"""Streams by the thousand: making them, and starting with them."""

from __future__ import annotations

from bench.client import BYTES, ROOT, Client, Mismatch, Ruler
from bench.crowd import fill, put
from bench.figures import Figure
from bench.process import Process
from bench.work import loads
from bench.work.appends import MANY, SIZE, to_many
from bench.work.row import START_SECONDS, Row, Trial, Unmeasurable

CONNECTIONS = 64
SAMPLES = 100
MIB = 2**20
# Fewer streams than this tell nothing about a start with many.
TELLING = 1_000


class Creates(Row):
    """PUT of a new stream, again and again."""

    name = "create"
    title = "create streams, 64 connections"
    figures = (Figure("rate", "creates", "/s", "more"), *loads.CONTEXT)

    def measure(self, trial: Trial) -> dict[str, float]:
        """A sample of what was acknowledged has to be there."""
        with trial.server() as server, Client(server.port) as client:
            return create(server, client, "new", trial.settings.seconds).figures


def create(server: Process, client: Client, prefix: str, seconds: float) -> loads.Loaded:
    """Makes streams for some seconds. Raises `Mismatch` where one of a sample is missing."""
    arguments, warm_up = ["create", f"{ROOT}{prefix}-"], ["create", f"{ROOT}{prefix}-warm-"]
    loaded = loads.run(server, ROOT, CONNECTIONS, seconds, arguments, warm_up)
    # The newest may have been overtaken by others, and cut off.
    safe = max(2, loaded.load.requests - 10 * CONNECTIONS)
    # wrk asks for one request before it begins, and does not send it: there is no number 0.
    for number in range(1, safe, max(1, safe // SAMPLES)):
        if not client.exists(f"{prefix}-{number}"):
            raise Mismatch(f"stream {number} of {loaded.load.requests} is missing")
    return loaded


class Starts(Row):
    """Starting with many streams on disk, and working with all of them there."""

    stores = ("durable",)
    figures = (
        Figure("seconds", "start to first answer", "s", "less"),
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
        """From the start of the process to the answer of a HEAD; then rates."""
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
                ruler = Ruler(client, f"ruler{trial.round}", SIZE)
                count = min(streams, trial.settings.scaled(MANY))
                length = trial.settings.seconds
                append = to_many(server, client, ruler, "old", count, length)
                made = create(server, client, f"new{trial.round}", length)
            # What was made now is there at the next start.
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
        # Those under way when time was over come last, and may be missing.
        return max(1, filled.acknowledged - (CONNECTIONS if filled.acknowledged < count else 0))


class EmptyStarts(Row):
    """Starting with nothing: what of a start is the program itself."""

    name = "start-empty"
    title = "start with nothing on disk"
    needs_wrk = False
    stores = ("durable",)
    figures = Starts.figures[:2]

    def measure(self, trial: Trial) -> dict[str, float]:
        """From the start of the process to the answer of a HEAD."""
        server = trial.start(trial.fresh())
        try:
            seconds = server.await_answer(f"{ROOT}nothing", START_SECONDS)
            return {"seconds": seconds, "memory": server.resident() / MIB}
        finally:
            server.stop()
