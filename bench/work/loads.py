"""Load by wrk on one server, after a warm-up, with the CPU shares of both cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import wrk
from bench.figures import Figure
from bench.process import Process

WARM_UP = 1.0

#: The arguments of ``load.lua`` for the slice of a load with this number.
Arguments = Callable[[int], Sequence[str]]

CONTEXT = (
    Figure("p50", "response p50", "ms", "context"),
    Figure("p99", "response p99", "ms", "context"),
    Figure("server_cpu", "server's core", "%", "context"),
    Figure("load_cpu", "load's core", "%", "context"),
)


@dataclass(frozen=True)
class Loaded:
    """Load, the number of responses including the warm-up, and figures."""

    load: wrk.Load
    answered: int
    under_way: int
    figures: dict[str, float]


def run(
    server: Process,
    target: str,
    connections: int,
    seconds: float,
    arguments: Sequence[str],
    warm_up: Sequence[str] | None = None,
) -> Loaded:
    """Load a server; ``target`` is a path, ``arguments`` are those of ``load.lua``.

    ``warm_up`` are the arguments of the warm-up, if its requests cannot be repeated.
    """
    url = f"http://127.0.0.1:{server.port}{target}"
    warm = wrk.run(url, connections, WARM_UP, *(warm_up or arguments))
    before = server.cpu()
    load = wrk.run(url, connections, seconds, *arguments)
    used = server.cpu() - before
    figures = {
        "rate": load.rate,
        "p50": load.p50,
        "p99": load.p99,
        "server_cpu": 100 * used / load.seconds,
        "load_cpu": 100 * load.cpu,
    }
    return Loaded(load, warm.requests + load.requests, 2 * connections, figures)
