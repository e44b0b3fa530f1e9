"""Process from which workers are forked: ``python -m durable_streams_tw.service.workers.template``.

The arguments are the id of the supervisor, the directory to remove when it has ended, the module of
the workers' reactor and other modules to import. The template imports all modules once, without a
reactor or threads, so a worker is ready within milliseconds and shares the memory of the modules.
Everything else comes with the first message on the worker's pair. Signals are the supervisor's: a
worker stops by message, or when the supervisor has ended.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Final

from durable_streams_tw.service.preload import preload
from durable_streams_tw.service.workers.parent import (
    await_adoption,
    call_without_parent,
    end_with_parent,
)
from durable_streams_tw.service.workers.worker_process import CONTROL

_REACTOR: Final = "twisted.internet.reactor"


def main() -> None:
    """Fork workers until the supervisor has ended; run a worker in each fork."""
    # A terminal and systemd send signals to all processes, but the supervisor stops them in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, supervisor, directory, reactor_module, *modules = sys.argv

    def clean() -> None:
        shutil.rmtree(directory, ignore_errors=True)

    call_without_parent(int(supervisor), clean)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _import(reactor_module, *modules)
    pair = fork_workers(socket.socket(fileno=CONTROL))
    if pair is None:
        clean()
    else:
        import_module(reactor_module).install()
        from twisted.internet import reactor

        from durable_streams_tw.service.workers.worker import run_worker

        run_worker(reactor, pair)


def _import(*modules: str) -> None:
    # Klein imports the reactor and would install one, whose descriptors all workers would share.
    sys.modules[_REACTOR] = ModuleType(_REACTOR)
    from durable_streams_tw.service.workers import worker  # noqa: F401

    for name in modules:
        # A worker reports that an optional package is not installed.
        with suppress(ImportError):
            import_module(name)
    preload()
    del sys.modules[_REACTOR]
    # The garbage collector would write to, and thus copy, the memory that workers share.
    gc.collect()
    gc.freeze()


def fork_workers(control: socket.socket) -> socket.socket | None:
    """Fork a worker for each pair that arrives.

    Return its pair in a worker, and None in this process once the supervisor has ended.
    """
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return None
        if not descriptors:
            # The system had none left. The supervisor finds the pair closed.
            continue
        pair = socket.socket(fileno=descriptors[0])
        child = os.fork()
        if child:
            pair.close()
            os.waitpid(child, 0)
            continue
        child = os.getpid()
        if os.fork():
            # The worker becomes an orphan, which the supervisor adopts.
            os._exit(0)
        # A process that is suspended during the adoption must continue when the supervisor ends.
        end_with_parent(signal.SIGCONT)
        await_adoption(child)
        end_with_parent(signal.SIGKILL)
        control.close()
        return pair


if __name__ == "__main__":
    main()
