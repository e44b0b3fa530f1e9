"""Append 16 MiB over a slow link to the database, beside a node that ends frozen sessions.

    python -m tests.postgres.slow_link [--rate MIB_PER_SECOND]

The body takes longer than `MAX_IDLE_TRANSACTION` and the timeout of writes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import react

from durable_streams_tw.protocol.limits import MIB
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.storage.postgres.connection import DatabaseSettings
from durable_streams_tw.storage.postgres.store import PostgresStore
from durable_streams_tw.storage.shared.executor import ThreadExecutor
from tests.postgres.cluster import shared_cluster
from tests.postgres.fault_proxy import FaultProxy
from tests.storage.store_case import post, put

SIZE = 16 * MIB


@inlineCallbacks
def append(rate: float) -> Generator[Deferred[Any], Any, None]:
    """Append through a proxy that forwards ``rate`` bytes a second; print the duration."""
    cluster = shared_cluster()
    name = cluster.create_database()
    direct = DatabaseSettings(cluster.url(name), unsafe=True)
    with FaultProxy(cluster.port) as proxy:
        clock: Any = reactor
        slow, other = (
            PostgresStore(settings, clock, *(ThreadExecutor(reactor) for _ in range(3)))
            for settings in (replace(direct, url=cluster.url(name, port=proxy.port)), direct)
        )
        slow.open()
        other.open()
        try:
            yield slow.submit(put())
            proxy.throttle(rate)
            begun = time.monotonic()
            outcome = yield slow.submit(post(b"x" * SIZE, producer=("p", 0, 0)))
            took = time.monotonic() - begun
            proxy.throttle(0)
            assert isinstance(outcome, Appended) and not outcome.duplicate, outcome
            chunk = yield other.read("a", 0, SIZE)
            assert len(chunk.data) == SIZE
            connections = proxy.opened
        finally:
            yield gatherResults([slow.close(), other.close()])
    sys.stdout.write(f"{SIZE // MIB} MiB in {took:.1f} s, over {connections} connections\n")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1.0, help="MiB per second (default: 1)")
    options = parser.parse_args()
    react(lambda _: append(options.rate * MIB))


if __name__ == "__main__":
    main()
