"""Event streams: a burst to a thousand subscribers, and a steady pace."""

from __future__ import annotations

import statistics
import time

from bench.client import TEXT, Client
from bench.figures import Figure, percentile
from bench.subscribers import Followed, Subscribers
from bench.work.row import Row, Trial

SUBSCRIBERS = 1_000
BURST = 200
PACE = 0.02
BURST_LIMIT = 60.0
MOST_BURSTS = 5
PAUSE = 0.3
CLIENT = Figure("client_cpu", "client's core", "%", "context")


class Bursts(Row):
    """Burst of 200 appends of one writer, each after the response to the last."""

    name = "sse-burst"
    title = "SSE, 1,000 subscribers, a burst of 200 appends"
    needs_wrk = False
    has_limit = True
    figures = (
        Figure("rate", "deliveries", "/s", "more"),
        Figure("answer", "writer's response p50", "ms", "less"),
        Figure("server_cpu", "server's core", "%", "context"),
        CLIENT,
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure the median of some bursts; check that each subscriber gets each append once."""
        with trial.server() as server, Client(server.port) as client:
            client.create("live", TEXT)
            count = trial.settings.scaled(SUBSCRIBERS)
            with Subscribers(server.port, "live", count) as subscribers:
                subscribers.open()
                bursts: list[Followed] = []
                used, lasted = server.cpu(), 0.0
                while not bursts or (lasted < trial.settings.seconds and len(bursts) < MOST_BURSTS):
                    time.sleep(PAUSE)
                    bursts.append(subscribers.follow(BURST, 0.0, BURST_LIMIT))
                    lasted += bursts[-1].seconds
                used = server.cpu() - used
        return {
            "rate": statistics.median(one.deliveries / one.seconds for one in bursts),
            "answer": 1e3 * statistics.median(percentile(one.answers, 0.5) for one in bursts),
            "server_cpu": 100 * used / lasted,
            "client_cpu": 100 * statistics.median(one.cpu for one in bursts),
        }


class Delays(Row):
    """Delays of deliveries, with an append every 20 ms."""

    name = "sse-delay"
    title = "SSE, 1,000 subscribers, an append every 20 ms"
    needs_wrk = False
    has_limit = True
    figures = (
        Figure("p50", "delay p50", "ms", "less"),
        Figure("p99", "delay p99", "ms", "less"),
        Figure("server_cpu", "server's core", "%", "context"),
        CLIENT,
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure; check that each subscriber gets each append once."""
        seconds = trial.settings.seconds
        with trial.server() as server, Client(server.port) as client:
            client.create("live", TEXT)
            count = trial.settings.scaled(SUBSCRIBERS)
            with Subscribers(server.port, "live", count) as subscribers:
                subscribers.open()
                used = server.cpu()
                appends = max(1, round(seconds / PACE))
                followed = subscribers.follow(appends, PACE, 30 + 5 * seconds)
                used = server.cpu() - used
        return {
            "p50": 1e3 * percentile(followed.delays, 0.5),
            "p99": 1e3 * percentile(followed.delays, 0.99),
            "server_cpu": 100 * used / followed.seconds,
            "client_cpu": 100 * followed.cpu,
        }
