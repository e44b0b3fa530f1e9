"""Tests of `durable_streams_tw.service.ports`."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.internet.testing import MemoryReactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.http.epoll import nested_poll
from durable_streams_tw.service import port_announcer
from durable_streams_tw.service.port_announcer import PortAnnouncer
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.startup import CannotStart
from tests.http.server_fixture import Client, ServerFixture


class FakePort:
    """Port that closes when the test says."""

    def __init__(self, events: list[str], host: str = "127.0.0.1") -> None:
        self.events = events
        self.host = host
        self.closed: Deferred[None] = Deferred()

    def getHost(self) -> IPv4Address:
        """Return its address."""
        return IPv4Address("TCP", self.host, 4437)

    def stopListening(self) -> Deferred[None]:
        """Start to close."""
        self.events.append("closing")
        return self.closed


class FakeEndpoint:
    """Endpoint that returns a port or fails."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def listen(self, factory: object) -> Any:
        """Return the port, or raise."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class PortsTests(SynchronousTestCase):
    """Opening and closing of ports."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.reactor = MemoryReactor()
        self.events: list[str] = []

    def test_port_that_does_not_close(self) -> None:
        """If a port fails to close, live reads end and connections are drained nevertheless."""
        port = FakePort(self.events)
        ports = self.ports(succeed(port))
        ports.startService()
        port.closed.errback(OSError("a port that does not close"))
        self.successResultOf(ports.stopService())
        self.assertTrue(self.fixture.streams._released)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_announced_when_running(self) -> None:
        """The URL is logged when the reactor runs, since a signal ends the process before."""
        ports = self.ports(succeed(FakePort(self.events)))
        with capturedLogs() as events:
            ports.startService()
            self.assertEqual(events, [])
            self.reactor.run()
        self.assertEqual(events[0]["url"], "http://127.0.0.1:4437/v1/stream/")

    def test_stopped_before_running(self) -> None:
        """A service that stops before the reactor runs logs no URL."""
        port = FakePort(self.events)
        port.closed.callback(None)
        ports = self.ports(succeed(port))
        ports.startService()
        self.successResultOf(ports.stopService())
        with capturedLogs() as events:
            self.reactor.run()
        self.assertEqual(events, [])

    def ports(self, *outcomes: Any) -> Ports:
        """Return the ports of endpoints with these outcomes."""
        endpoints: Any = [FakeEndpoint(outcome) for outcome in outcomes]
        announcer = PortAnnouncer(b"v1/stream/")
        return Ports(endpoints, self.fixture.site, self.fixture.streams, self.reactor, announcer)

    def start_error(self, trouble: Exception) -> str:
        """Return the error message of a failing endpoint, which is the same however it
        reports it.
        """
        sentences = set()
        for outcome in (trouble, fail(trouble)):
            service = self.ports(succeed(FakePort(self.events)), outcome)
            sentences.add(str(self.assertRaises(CannotStart, service.privilegedStartService)))
        (sentence,) = sentences
        return sentence

    def test_port_in_use(self) -> None:
        """A port in use is named in the error."""
        taken = OSError(errno.EADDRINUSE, "Address already in use")
        self.assertEqual(
            self.start_error(CannotListenError("", 4437, taken)),
            "cannot listen on port 4437: Address already in use. Stop the program that has it, "
            "or choose another port",
        )
        self.assertEqual(
            self.start_error(CannotListenError("192.0.2.1", 80, OSError(13, "Permission denied"))),
            "cannot listen on port 80 of 192.0.2.1: Permission denied",
        )
        unresolvable = CannotListenError("nowhere", 80, "DNS lookup failed")
        self.assertIn("DNS lookup failed", self.start_error(unresolvable))

    def test_unix_socket(self) -> None:
        """The path of a UNIX socket is named in the error."""
        error = CannotListenError(None, "/run/x.sock", OSError(13, "Permission denied"))
        self.assertEqual(self.start_error(error), "cannot listen on /run/x.sock: Permission denied")
        # The error of the symbolic link by which Twisted locks the socket.
        lock = OSError(2, "No such file", "123", None, b"/nowhere/x.sock.lock")
        self.assertEqual(
            self.start_error(lock), "cannot open a port: /nowhere/x.sock.lock: No such file"
        )

    def test_missing_file(self) -> None:
        """A missing file is named in the error."""
        self.assertIn("key.pem", self.start_error(FileNotFoundError(2, "No such file", "key.pem")))

    def test_bug(self) -> None:
        """An unexpected exception is raised unchanged."""
        self.assertRaises(ZeroDivisionError, self.ports(ZeroDivisionError()).startService)

    def test_failure_after_start(self) -> None:
        """An endpoint that fails after the start stops the process."""
        listening: Deferred[Any] = Deferred()
        service = self.ports(listening)
        service.startService()
        self.assertFalse(self.reactor.hasStopped)
        listening.errback(CannotListenError("", 4437, OSError(98, "Address already in use")))
        self.reactor.run()
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(len(self.flushLoggedErrors(CannotListenError)), 1)
        self.successResultOf(service.stopService())

    def test_stop(self) -> None:
        """Stopping closes the ports, then responds to long-polls, then closes connections."""
        port = FakePort(self.events)
        service = self.ports(succeed(port))
        service.privilegedStartService()
        service.startService()
        self.fixture.put("a")
        client = self.fixture.connect()
        client.request("GET", "/v1/stream/a?offset=now&live=long-poll")
        idle = Client(self.fixture.site)
        stopped = service.stopService()
        self.assertEqual(self.events, ["closing"])
        self.assertEqual(client.answers(), [])
        port.closed.callback(None)
        self.assertEqual([answer.status for answer in client.answers()], [204])
        self.assertTrue(idle.transport.disconnecting)
        self.assertNoResult(stopped)
        client.leave()
        idle.leave()
        self.fixture.clock.advance(1)
        self.successResultOf(stopped)

    def test_nested_poll(self) -> None:
        """Connections of the HTTP/1.1 engine are read through a nested epoll if the reactor has
        one.
        """
        from twisted.internet import reactor

        if nested_poll(reactor) is None:
            raise SkipTest("this system has no epoll")
        for factory, together in (
            (self.fixture.streams.http_factory(), True),
            (self.fixture.site, False),
        ):
            port = tcp.Port(0, ServerFactory(), reactor=reactor)
            endpoints: Any = [FakeEndpoint(succeed(port))]
            service = Ports(endpoints, factory, self.fixture.streams, reactor)
            service.privilegedStartService()
            self.assertEqual(port.transport is not tcp.Server, together)

    def test_webhook_callbacks(self) -> None:
        """The callback URL has the first port; loopback webhooks are allowed if all ports are
        loopback ones.
        """
        for hosts, local in (
            (("127.0.0.1",), True),
            (("127.0.0.1", "0.0.0.0"), False),
            (("192.0.2.1", "127.0.0.1"), False),
        ):
            self.fixture = ServerFixture()
            service = self.ports(*[succeed(FakePort(self.events, host)) for host in hosts])
            service.privilegedStartService()
            service.startService()
            streams = self.fixture.streams
            self.assertEqual(streams._base(), f"http://{hosts[0]}:4437/v1/stream/")
            self.assertEqual(streams._allow_local(), local)

    def test_urls(self) -> None:
        """Logged URLs can be used by clients."""
        for address, url in (
            (IPv4Address("TCP", "0.0.0.0", 4437), "http://localhost:4437/v1/stream/"),
            (IPv6Address("TCP", "::", 4437), "http://localhost:4437/v1/stream/"),
            (IPv4Address("TCP", "192.0.2.1", 80), "http://192.0.2.1:80/v1/stream/"),
            (IPv6Address("TCP", "::1", 4437), "http://[::1]:4437/v1/stream/"),
        ):
            self.assertEqual(port_announcer._url("http", address, "v1/stream/"), url)
        self.assertIn("x.sock", port_announcer._url("http", UNIXAddress("x.sock"), "v1/stream/"))
