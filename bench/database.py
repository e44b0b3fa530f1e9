"""Measure durable appends into PostgreSQL through the committer, from one thread a node.

    python -m bench.database --streams 10000 --batch 256 --seconds 6
    python -m bench.database --nodes 2 --producers

Without ``--database`` it runs a PostgreSQL of its own that flushes to disk, which needs the
requirements of the tests. Prints appends per second, the duration of a batch, CPU time of this
process and of PostgreSQL per append, and what was deferred or repeated. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time

from durable_streams_tw.protocol.limits import MIB
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.service.process_tuning import tune
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.postgres.committer import Committer
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect
from durable_streams_tw.storage.postgres.deadline_guard import DeadlineGuard
from durable_streams_tw.storage.postgres.migrations import migrate
from durable_streams_tw.storage.postgres.notifications import channel_of, encode_hints
from durable_streams_tw.storage.postgres.packing import PackingQueue
from durable_streams_tw.storage.postgres.session import NodeSession

TYPE = "application/octet-stream"
_TICK = os.sysconf("SC_CLK_TCK")


def now() -> int:
    """Return ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def make_committer(settings: DatabaseSettings, name: str, notifying: bool) -> Committer:
    """Return the main committer of a node."""
    session = NodeSession(settings, name, 0, now, DeadlineGuard())
    return Committer(
        session,
        AccessTimes(),
        now,
        channel=channel_of(settings),
        hints=lambda ids: encode_hints(name, set(ids)) if notifying else [],
        packing=PackingQueue(),
    )


class Writer(threading.Thread):
    """Node that appends to random streams for a time."""

    def __init__(self, committer: Committer, paths: list[str], options: argparse.Namespace) -> None:
        super().__init__()
        self.committer, self.paths, self.options = committer, paths, options
        self.durations: list[float] = []
        self.done = 0
        self._sequences: dict[str, int] = {}
        self._random = random.Random(committer.session.node)
        self._body = Body(b"x" * options.size)

    def commands(self, count: int) -> list[Command]:
        """Return appends, to different streams where there are enough."""
        few = count > len(self.paths)
        chosen = self._random.choices if few else self._random.sample
        return [self._append(path) for path in chosen(self.paths, k=count)]

    def _append(self, path: str) -> Append:
        if not self.options.producers:
            return Append(path, TYPE, self._body)
        sequence = self._sequences[path] = self._sequences.get(path, -1) + 1
        claim = ProducerClaim(self.committer.session.node, 0, sequence)
        return Append(path, TYPE, self._body, producer=claim)

    def run(self) -> None:
        """Carry out batches; each begins with the commands that the one before has deferred."""
        left: list[Command] = []
        end = time.perf_counter() + self.options.seconds
        while time.perf_counter() < end:
            batch = left + self.commands(self.options.batch - len(left))
            begun = time.perf_counter()
            result = self.committer.step(batch)
            self.durations.append(time.perf_counter() - begun)
            left = [batch[index] for index in result.waiting]
            self.done += len(result.outcomes)
            assert all(type(outcome) is Appended for outcome in result.outcomes), result.outcomes


def server_ticks(settings: DatabaseSettings) -> int:
    """Return the CPU time of PostgreSQL's processes on this machine, in clock ticks."""
    parent = _postmaster(settings)
    total = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(entry) == parent:
                # Children that have ended, too.
                total += sum(map(int, fields[11:15]))
            elif int(fields[1]) == parent:
                total += int(fields[11]) + int(fields[12])
    return total


def _postmaster(settings: DatabaseSettings) -> int:
    with connect(settings) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        with open(f"/proc/{row[0]}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("PPid"))


def create(committer: Committer, paths: list[str]) -> None:
    """Create the streams."""
    for at in range(0, len(paths), 1000):
        part = paths[at : at + 1000]
        made = committer.step([Create(path, TYPE, NO_EXPIRY, False, Body(b"")) for path in part])
        assert all(isinstance(outcome, Created) for outcome in made.outcomes), made.outcomes[:1]


def measure(settings: DatabaseSettings, options: argparse.Namespace) -> str:
    """Return a line with the figures."""
    with connect(settings) as connection:
        migrate(connection, settings, now())
    committers = [
        make_committer(settings, f"bench-{os.getpid()}-{number}", options.nodes > 1)
        for number in range(options.nodes)
    ]
    paths = [f"bench/{os.getpid()}/{number:06}" for number in range(options.streams)]
    create(committers[0], paths)
    with connect(settings) as connection:
        connection.execute("ANALYZE stream, chunk, producer")
    writers = [Writer(committer, paths, options) for committer in committers]
    for writer in writers:
        writer.committer.step(writer.commands(min(options.batch, len(paths))))
    ticks, own, begun = server_ticks(settings), time.process_time(), time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    wall = time.perf_counter() - begun
    own = time.process_time() - own
    server = (server_ticks(settings) - ticks) / _TICK
    done = sum(writer.done for writer in writers)
    durations = sorted(each for writer in writers for each in writer.durations)
    counters = [committer.counters for committer in committers]
    deferred = sum(each.deferred for each in counters)
    for committer in committers:
        committer.session.close()
    with connect(settings) as connection:
        row = connection.execute("SELECT sum(deadlocks)::int FROM pg_stat_database").fetchone()
    return (
        f"{options.nodes} nodes, {options.streams} streams, batches of {options.batch}"
        f"{', producers' if options.producers else ''}: {done / wall:,.0f} appends/s; "
        f"batch p50 {durations[len(durations) // 2] * 1e3:.1f} ms, "
        f"p99 {durations[int(len(durations) * 0.99)] * 1e3:.1f} ms; "
        f"CPU {own / done * 1e6:.1f} us here, {server / done * 1e6:.1f} us in PostgreSQL; "
        f"deferred {deferred / done:.1%}, restarts {sum(each.restarts for each in counters)}, "
        f"repeats {sum(each.repeats for each in counters)}, deadlocks {row[0] if row else '?'}"
    )


def main() -> None:
    """Run the program."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="URL of a database that may be filled")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=100, help="bytes of an append")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--producers", action="store_true")
    options = parser.parse_args()
    tune()
    if options.database is not None:
        print(measure(DatabaseSettings(options.database, unsafe=True), options))
        return
    from tests.postgres.cluster import running_cluster

    settings = {"shared_buffers": f"{512 * MIB // 1024}kB", "max_wal_size": "4GB"}
    with running_cluster(durable=True, settings=settings) as cluster:
        print(measure(DatabaseSettings(cluster.url(tcp=True)), options))


if __name__ == "__main__":
    main()
