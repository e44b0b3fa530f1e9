"""kill -9 under load: acknowledged appends are present once; time until the next response."""

from __future__ import annotations

import statistics
from itertools import repeat

from bench.client import BYTES, ROOT, AppendCounter, Client, Mismatch
from bench.crowd import LoadGenerator, post
from bench.figures import Figure
from bench.process import Fault
from bench.work.row import Row, Trial

CONNECTIONS = 16
SIZE = 100
KILLS = 2
RESTART_SECONDS = 30.0


class Kills(Row):
    """Sixteen writers, each with its own stream, and a kill in the middle."""

    name = "kill"
    title = "kill -9 under load of 16 writers, twice a round"
    needs_wrk = False
    stores = ("durable",)
    figures = (
        Figure("seconds", "restart to first response", "s", "less"),
        Figure("lost", "lost", "", "context"),
        Figure("doubled", "doubled", "", "context"),
        Figure("unserved", "kills without a restart", "", "context"),
        Figure("acknowledged", "appends acknowledged", "", "context"),
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Compare the acknowledged appends of each writer with the stream after a restart.

        Raise `Mismatch` if the server does not start again.
        """
        restarts: list[float] = []
        faults: list[str] = []
        totals = dict.fromkeys(("lost", "doubled", "unserved", "acknowledged"), 0)
        for number in range(KILLS):
            # Vary the moment within a batch.
            load = 0.5 + 0.137 * (number + KILLS * (trial.round - 1))
            try:
                restarts.append(_kill(trial, load, totals))
            except Fault as fault:
                faults.append(str(fault))
        if not restarts:
            raise Mismatch(f"served again after none of {KILLS} kills: {faults[0]}")
        totals["unserved"] = len(faults)
        return {"seconds": statistics.median(restarts)} | totals


def _kill(trial: Trial, load: float, totals: dict[str, int]) -> float:
    home = trial.fresh()
    names = [f"writer{number}" for number in range(CONNECTIONS)]
    with trial.server(home) as server:
        with Client(server.port) as client:
            counter = AppendCounter(client, "ruler", SIZE)
            for name in names:
                client.create(name)
            empty = client.tail(names[0])
        bodies = [repeat(post(ROOT + name, BYTES, b"x" * SIZE)) for name in names]
        crowd = LoadGenerator(server.port, bodies)
        crowd.run(load)
        server.kill()
        # Responses sent before the kill are read and counted.
        crowd.run(5.0)
        crowd.close()
    server = trial.start(home)
    try:
        seconds = server.await_answer(ROOT + names[0], RESTART_SECONDS)
        with Client(server.port) as client:
            for name, talk in zip(names, crowd.all, strict=True):
                there = counter.appends(empty, client.tail(name))
                totals["acknowledged"] += talk.acknowledged
                totals["lost"] += max(0, talk.acknowledged - there)
                # One more append was in flight on each connection.
                totals["doubled"] += max(0, there - talk.acknowledged - 1)
                client.append(name, b"x" * SIZE)
    finally:
        server.stop()
    return seconds
