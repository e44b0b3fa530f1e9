"""Tests of `durable_streams_tw.outgoing.resolver` with name servers that hang."""

from __future__ import annotations

import socket
from threading import Event
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.outgoing import resolver
from durable_streams_tw.outgoing.limits import (
    MAX_LOOKUPS,
    RESOLVE_TIMEOUT,
    RESOLVER_CACHE,
    RESOLVER_RESERVED,
    RESOLVER_SHARE,
    RESOLVER_THREADS,
)
from durable_streams_tw.outgoing.resolver import Resolver, ResolvingReactor, TooManyLookups
from tests.outgoing.name_service import FakeNameService, ThreadedMemoryReactor

GOOD = "good.example"
ADDRESS = "93.184.216.34"


class ResolverCase(SynchronousTestCase):
    """Test case with a resolver and a fake name service."""

    def setUp(self) -> None:
        self.reactor = ThreadedMemoryReactor()
        self.names = FakeNameService()
        self.names.known[GOOD] = [ADDRESS]
        self.resolver = Resolver(self.reactor, self.names)

    def turn(self, seconds: float = 0.0) -> None:
        self.reactor.advance(seconds)

    def resolved(self, name: str = GOOD) -> list[str]:
        found = self.resolver.resolve(name)
        self.turn()
        return self.successResultOf(found)

    def start_hanging(self, *names: str) -> list[Deferred[list[str]]]:
        """Start lookups of names whose name servers do not answer."""
        self.names.hanging.update(names)
        return [self.resolver.resolve(name) for name in names]


class ResolverTests(ResolverCase):
    """`Resolver`."""

    def test_found(self) -> None:
        self.assertEqual(self.resolved(), [ADDRESS])
        self.assertEqual(self.resolved("nobody.example"), [])

    def test_literal_address(self) -> None:
        """A literal address resolves to itself without a lookup."""
        for text in (ADDRESS, "2606:4700::1111"):
            self.assertEqual(self.successResultOf(self.resolver.resolve(text)), [text])
        self.assertEqual(self.names.asked, [])

    def test_cached(self) -> None:
        """Results are cached for `RESOLVER_CACHE` seconds, empty ones too."""
        for _ in range(2):
            self.assertEqual(self.resolved(), [ADDRESS])
            self.assertEqual(self.resolved("nobody.example"), [])
        self.assertEqual(self.names.asked, [GOOD, "nobody.example"])
        self.names.known[GOOD] = ["8.8.8.8"]
        self.turn(RESOLVER_CACHE)
        self.assertEqual(self.resolved(), ["8.8.8.8"])

    def test_shared_lookup(self) -> None:
        """Concurrent lookups of a name share one thread."""
        waiting = [
            *self.start_hanging(GOOD),
            self.resolver.resolve(GOOD),
            self.resolver.resolve(GOOD),
        ]
        self.assertEqual(self.names.asked, [GOOD])
        self.names.answer(GOOD)
        self.turn()
        for one in waiting:
            self.assertEqual(self.successResultOf(one), [ADDRESS])

    def test_cancelled(self) -> None:
        """Cancelling ends the wait; the lookup continues and its result serves the next caller."""
        (waiting,) = self.start_hanging(GOOD)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.names.blocked, [GOOD])
        later = self.resolver.resolve(GOOD)
        self.names.answer(GOOD)
        self.turn()
        self.assertEqual(self.successResultOf(later), [ADDRESS])

    def test_timeout(self) -> None:
        (waiting,) = self.start_hanging(GOOD)
        waiting.addTimeout(RESOLVE_TIMEOUT, self.reactor)
        self.turn(RESOLVE_TIMEOUT)
        self.failureResultOf(waiting, TimeoutError)

    def test_one_slow_domain(self) -> None:
        """The lookups of one slow domain get `RESOLVER_SHARE` threads; others resolve at once."""
        self.start_hanging(*[f"h{number}.slow.example.test" for number in range(200)])
        self.assertEqual(len(self.names.blocked), RESOLVER_SHARE)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_many_slow_domains(self) -> None:
        """Slow domains leave threads to names that resolved promptly before."""
        self.resolved()
        self.turn(RESOLVER_CACHE)
        self.start_hanging(*[f"slow{number}.test{number}" for number in range(200)])
        self.assertEqual(len(self.names.blocked), RESOLVER_THREADS - RESOLVER_RESERVED)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_waits_for_a_thread(self) -> None:
        """A queued lookup starts when a thread is free, unless it was cancelled."""
        names = [f"h{number}.slow.test" for number in range(RESOLVER_SHARE + 2)]
        waiting = self.start_hanging(*names)
        waiting[-2].cancel()
        self.failureResultOf(waiting[-2], CancelledError)
        self.names.answer(names[0])
        self.turn()
        self.assertEqual(self.names.blocked, [*names[1:RESOLVER_SHARE], names[-1]])

    def test_bounded(self) -> None:
        """Above `MAX_LOOKUPS`, lookups of unknown names are refused at once."""
        self.resolved()
        self.turn(RESOLVER_CACHE)
        self.start_hanging(*[f"slow{number}.test{number}" for number in range(MAX_LOOKUPS)])
        self.failureResultOf(self.resolver.resolve("one.more"), TooManyLookups)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_no_thread(self) -> None:
        """If no thread can be started, the result has no address."""

        def ask(name: str, on_result: object) -> None:
            raise RuntimeError("can't start new thread")

        found = Resolver(self.reactor, ask).resolve(GOOD)
        self.turn()
        self.assertEqual(self.successResultOf(found), [])


class EndpointTests(ResolverCase):
    """Twisted's endpoints with this resolver."""

    def connect(self) -> Any:
        reactor: Any = ResolvingReactor(self.reactor, self.resolver)
        endpoint = HostnameEndpoint(reactor, GOOD, 80)
        connected = endpoint.connect(Factory.forProtocol(Protocol))
        self.turn()
        return connected

    def test_connects(self) -> None:
        self.connect()
        self.assertEqual(self.reactor.tcpClients[0][:2], (ADDRESS, 80))

    def test_no_address(self) -> None:
        self.names.known.clear()
        self.failureResultOf(self.connect(), DNSLookupError)

    def test_cancelled(self) -> None:
        """Cancelling a connection during a lookup logs nothing and connects nowhere later."""
        self.names.hanging.add(GOOD)
        connected = self.connect()
        connected.cancel()
        self.failureResultOf(connected)
        self.names.answer(GOOD)
        self.turn()
        self.assertEqual(self.reactor.tcpClients, [])


class ThreadTests(SynchronousTestCase):
    """Lookups on operating system threads."""

    def ask(self, name: str) -> list[str]:
        told, found = Event(), []

        def tell(addresses: list[str]) -> None:
            found.extend(addresses)
            told.set()

        resolver.look_up_in_thread(name, tell)
        self.assertTrue(told.wait(30))
        return found

    def test_found(self) -> None:
        self.assertIn("127.0.0.1", self.ask("localhost"))

    def test_not_found(self) -> None:
        """A failing name server, or an invalid label, yields no address."""

        def unreachable(*arguments: object, **more: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        self.assertEqual(self.ask("x" * 70 + ".example"), [])
        self.patch(socket, "getaddrinfo", unreachable)
        self.assertEqual(self.ask("localhost"), [])
