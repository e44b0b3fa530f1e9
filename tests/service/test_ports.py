"""The ports of a site: opened first, closed first."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.http.epoll import nested_poll
from durable_streams_tw.service import ports
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.startup import CannotStart
from tests.http.server_fixture import Client, ServerFixture


class Port:
    """A port that is open until the test says otherwise."""

    def __init__(self, diary: list[str], host: str = "127.0.0.1") -> None:
        self.diary = diary
        self.host = host
        self.closed: Deferred[None] = Deferred()

    def getHost(self) -> IPv4Address:
        """Where it is."""
        return IPv4Address("TCP", self.host, 4437)

    def stopListening(self) -> Deferred[None]:
        """Close."""
        self.diary.append("closing")
        return self.closed


class Endpoint:
    """What gives a port, or does not."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def listen(self, factory: object) -> Any:
        """Listen."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Reactor:
    """What may be told to stop."""

    def __init__(self) -> None:
        self.stopped = False

    def callWhenRunning(self, call: Any) -> None:
        """It runs."""
        call()

    def stop(self) -> None:
        """Stop."""
        self.stopped = True


class PortsTests(SynchronousTestCase):
    """Opening, failing to open, closing."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.reactor = Reactor()
        self.diary: list[str] = []

    def test_port_that_does_not_close(self) -> None:
        """Readers are let go and connections drained all the same."""
        port = Port(self.diary)
        ports = self.ports(succeed(port))
        ports.startService()
        port.closed.errback(OSError("a port that does not close"))
        self.successResultOf(ports.stopService())
        self.assertTrue(self.fixture.streams._released)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def ports(self, *outcomes: Any) -> Ports:
        """The ports that these endpoints give."""
        endpoints: Any = [Endpoint(outcome) for outcome in outcomes]
        return Ports(
            endpoints, self.fixture.site, self.fixture.streams, b"v1/stream/", self.reactor
        )

    def refused(self, trouble: Exception) -> str:
        """The sentence that trouble ends in, however an endpoint reports it."""
        sentences = set()
        for outcome in (trouble, fail(trouble)):
            service = self.ports(succeed(Port(self.diary)), outcome)
            sentences.add(str(self.assertRaises(CannotStart, service.privilegedStartService)))
        (sentence,) = sentences
        return sentence

    def test_taken(self) -> None:
        """A sentence that names the port."""
        taken = OSError(errno.EADDRINUSE, "Address already in use")
        self.assertEqual(
            self.refused(CannotListenError("", 4437, taken)),
            "cannot listen on port 4437: Address already in use",
        )
        self.assertEqual(
            self.refused(CannotListenError("192.0.2.1", 80, taken)),
            "cannot listen on port 80 of 192.0.2.1: Address already in use",
        )
        unresolvable = CannotListenError("nowhere", 80, "DNS lookup failed")
        self.assertIn("DNS lookup failed", self.refused(unresolvable))

    def test_socket_file(self) -> None:
        """A socket of the file system has no number."""
        error = CannotListenError(None, "/run/x.sock", OSError(13, "Permission denied"))
        self.assertEqual(self.refused(error), "cannot listen on /run/x.sock: Permission denied")

    def test_other_trouble(self) -> None:
        """A missing file is the operator's to mend."""
        self.assertIn("key.pem", self.refused(FileNotFoundError(2, "No such file", "key.pem")))

    def test_bug(self) -> None:
        """A bug is not made into a sentence."""
        self.assertRaises(ZeroDivisionError, self.ports(ZeroDivisionError()).startService)

    def test_too_late(self) -> None:
        """An endpoint that fails after the start stops the process."""
        listening: Deferred[Any] = Deferred()
        service = self.ports(listening)
        service.startService()
        self.assertFalse(self.reactor.stopped)
        listening.errback(CannotListenError("", 4437, OSError(98, "Address already in use")))
        self.assertTrue(self.reactor.stopped)
        self.assertEqual(len(self.flushLoggedErrors(CannotListenError)), 1)
        self.successResultOf(service.stopService())

    def test_stop(self) -> None:
        """Ports first; then who waits is answered; then connections end."""
        port = Port(self.diary)
        service = self.ports(succeed(port))
        service.privilegedStartService()
        service.startService()
        self.fixture.put("a")
        client = self.fixture.connect()
        client.request("GET", "/v1/stream/a?offset=now&live=long-poll")
        idle = Client(self.fixture.site)
        stopped = service.stopService()
        self.assertEqual(self.diary, ["closing"])
        self.assertEqual(client.answers(), [])
        port.closed.callback(None)
        self.assertEqual([answer.status for answer in client.answers()], [204])
        self.assertTrue(idle.transport.disconnecting)
        self.assertNoResult(stopped)
        client.leave()
        idle.leave()
        self.fixture.clock.advance(1)
        self.successResultOf(stopped)

    def test_read_together(self) -> None:
        """Connections of the fast channel are, where the reactor watches descriptors."""
        from twisted.internet import reactor

        if nested_poll(reactor) is None:
            raise SkipTest("this system has no epoll")
        for door, together in (
            (self.fixture.streams.http_factory(), True),
            (self.fixture.site, False),
        ):
            port = tcp.Port(0, ServerFactory(), reactor=reactor)
            endpoints: Any = [Endpoint(succeed(port))]
            service = Ports(endpoints, door, self.fixture.streams, b"", reactor)
            service.privilegedStartService()
            self.assertEqual(port.transport is not tcp.Server, together)

    def test_webhooks(self) -> None:
        """They call back where the first port is, and may lead to this machine while nobody
        else can reach any."""
        for hosts, local in (
            (("127.0.0.1",), True),
            (("127.0.0.1", "0.0.0.0"), False),
            (("192.0.2.1", "127.0.0.1"), False),
        ):
            self.fixture = ServerFixture()
            service = self.ports(*[succeed(Port(self.diary, host)) for host in hosts])
            service.privilegedStartService()
            service.startService()
            streams = self.fixture.streams
            self.assertEqual(streams._base(), f"http://{hosts[0]}:4437/v1/stream/")
            self.assertEqual(streams._allow_local(), local)

    def test_urls(self) -> None:
        """What is logged can be pasted into a client."""
        for address, url in (
            (IPv4Address("TCP", "0.0.0.0", 4437), "http://localhost:4437/v1/stream/"),
            (IPv6Address("TCP", "::", 4437), "http://localhost:4437/v1/stream/"),
            (IPv4Address("TCP", "192.0.2.1", 80), "http://192.0.2.1:80/v1/stream/"),
            (IPv6Address("TCP", "::1", 4437), "http://[::1]:4437/v1/stream/"),
        ):
            self.assertEqual(ports._url("http", address, "v1/stream/"), url)
        self.assertIn("x.sock", ports._url("http", UNIXAddress("x.sock"), "v1/stream/"))
