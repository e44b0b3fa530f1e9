"""Server process with producers, for tests that kill it or break its disk."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from twisted.trial.unittest import SynchronousTestCase

from tests.ports import await_port, free_port
from tests.storage.durable.store_case import scratch_directory

PATIENCE = 30.0
"""Timeout of a response and of the end of a process, in seconds."""


class Server:
    """``twistd -n durable-streams`` on a free port of this machine.

    ``environment`` is added to that of this process.
    """

    def __init__(self, directory: str, **environment: str) -> None:
        self.port = free_port()
        self._log = os.path.join(os.path.dirname(directory), "log")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("twistd"),
                    *("--pidfile=", "-n", "durable-streams", "--data-dir", directory),
                    *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        await_port(self.port, self._process, self.log)

    def request(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes, str]:
        """Send one request on a new connection; return status, body and Stream-Next-Offset."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, target, body, {"Content-Type": "text/plain"})
            response = connection.getresponse()
            return response.status, response.read(), response.getheader("Stream-Next-Offset", "")
        finally:
            connection.close()

    def content(self, path: str) -> bytes:
        """Return the content of a stream."""
        found, offset = b"", "-1"
        while True:
            status, data, offset = self.request("GET", f"/v1/stream/{path}?offset={offset}")
            assert status == 200, (path, status, data)
            if not data:
                return found
            found += data

    @contextmanager
    def load(self, producers: Sequence[Producer]) -> Iterator[None]:
        """Let producers append during the block."""
        go_on = Event()
        go_on.set()
        threads = [Thread(target=one.run, args=(self.port, go_on)) for one in producers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            go_on.clear()
            for thread in threads:
                thread.join()

    def log(self) -> str:
        """Return the log."""
        with open(self._log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the process with SIGTERM."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        assert "The server has stopped" in self.log(), self.log()
        assert "Traceback" not in self.log(), self.log()[-4000:]


@dataclass
class Producer:
    """Client with a connection of its own and one request at a time."""

    name: str
    path: str
    acknowledged: int = 0

    def post(self, connection: http.client.HTTPConnection) -> int:
        """Send the next message and return the status. Raise the connection's error if the server
        dies.
        """
        connection.request(
            "POST",
            f"/v1/stream/{self.path}",
            f"{self.name}:{self.acknowledged};".encode(),
            {
                "Content-Type": "text/plain",
                "Producer-Id": self.name,
                "Producer-Epoch": "0",
                "Producer-Seq": str(self.acknowledged),
            },
        )
        response = connection.getresponse()
        response.read()
        self.acknowledged += response.status in (200, 204)
        return response.status

    def run(self, port: int, go_on: Event) -> None:
        """Send messages until the server is gone."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with suppress(OSError, http.client.HTTPException):
            while go_on.is_set():
                self.post(connection)
        connection.close()

    def stored(self, server: Server) -> int:
        """Return the number of its messages in the stream, which must be whole and in order."""
        *messages, rest = server.content(self.path).split(b";")
        assert not rest, rest
        own = [message for message in messages if message.startswith(f"{self.name}:".encode())]
        assert own == [f"{self.name}:{number}".encode() for number in range(len(own))], own
        return len(own)


class ServerCase(SynchronousTestCase):
    """Test case with a directory for the data of a server."""

    def setUp(self) -> None:
        scratch = scratch_directory(self)
        self.directory = os.path.join(scratch, "data")

    def start(self) -> tuple[Server, list[Producer]]:
        """Start a server; return it with eight producers, four of them on one stream."""
        server = Server(self.directory)
        producers = [Producer(f"p{n}", "shared" if n < 4 else f"own{n}") for n in range(8)]
        for path in {producer.path for producer in producers}:
            self.assertEqual(server.request("PUT", f"/v1/stream/{path}")[0], 201)
        return server, producers
