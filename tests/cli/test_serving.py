"""Tests of ``dev`` and ``run`` as processes."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import sys
import time
from io import BufferedReader

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.dev import greeting
from tests.cli.test_commands import run_program
from tests.service.black_box import PATIENCE, ROOT, Foreground, ask, new_directory

CALL = [sys.executable, "-c", "from durable_streams_tw.cli.commands import main; main()"]


class ServingTestCase(SynchronousTestCase):
    """Test case with a working directory."""

    def setUp(self) -> None:
        self.directory = new_directory(self)

    def start(self, *arguments: str, **variables: str) -> Foreground:
        """Return a process of the command, which starts when the block is entered."""
        return Foreground(self.directory, line=[*CALL, *arguments], variables=variables)


class DevTests(ServingTestCase):
    """``dev``."""

    def test_dev(self) -> None:
        """``dev`` keeps streams in memory, listens on loopback, ignores the environment, and exits
        with 0 on Ctrl-C.
        """
        with self.start("dev", "--port=0", DURABLE_STREAMS_DATA_DIR="kept") as dev:
            self.assertIn("http://127.0.0.1:", dev.log)
            self.assertEqual(ask(dev.port, "PUT", "a", b"x")[0], 201)
            self.assertEqual(ask(dev.port, "GET", "a"), (200, b"x"))
            self.assertEqual(dev.stop(signal.SIGINT), 0)
        self.assertEqual(list(self.directory.iterdir()), [])
        self.assertNotIn("Traceback", dev.log)
        # The log contains requests only.
        events = [line for line in dev.log.splitlines() if "[" in line]
        self.assertEqual(
            [line.split()[3:6] for line in events],
            [["PUT", f"{ROOT}a", "201"], ["GET", f"{ROOT}a", "200"]],
        )

    def test_dev_options(self) -> None:
        """``dev --data-dir`` stores streams, and ``--interface`` sets the address."""
        for status in (201, 200):
            with self.start("dev", "--port=0", "--data-dir=kept", "--interface=0.0.0.0") as dev:
                self.assertEqual(ask(dev.port, "PUT", "a", b"x")[0], status)
                self.assertEqual(dev.stop(signal.SIGINT), 0)
            self.assertIn("Streams are stored in", dev.log)

    def follow(self, port: int) -> BufferedReader:
        """Return an SSE response after its first event."""
        ask(port, "PUT", "a")
        reader = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.addCleanup(reader.close)
        head = f"GET {ROOT}a?offset=now&live=sse HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader.sendall(head.encode())
        events = reader.makefile("rb")
        line = b"\n"
        while line and not line.startswith(b"data:"):
            line = events.readline()
        return events

    def test_streams_end(self) -> None:
        """On Ctrl-C, SSE responses end as complete."""
        with self.start("dev", "--port=0") as dev:
            events = self.follow(dev.port)
            dev.signal(signal.SIGINT)
            self.assertTrue(events.read().endswith(b"0\r\n\r\n"))
            self.assertEqual(dev.wait(), 0)

    def test_second_interrupt(self) -> None:
        """A second Ctrl-C ends the process at once, with requests pending."""
        with self.start("dev", "--port=0") as dev:
            # A body without an end.
            writer = socket.create_connection(("127.0.0.1", dev.port), PATIENCE)
            self.addCleanup(writer.close)
            head = f"PUT {ROOT}b HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            writer.sendall(f"{head}Content-Length: 10\r\n\r\n".encode())
            self.assertIn(b"100", writer.recv(64))
            events = self.follow(dev.port)
            dev.signal(signal.SIGINT)
            # The response has ended, so the stop has begun.
            events.read()
            self.assertEqual(dev.stop(signal.SIGINT), -signal.SIGINT)

    def test_greeting(self) -> None:
        """The greeting has curl commands that work in a shell."""
        url = "http://127.0.0.1:4437/v1/stream/"
        text = greeting(url, None, console=True)
        self.assertIn("\n  http://127.0.0.1:4437/\n", text)
        self.assertIn("Streams are in memory", text)
        stored = greeting(url, "/data", console=False)
        self.assertNotIn("console", stored)
        self.assertIn("Streams are stored in /data.", stored)
        lines = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
        self.assertEqual(len(lines), 4)
        for line in lines:
            (target,) = [word for word in shlex.split(line) if word.startswith("http")]
            self.assertTrue(target.startswith(url + "hello"), target)

    def test_taken_port(self) -> None:
        """A port in use is reported in one line, with exit status 1."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            done = run_program("dev", "--port", port)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        (line,) = done.stderr.splitlines()
        self.assertIn(f"Error: Cannot listen on port {port} of 127.0.0.1: ", line)


class RunTests(ServingTestCase):
    """``run``."""

    def test_run(self) -> None:
        """`run` reads file, options and environment; stored streams survive a restart."""
        (self.directory / "streams.toml").write_text('port = 0\ndata-dir = "data"\nroot = "/r"\n')
        arguments = ("run", "--config=streams.toml", f"--root={ROOT}")
        variables = {"DURABLE_STREAMS_INTERFACE": "127.0.0.1"}
        for number, code in ((signal.SIGTERM, 201), (signal.SIGINT, 200)):
            with self.start(*arguments, **variables) as run:
                self.assertIn("http://127.0.0.1:", run.log)
                self.assertEqual(ask(run.port, "PUT", "a", b"x")[0], code)
                self.assertEqual(ask(run.port, "GET", "a"), (200, b"x"))
                self.assertEqual(run.stop(number), 0)
            self.assertIn(
                f"stored in {self.directory / 'data'}, authentication off, "
                "reachable from this machine",
                run.log,
            )
            self.assertNotIn("Traceback", run.log)
            self.assertNotIn("Unhandled", run.log)

    def test_repeated_signals(self) -> None:
        """Further SIGTERMs until the process has ended do not change the exit status."""
        with self.start("run", "--port=0", "--interface=127.0.0.1", "--data-dir=data") as run:
            for _ in range(80):
                run.signal(signal.SIGTERM)
                time.sleep(0.005)
            self.assertEqual(run.wait(), 0)

    def test_invalid_settings(self) -> None:
        """Invalid settings exit with status 2 and one line."""
        path = self.directory / "streams.toml"
        path.write_text("port = 0\nmax_body = 1\n")
        done = run_program("run", f"--config={path}")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertEqual(
            done.stderr,
            f"Error: {path}, line 2: unknown setting 'max_body'. Did you mean 'max-body'?\n",
        )

    def test_directory_in_use(self) -> None:
        """A data directory in use is reported in one line, with exit status 1."""
        arguments = ("run", "--port=0", "--interface=127.0.0.1", "--data-dir", "data")
        with self.start(*arguments) as run:
            data = str(self.directory / "data")
            done = run_program("run", "--port=0", "--interface=127.0.0.1", "--data-dir", data)
            self.assertEqual(done.returncode, 1, done)
            (line,) = done.stderr.splitlines()
            self.assertRegex(line, "^Error: .*in use")
            self.assertNotIn("Traceback", done.stdout)
            self.assertEqual(ask(run.port, "PUT", "a")[0], 201)
