"""Ten thousand connections that are idle, or that never complete their request."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.client import BYTES, ROOT, TEXT, Client
from bench.figures import Figure
from bench.held import Held, answered, unanswered
from bench.work.appends import to_one
from bench.work.row import Row, Settings, Trial, Unmeasurable

COUNT = 10_000
# Includes the comments that some servers write to idle event streams every 15 s.
IDLE_SECONDS = 15.0
SETTLE_SECONDS = 1.0
# A server may time out an incomplete head (ours after 10 s): the load must end before.
HALF_SECONDS = 4.0
KIB = 1024


class Idle(Row):
    """Connections that stay open after a response."""

    needs_wrk = False
    stores = ("durable",)
    figures = (
        Figure("memory", "memory each", "KiB", "less"),
        Figure("cpu", "CPU while idle", "%", "less"),
        Figure("open", "still open", "", "context"),
        Figure("opening", "opened", "/s", "context"),
    )

    def __init__(self, name: str, title: str, query: str) -> None:
        self.name = name
        self.title = title
        self._request = _head(f"GET {ROOT}idle?{query} HTTP/1.1") + b"\r\n"

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure the memory per connection and the CPU over 15 s."""
        with trial.server() as server, Client(server.port) as client:
            client.create("idle", TEXT)
            client.append("idle", b"something to read", TEXT)
            client.catch_up("idle")
            before = server.resident()
            count, held = _hold(trial.settings, server.port, self._request, answered)
            try:
                opening = held.open(count)
                time.sleep(SETTLE_SECONDS)
                resident = server.resident()
                used, begun = server.cpu(), time.perf_counter()
                time.sleep(IDLE_SECONDS * min(1.0, trial.settings.scale))
                used, lasted = server.cpu() - used, time.perf_counter() - begun
                still = held.still_open()
            finally:
                held.close()
        return {
            "memory": (resident - before) / count / KIB,
            "cpu": 100 * used / lasted,
            "open": still,
            "opening": count / opening,
        }


class HalfHeads(Row):
    """Incomplete heads, while others append."""

    name = "half-heads"
    title = "10,000 half-sent heads, beside appends over 64 connections"
    stores = ("memory",)
    figures = (
        Figure("share", "of the usual speed", "%", "more"),
        Figure("rate", "appends beside them", "/s", "more"),
        Figure("usual", "appends without them", "/s", "context"),
        Figure("open", "still open", "", "context"),
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure the load without them and with them."""
        seconds = min(trial.settings.seconds, HALF_SECONDS)
        with trial.server() as server, Client(server.port) as client:
            usual = to_one(server, client, 64, seconds).load.rate
        request = _head(f"POST {ROOT}half HTTP/1.1") + f"Content-Type: {BYTES[:8]}".encode("ascii")
        with trial.server() as server, Client(server.port) as client:
            count, held = _hold(trial.settings, server.port, request, unanswered)
            try:
                held.open(count)
                rate = to_one(server, client, 64, seconds).load.rate
                still = held.still_open()
            finally:
                held.close()
        return {"share": 100 * rate / usual, "rate": rate, "usual": usual, "open": still}


def _head(line: str) -> bytes:
    return f"{line}\r\nHost: 127.0.0.1\r\n".encode("ascii")


def _hold(
    settings: Settings, port: int, request: bytes, ready: Callable[[bytes], bool]
) -> tuple[int, Held]:
    count = settings.scaled(COUNT)
    if settings.files < count + 200:
        raise Unmeasurable(f"{count} connections need more open files than {settings.files}")
    return count, Held(port, request, ready)
