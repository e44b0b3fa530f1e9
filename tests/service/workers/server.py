"""Server with worker processes, observed from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.service.black_box import PATIENCE, ROOT, Foreground
from tests.service.test_twistd import TwistdTestCase

_WORKER = re.compile(
    r"(owner|template|(?:front|node)-\d+) (?:serves )?\(process (\d+)\)(?! was| exited| has)"
)


def workers_in(log: str) -> dict[str, int]:
    """Return the process ids of workers and their template, the latest if one has restarted."""
    return {name: int(pid) for name, pid in _WORKER.findall(log)}


def children_of(pid: int, *, ended: bool = False) -> list[int]:
    """Return the ids of the child processes of a process: those that run, or zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = status.rpartition(")")[2].split()[:2]
            if int(parent) == pid and (state == "Z") == ended:
                found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Return True if a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_running(pid: int) -> None:
    """Kill a process unless it has ended."""
    if is_running(pid):
        os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], object], about: Callable[[], object] = str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, about()
        time.sleep(0.02)


class WorkersTestCase(TwistdTestCase):
    """Test case with a directory, and one below it for the sockets of servers."""

    def setUp(self) -> None:
        super().setUp()
        # Not in the directory of the tests, whose path may be too long for a UNIX socket.
        self.temporary = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.temporary)

    def serve(self, *arguments: str | Path, workers: int = 2, **options: Any) -> Foreground:
        """Start a server with workers on a free port, in memory unless it has a directory."""
        if "--listen" not in arguments:
            arguments += ("--listen", "tcp:0:interface=127.0.0.1")
        variables = {"TMPDIR": str(self.temporary), **options.pop("variables", {})}
        line = ("durable-streams", f"--workers={workers}", *arguments)
        return Foreground(self.directory, *line, variables=variables, **options)

    def assert_nothing_left(self, pids: list[int]) -> None:
        """Assert that processes have ended and that the server's temporary files are gone."""
        wait_until(lambda: not any(map(is_running, pids)), lambda: pids)
        wait_until(lambda: not list(self.temporary.iterdir()))

    def kill(self, server: Foreground, name: str) -> None:
        """Kill a worker and wait until its successor serves."""
        os.kill(workers_in(server.log)[name], signal.SIGKILL)
        server.until(f"{name} serves")


class Follower:
    """SSE connection."""

    def __init__(self, port: int, path: str) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._path = path
        self.reconnect()

    def reconnect(self) -> None:
        """Connect again and follow the stream from its tail."""
        self.connection.close()
        self.connection.request("GET", f"{ROOT}{self._path}?offset=now&live=sse")
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        self.received = b""

    def until(self, expected: bytes) -> None:
        """Read until these bytes have arrived."""
        while expected not in self.received:
            line = self.response.readline()
            assert line, self.received
            self.received += line
