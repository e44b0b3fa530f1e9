"""Tests of `durable_streams_tw.service.systemd_notify` and of socket activation."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from shutil import rmtree
from tempfile import mkdtemp

from twisted.internet.testing import MemoryReactor
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.service.reload import ReloadService
from durable_streams_tw.service.systemd_notify import SystemdNotifier
from tests.examples.blocks import one
from tests.service.black_box import PATIENCE, Foreground, ask, new_directory, run

(_ENDPOINT,) = re.findall('"(.*)"', one("docs/how-to/systemd.md", "toml"))
HANDED_OVER = f"--listen={_ENDPOINT}"


class FakeManager:
    """Service manager's end of the notification socket, with a path or an abstract name."""

    def __init__(self, case: SynchronousTestCase, *, abstract: bool = False) -> None:
        # Paths in trial's directory are too long for a socket.
        folder = mkdtemp(prefix="ds-")
        case.addCleanup(rmtree, folder)
        path = f"{folder}/notify"
        self.address = f"@{path}" if abstract else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        case.addCleanup(self._socket.close)
        self._socket.settimeout(PATIENCE)
        self._socket.bind(f"\0{path}" if abstract else path)

    def receive(self) -> str:
        """Return the next notification."""
        return self._socket.recv(4096).decode()


class SupervisionTests(SynchronousTestCase):
    """`SystemdNotifier` without a process."""

    def setUp(self) -> None:
        self.manager = FakeManager(self)
        self.reactor = MemoryReactor()
        self.supervision = SystemdNotifier(self.reactor, self.manager.address)

    def test_life(self) -> None:
        """The notifications are READY=1, when the reactor runs, and later STOPPING=1."""
        self.supervision.startService()
        self.assertEqual(len(self.reactor.whenRunningHooks), 1)
        self.reactor.run()
        self.assertEqual(self.manager.receive(), "READY=1")
        self.successResultOf(self.supervision.stopService())
        self.assertEqual(self.manager.receive(), "STOPPING=1")

    def test_reloading(self) -> None:
        """A reload sends RELOADING=1 with the monotonic time, then READY=1."""
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ReloadService([], self.reactor, self.supervision).reload()
        told = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", self.manager.receive())
        assert told is not None
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.assertTrue(before <= int(told[1]) <= after)
        self.assertEqual(self.manager.receive(), "READY=1")

    def test_abstract(self) -> None:
        """An address that begins with @ is an abstract name."""
        if sys.platform != "linux":
            raise SkipTest("only Linux has such sockets")
        manager = FakeManager(self, abstract=True)
        SystemdNotifier(self.reactor, manager.address).ready()
        self.assertEqual(manager.receive(), "READY=1")

    def test_environment(self) -> None:
        """Without NOTIFY_SOCKET no notification is sent."""
        self.assertFalse(SystemdNotifier.of(self.reactor, {}).wanted)
        self.assertFalse(SystemdNotifier.of(self.reactor, {"NOTIFY_SOCKET": ""}).wanted)
        self.assertTrue(
            SystemdNotifier.of(self.reactor, {"NOTIFY_SOCKET": self.manager.address}).wanted
        )

    def test_no_manager(self) -> None:
        """A notification that fails is logged."""
        supervision = SystemdNotifier(self.reactor, "@not-bound")
        with capturedLogs() as events:
            supervision.startService()
            self.reactor.run()
        self.assertTrue(supervision.running)
        self.assertIn("Could not notify systemd of READY=1", str(formatEvent(events[0])))


class ManagedTests(SynchronousTestCase):
    """Server process under a fake service manager."""

    def setUp(self) -> None:
        self.directory = new_directory(self)

    def test_notifications(self) -> None:
        """The server notifies readiness, reload and stop."""
        manager = FakeManager(self)
        with Foreground(
            self.directory,
            "durable-streams",
            "--listen=tcp:0:interface=127.0.0.1",
            variables={"NOTIFY_SOCKET": manager.address},
        ) as server:
            self.assertEqual(manager.receive(), "READY=1")
            self.assertEqual(ask(server.port, "PUT", "a", b"x")[0], 201)
            server.signal(signal.SIGHUP)
            self.assertIn("RELOADING=1", manager.receive())
            self.assertEqual(manager.receive(), "READY=1")
            self.assertEqual(ask(server.port, "GET", "a"), (200, b"x"))
            server.signal(signal.SIGTERM)
            self.assertEqual(manager.receive(), "STOPPING=1")
            server.wait()

    def test_socket_activation(self) -> None:
        """The server listens on a passed socket as the page says, and serves clients that connected
        before its start.
        """
        with socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True
        ) as listening:
            port = listening.getsockname()[1]
            early = socket.create_connection(("127.0.0.1", port), PATIENCE)
            self.addCleanup(early.close)
            early.sendall(b"HEAD /v1/stream/a HTTP/1.0\r\n\r\n")
            with Foreground(
                self.directory, "durable-streams", HANDED_OVER, inherited=listening
            ) as server:
                self.assertEqual(server.port, port)
                self.assertEqual(early.recv(12), b"HTTP/1.1 404")
                self.assertEqual(ask(port, "PUT", "a", b"x")[0], 201)
                server.stop()
            # A client that connects between two processes waits for the next one.
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()

    def test_no_socket(self) -> None:
        """Without a passed socket the start fails with one line."""
        done = run(self.directory, "--pidfile=", "-n", "durable-streams", HANDED_OVER)
        self.assertEqual(done.returncode, 1)
        self.assertIn("socket activation", done.stderr + done.stdout)
        self.assertNotIn("Traceback", done.stderr + done.stdout)
