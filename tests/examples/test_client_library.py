"""Tests of the programs in docs/client-library.md: each of them runs as it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.console_blocks import commands
from tests.examples.programs import TOP, RunningProgram, run_program
from tests.ports import free_port
from tests.service.black_box import PATIENCE, environment, new_directory

PAGE = TOP / "docs" / "client-library.md"
_FENCE = re.compile(r"```([a-z]+)\n(.*?)```", re.DOTALL)
_SERVER = "http://localhost:4437/v1/stream/"
JSON = "application/json"


class ClientLibraryTests(SynchronousTestCase):
    """Programs of the page, against one server."""

    def setUp(self) -> None:
        self.here = new_directory(self)
        server = RunningProgram(self.here, "durable-streams-server", "dev", "--port", "0")
        self.server = server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        blocks = _FENCE.findall(PAGE.read_text("utf-8"))
        self.assertEqual({kind for kind, _ in blocks}, {"sh", "python", "console"})
        self.programs = [text for kind, text in blocks if kind == "python"]
        lines = [command.line for command in commands(PAGE.read_text("utf-8"))]
        self.commands = {
            name: [line for line in lines if name in line]
            for name in ("jobs", "mailer", "invoices")
        }
        self.assertEqual(sum(map(len, self.commands.values())), len(lines))

    def ask(self, method: str, path: str, body: str = "", content_type: str = JSON) -> bytes:
        """Send a request to the server and return the body of the response."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        header = {"Content-Type": content_type} if body else {}
        connection.request(method, f"/v1/stream/{path}", body, header)
        response = connection.getresponse()
        data = response.read()
        self.assertLess(response.status, 300, data)
        connection.close()
        return data

    def shell(self, line: str) -> None:
        """Run a command of the page against this server."""
        line = line.replace(_SERVER, self.server.url).replace("curl", "curl -sSf")
        done = run_program(self.here, "sh", "-c", f"DURABLE_STREAMS_URL={self.server.url} {line}")
        self.assertEqual((line, done.returncode), (line, 0), done.stderr)

    def write(self, number: int, port: int = 8080) -> Path:
        """Write a program of the page with the URL of this server."""
        path = self.here / f"program{number}.py"
        text = self.programs[number].replace(_SERVER, self.server.url).replace("8080", str(port))
        path.write_text(text, "utf-8")
        return path

    def run_to_end(self, number: int) -> str:
        """Run a program that ends; return its output."""
        done = run_program(self.here, sys.executable, str(self.write(number)))
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return done.stdout.decode()

    @contextmanager
    def running(self, number: int, port: int = 8080) -> Iterator[subprocess.Popen[str]]:
        """Run a program that does not end by itself during the block."""
        process = subprocess.Popen(
            [sys.executable, "-u", str(self.write(number, port))],
            cwd=self.here,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def test_programs(self) -> None:
        """Each program does what the page says, in the order of the page."""
        self.assertEqual(len(self.programs), 9)
        self.assertLess(max(len(text.splitlines()) for text in self.programs[:3]), 20)
        self.follow()
        self.produce()
        self.number()
        self.work()
        self.receive(4)
        self.receive(5)
        self.assertEqual(self.run_to_end(6), "hello\n")
        said = self.run_to_end(7).strip()
        self.assertEqual(said, "404 urn:durable-streams:problem:stream-not-found")
        (self.here / "token.txt").write_text("any\n")
        self.assertEqual(self.run_to_end(8), "secret 2\n")

    def follow(self) -> None:
        for command in self.commands["jobs"]:
            self.shell(command)
        with self.running(0) as follower:
            assert follower.stdout is not None
            self.assertEqual(follower.stdout.readline(), "{'step': 1}\n")
            self.assertEqual(follower.stdout.readline(), "{'step': 2}\n")
            self.ask("POST", "jobs/1", '{"step": 3}')
            self.assertEqual(follower.stdout.readline(), "{'step': 3}\n")

    def produce(self) -> None:
        for _ in range(2):
            self.assertEqual(self.run_to_end(1), "")
        rows = [message["row"] for message in json.loads(self.ask("GET", "rows"))]
        self.assertEqual(rows, [*range(1000)] * 2)

    def number(self) -> None:
        for _ in range(2):
            self.assertEqual(self.run_to_end(2), "")
        rows = [message["row"] for message in json.loads(self.ask("GET", "changes"))]
        self.assertEqual(rows, [*range(10)])

    def work(self) -> None:
        for command in self.commands["mailer"]:
            self.shell(command)
        self.ask("PUT", "orders/17", '["tea"]')
        with self.running(3) as worker:
            assert worker.stdout is not None
            self.assertEqual(worker.stdout.readline(), "orders/17 ['tea']\n")
            self.ask("POST", "orders/17", '["milk"]')
            self.assertEqual(worker.stdout.readline(), "orders/17 ['milk']\n")

    def receive(self, number: int) -> None:
        port = free_port()
        name = f"hooks{number}"
        subscribe, append = (
            line.replace("8080", str(port)).replace("invoices", name)
            for line in self.commands["invoices"]
        )
        self.shell(subscribe)
        with self.running(number, port) as receiver:
            assert receiver.stdout is not None
            self.shell(append)
            # Klein logs what is printed, among its own lines.
            lines = iter(receiver.stdout.readline, "")
            self.assertTrue(any(line.endswith(f"{name}/1 ['hello']\n") for line in lines))
