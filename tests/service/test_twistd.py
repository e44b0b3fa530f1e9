"""Tests of ``twistd durable-streams`` as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import (
    PATIENCE,
    ROOT,
    Daemon,
    Foreground,
    ask,
    command,
    new_directory,
    run,
)

ANYWHERE = ("--listen", "tcp:0:interface=127.0.0.1")

TWO = """
from twisted.application.service import Application
from durable_streams_tw.service.make_service import Options, makeService

application = Application("two")
for arguments in (["--data-dir", "data"], ["--root", "/v1/stream"]):
    options = Options()
    options.parseOptions(["--listen", "tcp:0:interface=127.0.0.1", *arguments])
    makeService(options).setServiceParent(application)
"""


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TwistdTestCase(SynchronousTestCase):
    """Test case with a working directory."""

    def setUp(self) -> None:
        self.directory = new_directory(self)

    def assert_clean(self, log: str) -> None:
        """Assert that a log has no errors, and that the service stopped."""
        self.assertIn("The server has stopped", log)
        self.assertNotIn("Traceback", log)
        self.assertNotIn("Unhandled", log)


class ForegroundTests(TwistdTestCase):
    """``twistd -n``."""

    def test_memory(self) -> None:
        """Without a data directory streams are in memory, and the log says so."""
        with Foreground(self.directory, "durable-streams", *ANYWHERE) as server:
            self.assertEqual(ask(server.port, "PUT", "a")[0], 201)
            self.assertEqual(ask(server.port, "POST", "a", b"first line")[0], 204)
            self.assertEqual(ask(server.port, "GET", "a"), (200, b"first line"))
            self.assertEqual(ask(server.port, "PATCH", "a")[0], 405)
            self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertIn("lost at exit", server.log)
        self.assert_clean(server.log)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_durable(self) -> None:
        """With a data directory bytes, closed states and producers survive a restart."""
        options = ("durable-streams", "--data-dir", "data", *ANYWHERE)
        batch = {"Producer_Id": "p", "Producer_Epoch": "0", "Producer_Seq": "0"}
        with Foreground(self.directory, *options) as server:
            ask(server.port, "PUT", "a")
            self.assertEqual(ask(server.port, "POST", "a", b"first line", **batch)[0], 200)
            self.assertEqual(ask(server.port, "PUT", "b", b"x", Stream_Closed="true")[0], 201)
            self.assertEqual(server.stop(signal.SIGINT), -signal.SIGINT)
        self.assertNotIn("lost at exit", server.log)
        self.assert_clean(server.log)
        with Foreground(self.directory, *options) as server:
            self.assertEqual(ask(server.port, "POST", "a", b"first line", **batch)[0], 204)
            self.assertEqual(ask(server.port, "GET", "a"), (200, b"first line"))
            self.assertEqual(ask(server.port, "POST", "b", b"y")[0], 409)
        self.assert_clean(server.log)

    def test_live_reads_end(self) -> None:
        """On a stop, long-polls get responses and SSE responses end as complete."""
        with Foreground(self.directory, "durable-streams", *ANYWHERE) as server:
            ask(server.port, "PUT", "a")
            readers = []
            for mode in ("long-poll", "sse"):
                reader = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
                self.addCleanup(reader.close)
                head = f"GET {ROOT}a?offset=now&live={mode} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                reader.sendall(head.encode())
                readers.append(reader.makefile("rb"))
            long_poll, events = readers
            line = b""
            while not line.startswith(b"data:"):
                line = events.readline()
            # The first request is complete, since the second one has its response.
            server.signal(signal.SIGTERM)
            answer, rest = long_poll.read(), events.read()
            server.wait()
        self.assertTrue(answer.startswith(b"HTTP/1.1 204 "), answer)
        self.assertTrue(rest.endswith(b"0\r\n\r\n"), rest)
        self.assert_clean(server.log)

    def test_two_signals(self) -> None:
        """A second signal that arrives before the stop begins changes nothing."""
        with Foreground(self.directory, "durable-streams", *ANYWHERE) as server:
            for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
                server.signal(number)
            self.assertEqual(server.wait(), -signal.SIGTERM)
        self.assert_clean(server.log)

    def test_asyncio(self) -> None:
        """The server runs on asyncio's reactor."""
        with Foreground(
            self.directory, "--reactor=asyncio", "durable-streams", "--data-dir=d", *ANYWHERE
        ) as server:
            self.assertIn("asyncio", server.log)
            self.assertEqual(ask(server.port, "PUT", "a", b"x")[0], 201)
            self.assertEqual(ask(server.port, "GET", "a"), (200, b"x"))
        self.assert_clean(server.log)

    def test_two_in_one_process(self) -> None:
        """Two services in one process share no state."""
        (self.directory / "two.tac").write_text(TWO)
        with Foreground(self.directory, "-y", "two.tac", ports=2) as server:
            first, second = server.ports
            self.assertEqual(ask(first, "PUT", "a", b"x")[0], 201)
            self.assertEqual(ask(second, "GET", "a")[0], 404)
            self.assertEqual(ask(second, "PUT", "a", b"y")[0], 201)
            self.assertEqual(ask(first, "GET", "a"), (200, b"x"))
        self.assert_clean(server.log)

    def test_help(self) -> None:
        """twistd lists the service, and its help lists the options."""
        listed = run(self.directory, "--help")
        self.assertIn("durable-streams", listed.stdout)
        told = run(self.directory, "durable-streams", "--help")
        self.assertEqual(told.returncode, 0)
        self.assertIn("--data-dir", told.stdout)

    def test_usage(self) -> None:
        """A usage error is reported in one line."""
        (self.directory / "a.toml").write_text("# Mine.\nlong-poll-timeout = 'soon'\n")
        for argument, named in {
            "--long-poll-timeout=soon": "--long-poll-timeout",
            "--config=a.toml": "a.toml, line 2: long-poll-timeout",
            "--nonsense": "--nonsense",
        }.items():
            result = run(self.directory, "-n", "durable-streams", argument)
            self.assertEqual(result.returncode, 1)
            (line,) = result.stderr.splitlines()
            self.assertTrue(line.startswith("durable-streams: "), line)
            self.assertIn(named, line)
            self.assertEqual(result.stdout, "")


class DaemonTests(TwistdTestCase):
    """``twistd`` without ``-n``."""

    def test_daemon(self) -> None:
        """The daemon accepts connections when twistd has returned, stops by signal, and
        restarts.
        """
        # A relative directory: twistd changes its working directory.
        (self.directory / "elsewhere").mkdir()
        arguments = ("--rundir=elsewhere", "durable-streams", "--data-dir", "data", *ANYWHERE)
        daemon = Daemon(self.directory, *arguments)
        self.addCleanup(daemon.stop)
        self.assertEqual(daemon.started.returncode, 0, daemon.started)
        self.assertEqual(daemon.started.stderr, "")
        self.assertEqual(ask(daemon.port, "PUT", "a", b"kept")[0], 201)
        daemon.stop()
        self.assert_clean(daemon.log)
        self.assertTrue((self.directory / "data").is_dir())
        self.assertEqual((self.directory / "data").stat().st_mode & 0o777, 0o700)
        again = Daemon(self.directory, *arguments)
        self.addCleanup(again.stop)
        self.assertEqual(ask(again.port, "GET", "a"), (200, b"kept"))


class HangUpTests(TwistdTestCase):
    """SIGHUP from logrotate and operators."""

    def rotated(self, *arguments: str) -> str:
        """Rename the log of a daemon, send SIGHUP, send a request; return the new log."""
        daemon = Daemon(self.directory, "durable-streams", *ANYWHERE, *arguments)
        self.addCleanup(daemon.stop)
        port = daemon.port
        log = self.directory / "twistd.log"
        log.rename(log.with_suffix(".1"))
        os.kill(int((self.directory / "twistd.pid").read_text()), signal.SIGHUP)
        wait_for(log.exists)
        wait_for(lambda: "SIGHUP" in log.read_text())
        self.assertEqual(ask(port, "PUT", "a")[0], 201)
        daemon.stop()
        return log.read_text()

    def test_text_log(self) -> None:
        self.assert_clean(self.rotated())

    def test_json_log(self) -> None:
        lines = [json.loads(line) for line in self.rotated("--log-format=json").splitlines()]
        self.assertIn("SIGHUP", lines[0]["message"])

    def test_foreground(self) -> None:
        """A server without a log file and without TLS ignores SIGHUP."""
        with Foreground(self.directory, "durable-streams", *ANYWHERE) as server:
            server.signal(signal.SIGHUP)
            server.until("SIGHUP")
            self.assertEqual(ask(server.port, "PUT", "a")[0], 201)


class KilledTests(TwistdTestCase):
    """Start after kill -9 with the README's command, where process ids repeat as in a container."""

    def test_starts_again(self) -> None:
        line = command("-n", "durable-streams", *ANYWHERE)
        with Foreground(self.directory, line=line) as server:
            server.signal(signal.SIGKILL)
            server.wait()
        self.assertEqual(list(self.directory.iterdir()), [])


class NoStartTests(TwistdTestCase):
    """Expected start errors: one line and exit status 1, in the foreground and as a daemon."""

    def refused(self, sentence: str, *arguments: str) -> None:
        """Assert that the service does not start with these arguments, and return the error."""
        options = ("durable-streams", *arguments)
        result = run(self.directory, "--pidfile=x.pid", "-n", *options)
        self.assertEqual(result.returncode, 1, result)
        (line,) = result.stderr.splitlines()
        self.assertTrue(line.startswith("durable-streams: "), line)
        self.assertIn(sentence, line)
        self.assertNotIn("Traceback", result.stdout)
        self.assertFalse((self.directory / "x.pid").exists())

        daemon = Daemon(self.directory, *options)
        self.addCleanup(daemon.stop)
        self.assertEqual(daemon.started.returncode, 1, daemon.started)
        self.assertEqual(daemon.started.stderr.splitlines()[0], line)
        self.assertNotIn("Traceback", daemon.started.stderr + daemon.log)
        self.assertIn(sentence, daemon.log)
        self.assertFalse(daemon.has_pidfile)

    def test_port(self) -> None:
        """A port in use prevents the start."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.refused(f"port {port}", "--port", str(port), "--interface=127.0.0.1")
            self.refused(f"port {port}", *ANYWHERE, "--listen", f"tcp:{port}:interface=127.0.0.1")

    def test_directory_in_use(self) -> None:
        """A data directory in use prevents the start."""
        options = ("--data-dir", "data", *ANYWHERE)
        with Foreground(self.directory, "durable-streams", *options) as server:
            self.refused("in use", *options)
            self.assertEqual(ask(server.port, "PUT", "a")[0], 201)

    def test_directory_is_a_file(self) -> None:
        """A data directory that is a file prevents the start."""
        (self.directory / "file").touch()
        self.refused(str(self.directory / "file"), "--data-dir", "file", *ANYWHERE)

    def test_directory_cannot_be_made(self) -> None:
        """A data directory that cannot be created prevents the start."""
        (self.directory / "file").touch()
        self.refused(str(self.directory / "file"), "--data-dir", "file/data", *ANYWHERE)

    def test_directory_is_not_ours(self) -> None:
        """A directory with foreign files prevents the start, and they stay unchanged."""
        foreign = self.directory / "foreign"
        foreign.mkdir()
        (foreign / "data.mdb").write_bytes(b"precious")
        self.refused(str(foreign), "--data-dir", "foreign", *ANYWHERE)
        self.assertEqual((foreign / "data.mdb").read_bytes(), b"precious")
