"""Client of `driver` processes: start, requests, kill."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from typing import Any

Answer = list[Any]

_PATIENCE = 60.0
"""Timeout of a response, in seconds."""


class DriverProcess:
    """Driver process on a directory. ``opened_in`` is the time to open the store, in seconds."""

    def __init__(self, directory: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.driver", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        os.set_blocking(self._stdin.fileno(), False)
        self._rest = b""
        self._unsent = b""
        self._number = 0
        self._asked: dict[int, Answer] = {}
        opened, seconds = self.await_answers(1)[0]
        assert opened == "open"
        self.opened_in: float = seconds

    def send(self, *request: object) -> int:
        """Send a request and return its number."""
        self._number += 1
        self._unsent += json.dumps([self._number, *request]).encode() + b"\n"
        return self._number

    def answers(self, seconds: float) -> list[Answer]:
        """Return the responses until there are some, or until the timeout."""
        return self._lines(seconds)

    def ask(self, *request: object) -> Answer:
        """Send one request and return its outcome."""
        number = self.send(*request)
        (answer,) = self.await_answers(1)
        assert answer[0] == number
        return answer[1:]

    def kill(self) -> list[Answer]:
        """Kill the process and return the responses that it had sent."""
        self._process.kill()
        self._process.wait()
        os.set_blocking(self._stdout.fileno(), True)
        answers = self._parse(self._stdout.read())
        self._stdin.close()
        self._stdout.close()
        return answers

    def stop(self) -> None:
        """Stop the process cleanly."""
        self._stdin.close()
        self._process.wait(_PATIENCE)
        self._stdout.close()
        assert self._process.returncode == 0

    def resident(self) -> int:
        """Return the private memory of the process in bytes, without pages of files."""
        with open(f"/proc/{self._process.pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("the system does not say")

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def await_answers(self, number: int) -> list[Answer]:
        """Wait for at least ``count`` responses."""
        deadline = time.monotonic() + _PATIENCE
        lines: list[Answer] = []
        while len(lines) < number:
            assert time.monotonic() < deadline, "no answer"
            assert self._process.poll() is None, f"ended with {self._process.returncode}"
            lines += self._lines(1.0)
        return lines

    def _lines(self, seconds: float) -> list[Answer]:
        """Send pending requests until responses arrive or the time is up."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            writing = False
            while True:
                if bool(self._unsent) != writing:
                    writing = not writing
                    if writing:
                        selector.register(self._stdin, selectors.EVENT_WRITE)
                    else:
                        selector.unregister(self._stdin)
                left = deadline - time.monotonic()
                for key, _ in selector.select(max(left, 0)):
                    if key.fileobj is self._stdout:
                        data = os.read(self._stdout.fileno(), 2**20)
                        return self._parse(data) if data else []
                    sent = os.write(self._stdin.fileno(), self._unsent[:65536])
                    self._unsent = self._unsent[sent:]
                if left <= 0:
                    return []

    def _parse(self, data: bytes) -> list[Answer]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
