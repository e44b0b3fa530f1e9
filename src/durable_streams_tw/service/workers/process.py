"""Entry point of a worker process: ``python -m durable_streams_tw.service.workers.process``.

The argument is the module of its reactor. Everything else comes with the first message on the
pair, for which a spare process waits. Signals are the supervisor's: a worker stops by message, or
when the supervisor has ended.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module

from durable_streams_tw.service.workers.parent import end_with_parent


def main() -> None:
    """Run a worker."""
    # A terminal and systemd send signals to all processes, but the supervisor stops them in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    import_module(sys.argv[1]).install()
    from twisted.internet import reactor

    # Imported now, while the supervisor waits for other workers, or for a worker to fail.
    from durable_streams_tw.service.workers.worker import run_worker

    run_worker(reactor)


if __name__ == "__main__":
    main()
