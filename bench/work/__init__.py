"""All rows of work, in the order of measurement and report."""

from __future__ import annotations

from bench.servers import STORES
from bench.work.appends import Appends, AppendsToMany
from bench.work.crash import Kills
from bench.work.idle import HalfHeads, Idle
from bench.work.live import Bursts, Delays
from bench.work.reads import CatchUps, Gets
from bench.work.row import Row
from bench.work.steady import Steady, SteadyMixed
from bench.work.streams import Creates, EmptyStarts, Starts

ROWS: tuple[Row, ...] = (
    Appends(1, ("durable",)),
    Appends(64, STORES),
    Appends(256, ("durable",)),
    AppendsToMany(),
    Steady(),
    SteadyMixed(),
    Gets(),
    CatchUps("catchup-64kb", "64 KB", 65_536),
    CatchUps("catchup-1kb", "1 KB", 1_024),
    CatchUps("catchup-100b", "100 B", 100),
    Bursts(),
    Delays(),
    Idle("idle-sse", "10,000 idle SSE subscribers", "live=sse&offset=now"),
    Idle("idle-keepalive", "10,000 idle keep-alive connections", "offset=-1"),
    HalfHeads(),
    Creates(),
    EmptyStarts(),
    Starts("start-100k", "start with 100,000 streams on disk", 100_000, False),
    Starts("start-1m", "start with 1,000,000 streams on disk", 1_000_000, True),
    Kills(),
)
