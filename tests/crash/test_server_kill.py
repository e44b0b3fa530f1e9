"""Tests of the server process, killed under HTTP load and restarted."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.test_kill import ROUNDS, SEED
from tests.ports import await_port, free_port
from tests.storage.durable.store_case import scratch_directory
from tests.storage.fsck_assertions import assert_sound_directory

_STARTS_IN = 30.0
"""When a server that does not answer has failed (seconds): machines may be busy."""


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
        self._process.wait(_STARTS_IN)
        assert "The server has stopped" in self.log(), self.log()


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
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_STARTS_IN)
        try:
            while go_on.is_set():
                self.post(connection)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


class ServerKillTests(SynchronousTestCase):
    """Acknowledged appends over HTTP survive a crash."""

    def setUp(self) -> None:
        scratch = scratch_directory()
        self.addCleanup(shutil.rmtree, scratch)
        self.directory = os.path.join(scratch, "data")

    def request(self, server: Server, method: str, path: str) -> tuple[int, bytes, str]:
        """Send one request on a new connection; return status, body and Stream-Next-Offset."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_STARTS_IN)
        try:
            connection.request(method, f"/v1/stream/{path}", headers={"Content-Type": "text/plain"})
            response = connection.getresponse()
            body = response.read()
            return response.status, body, response.getheader("Stream-Next-Offset", "")
        finally:
            connection.close()

    def content(self, server: Server, path: str) -> bytes:
        """Return the content of a stream."""
        found, offset = b"", "-1"
        while True:
            status, data, offset = self.request(server, "GET", f"{path}?offset={offset}")
            self.assertEqual(status, 200)
            if not data:
                return found
            found += data

    def check(self, server: Server, producers: list[Producer]) -> list[int]:
        """Return the number of stored messages of each producer.

        Each must have all acknowledged messages, and at most one more, each once and in order.
        """
        stored = []
        for producer in producers:
            messages = self.content(server, producer.path).split(b";")
            self.assertEqual(messages.pop(), b"")
            own = [m for m in messages if m.startswith(producer.name.encode() + b":")]
            expected = [f"{producer.name}:{number}".encode() for number in range(len(own))]
            self.assertEqual(own, expected)
            self.assertIn(len(own), (producer.acknowledged, producer.acknowledged + 1))
            stored.append(len(own))
        return stored

    def test_producers(self) -> None:
        """Eight clients on five streams lose no acknowledged message."""
        chance = random.Random(SEED)
        producers = [Producer(f"p{n}", "shared" if n < 4 else f"own{n}") for n in range(8)]
        server = Server(self.directory)
        for path in {producer.path for producer in producers}:
            self.assertEqual(self.request(server, "PUT", path)[0], 201)
        for _ in range(max(2, ROUNDS // 2)):
            before = [producer.acknowledged for producer in producers]
            go_on = Event()
            go_on.set()
            threads = [Thread(target=p.run, args=(server.port, go_on)) for p in producers]
            for thread in threads:
                thread.start()
            while any(p.acknowledged < b + 3 for p, b in zip(producers, before, strict=True)):
                time.sleep(0.01)
            time.sleep(chance.random() * 0.2)
            server.kill()
            go_on.clear()
            for thread in threads:
                thread.join()
            assert_sound_directory(self, self.directory)
            server = Server(self.directory)
            stored = self.check(server, producers)
            for producer, number in zip(producers, stored, strict=True):
                duplicate = number > producer.acknowledged
                connection = http.client.HTTPConnection("127.0.0.1", server.port)
                self.assertEqual(producer.post(connection), 204 if duplicate else 200)
                connection.close()
            self.assertEqual(self.check(server, producers), [p.acknowledged for p in producers])
        server.stop()
        self.assertNotIn("Traceback", server.log())
        assert_sound_directory(self, self.directory)
