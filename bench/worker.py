"""Process of the benchmark `workers`: a front, the owner of the store, or a whole server.

python -m bench.worker ROLE CORE PORT DATA_DIR SOCKET
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from durable_streams_tw import clocks
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.epoll import nested_poll
from durable_streams_tw.service import process_tuning
from durable_streams_tw.storage.remote.store import RemoteStore


def main(role: str, core: str, port: str, data_dir: str, path: str) -> None:
    """Run one process until SIGTERM."""
    os.sched_setaffinity(0, {int(core)})
    from twisted.internet import reactor as installed

    reactor: Any = installed
    # As in the service. Other timers wake the reactor by a pipe, four system calls in each turn.
    clocks.make_monotonic(reactor)
    streams = DurableStreams(
        None if role == "front" else data_dir,
        reactor=reactor,
        store=RemoteStore(reactor, path) if role == "front" else None,
    )
    server = streams.store_server() if role == "owner" else None
    streams.startService()
    reactor.addSystemEventTrigger("before", "shutdown", streams.stopService)
    if server is not None:
        reactor.listenUNIX(path, server, mode=0o600)
    else:
        _listen(reactor, int(port), streams.http_factory())
    process_tuning.tune()
    reactor.run()


def _listen(reactor: Any, port: int, factory: Any) -> None:
    """Listen on a port that several processes share."""
    with socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(("127.0.0.1", port))
        shared.listen(1024)
        shared.setblocking(False)
        port = reactor.adoptStreamPort(shared.fileno(), socket.AF_INET, factory)
    # As the service does.
    poll = nested_poll(reactor)
    if poll is not None:
        poll.attach(port)


if __name__ == "__main__":
    main(*sys.argv[1:])
