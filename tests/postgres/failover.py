"""Kill the primary of a synchronous pair under load and promote its standby.

    python -m tests.postgres.failover --rounds 10

Twenty producers write to ten streams at two nodes, readers follow them. Every acknowledged append
must be in its stream once and in order, and every reader must have received the stream's bytes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

from tests.postgres.cluster import USER, Cluster, running_cluster
from tests.postgres.nodes import Node
from tests.traffic import Traffic

STREAMS = 10
# Messages of each producer before the primary is killed, and after the promotion.
MESSAGES = 25


def pair_url(*clusters: Cluster) -> str:
    """Return the URL of the one of several servers that accepts writes."""
    query = {
        "host": ",".join("127.0.0.1" for _ in clusters),
        "port": ",".join(str(cluster.port) for cluster in clusters),
        "user": USER,
    }
    return f"postgresql:///postgres?{urlencode(query)}"


def run_round(directory: Path, version: int | None = None) -> tuple[list[str], str]:
    """Run one failover; return everything that is wrong, and the totals in one line."""
    with running_cluster(version, durable=True) as primary, ExitStack() as stack:
        standby = primary.add_standby()
        stack.callback(standby.remove)
        nodes = [
            Node(directory, name, pair_url(primary, standby), "--database-timeout", "30s")
            for name in ("one", "two")
        ]
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        traffic = Traffic([node.port for node in nodes], STREAMS, f"failover{os.getpid()}")
        traffic.start()
        traffic.await_progress(MESSAGES)
        primary.kill()
        killed = time.monotonic()
        standby.promote()
        promoted = time.monotonic() - killed
        traffic.await_progress(MESSAGES)
        wrong = traffic.finish()
        if count := standby.deadlocks():
            wrong.append(f"{count} deadlocks")
        for node in nodes:
            if (status := node.stop()) != -signal.SIGTERM:
                wrong.append(f"node {node.name} exited with {status}")
            wrong += node.complaints()
        return wrong, f"promoted after {promoted:.2f} s; {traffic.report()}"


def main() -> int:
    """Run the rounds; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--version", type=int, help="major version of PostgreSQL")
    arguments = parser.parse_args()
    failed = 0
    for number in range(1, arguments.rounds + 1):
        with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
            wrong, report = run_round(Path(folder), arguments.version)
        print(f"round {number}: {report}", flush=True)
        for sentence in wrong:
            print(f"round {number}: WRONG: {sentence}", flush=True)
        failed += bool(wrong)
    print(f"{arguments.rounds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
