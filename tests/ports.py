"""Ports for servers of tests."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable

_PATIENCE = 60.0


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, process: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    """Wait until a process accepts connections at a port of 127.0.0.1.

    Raise `AssertionError` with its ``log`` if it ends before, or takes a minute.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log()
            time.sleep(0.02)
        else:
            return
