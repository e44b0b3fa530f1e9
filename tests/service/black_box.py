"""twistd as a process, observed by signals, sockets and files."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

SOURCE = Path(__file__).parents[2] / "src"
PATIENCE = 60.0
ROOT = "/v1/stream/"

_URL = re.compile(r"Durable streams are at https?://[^:]+:(\d+)/")

# sd_listen_fds(3): LISTEN_PID names the process that the socket is for.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="streams")
os.execv(sys.argv[2], sys.argv[2:])
"""


def new_directory(case: SynchronousTestCase) -> Path:
    """Return a new empty directory for a test."""
    directory = Path(case.mktemp()).resolve()
    directory.mkdir()
    return directory


def command(*arguments: str | Path) -> list[str]:
    """Return a command line of twistd with the Python of the tests."""
    run = "from twisted.scripts.twistd import run; run()"
    return [sys.executable, "-c", run, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return an environment in which twistd finds the plugin without an installation."""
    paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run twistd and wait until all processes that hold its output have exited."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program with the project on its path."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def ports_in(log: str) -> list[int]:
    """Return the ports that a log names."""
    return [int(port) for port in _URL.findall(log)]


class Foreground:
    """Process of ``twistd -n`` with these arguments, or of another command, during the block.

    ``inherited`` is a listening socket that is passed as systemd passes it.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str | Path,
        ports: int = 1,
        line: list[str] | None = None,
        variables: Mapping[str, str] | None = None,
        inherited: socket.socket | None = None,
    ) -> None:
        self.log = ""
        self._wanted = ports
        self._process = subprocess.Popen(
            self._activated(inherited) + (line or command("--pidfile=", "-n", *arguments)),
            cwd=directory,
            env={**environment(), **(variables or {})},
            pass_fds=[] if inherited is None else [inherited.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # communicate() with a timeout reads the descriptor itself: a line that a buffer
            # holds already would be lost.
            bufsize=0,
        )

    @staticmethod
    def _activated(inherited: socket.socket | None) -> list[str]:
        """Return a command prefix that passes a socket as descriptor 3."""
        if inherited is None:
            return []
        return [sys.executable, "-c", _ACTIVATE, str(inherited.fileno())]

    def __enter__(self) -> Foreground:
        while len(self.ports) < self._wanted:
            self._read()
        return self

    def until(self, words: str) -> None:
        """Wait for a log line with these words that has not been read yet."""
        while words not in self._read():
            pass

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line, self.log
        self.log += line
        return line

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    @property
    def ports(self) -> list[int]:
        """Return the ports of the server, from its log."""
        return ports_in(self.log)

    @property
    def port(self) -> int:
        """Return its only port."""
        (port,) = self.ports
        return port

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process with a signal and return its exit status."""
        self.signal(number)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the exit and return the status."""
        rest, _ = self._process.communicate(timeout=PATIENCE)
        self.log += rest.decode()
        return self._process.returncode


class Daemon:
    """Process of ``twistd`` as a daemon, with a PID file and a log file."""

    def __init__(self, directory: Path, *arguments: str | Path) -> None:
        self._pidfile = directory / "twistd.pid"
        self._logfile = directory / "twistd.log"
        self._logfile.unlink(missing_ok=True)
        self.started = run(
            directory, f"--pidfile={self._pidfile}", f"--logfile={self._logfile}", *arguments
        )

    @property
    def log(self) -> str:
        """Return the log."""
        return self._logfile.read_text()

    @property
    def port(self) -> int:
        """Wait until the log has the port of the server, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not ports_in(self.log):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        (port,) = ports_in(self.log)
        return port

    @property
    def has_pidfile(self) -> bool:
        """Return True if its PID file exists."""
        return self._pidfile.exists()

    def stop(self) -> None:
        """Stop the daemon and wait for its exit."""
        if not self.has_pidfile:
            return
        number = int(self._pidfile.read_text())
        os.kill(number, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        # The daemon is not a child process, so wait for its PID file and socket to disappear.
        while self.has_pidfile or Path(f"/proc/{number}").exists():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str = "text/plain",
    **header: str,
) -> tuple[int, bytes]:
    """Send one request; return status and body of the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        fields = {name.replace("_", "-"): value for name, value in header.items()}
        connection.request(method, ROOT + path, body, {"Content-Type": content_type, **fields})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
