"""Server as a child process: started, measured through /proc, stopped or killed."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 20.0
# Seconds between two requests to a starting server.
GLANCE = 0.002
TICKS = os.sysconf("SC_CLK_TCK")


class Fault(Exception):
    """A server did not start, or exited by itself."""


class Process:
    """Running server.

    Start-up is timed from the start of the process to the first answer of status 200 or 404.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        port: int,
        log: Path,
        profile: Path | None = None,
    ) -> None:
        self.port = port
        self.log = log
        self._profiler: subprocess.Popen[bytes] | None = None
        self._started = time.perf_counter()
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                list(command),
                cwd=log.parent,
                env=dict(os.environ) | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if profile is not None:
            self._profiler = subprocess.Popen(
                [
                    "py-spy",
                    "record",
                    "-r250",
                    "-d86400",
                    "-o",
                    str(profile),
                    "-p",
                    str(self._child.pid),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def await_answer(self, path: str, within: float) -> float:
        """Wait for a response to HEAD ``path``; return the seconds since the start.

        Raise `Fault` if that takes longer than ``within`` seconds, or the server exits.
        """
        while time.perf_counter() - self._started < within:
            if self._child.poll() is not None:
                raise Fault(f"ended at its start with code {self._child.returncode}: {self.last()}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=within)
            try:
                connection.request("HEAD", path)
                status = connection.getresponse().status
            except OSError:
                time.sleep(GLANCE)
            else:
                if status in (200, 404):
                    return time.perf_counter() - self._started
                time.sleep(GLANCE)
            finally:
                connection.close()
        raise Fault(f"no response within {within:g} s of its start")

    @property
    def alive(self) -> bool:
        """Return True if the process runs."""
        return self._child.poll() is None

    def cpu(self) -> float:
        """Return the CPU time of all threads, in seconds."""
        fields = self._read("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> int:
        """Return the resident memory, in bytes."""
        return self._kibibytes("VmRSS")

    def anonymous(self) -> int:
        """Return the anonymous resident memory, in bytes."""
        return self._kibibytes("RssAnon")

    def mapped(self) -> int:
        """Return the resident memory of mapped files, in bytes."""
        return self._kibibytes("RssFile")

    def peak(self) -> int:
        """Return the peak resident memory since the start or `forget_peak`, in bytes."""
        return self._kibibytes("VmHWM")

    def forget_peak(self) -> None:
        """Reset the peak to the current resident memory."""
        Path(f"/proc/{self._child.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        """Stop the server with SIGTERM, then SIGKILL if it takes too long."""
        if self._profiler is not None:
            self._profiler.send_signal(signal.SIGINT)
            self._profiler.wait(STOP_SECONDS)
        if self.alive:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._child.kill()
        self._child.wait()

    def last(self) -> str:
        """Return the end of its output, in one line."""
        text = self.log.read_text("utf-8", "replace").strip()
        return " / ".join(text.splitlines()[-3:])[-300:]

    def _kibibytes(self, name: str) -> int:
        for line in self._read("status").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise Fault(f"there is no {name} of the server's process")

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self._child.pid}/{name}").read_text()
        except OSError as error:
            raise Fault(f"the server is gone: {self.last()}") from error


def can_profile() -> bool:
    """Return True if py-spy can be run."""
    return shutil.which("py-spy") is not None
