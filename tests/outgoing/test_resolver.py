"""Looking up names with name servers that hang."""

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
from tests.outgoing.name_service import LookupReactor, NameService

GOOD = "good.example"
ADDRESS = "93.184.216.34"


class ResolverCase(SynchronousTestCase):
    """A resolver whose name servers are the test's."""

    def setUp(self) -> None:
        self.reactor = LookupReactor()
        self.names = NameService()
        self.names.known[GOOD] = [ADDRESS]
        self.resolver = Resolver(self.reactor, self.names)

    def turn(self, seconds: float = 0.0) -> None:
        self.reactor.advance(seconds)

    def resolved(self, name: str = GOOD) -> list[str]:
        found = self.resolver.resolve(name)
        self.turn()
        return self.successResultOf(found)

    def hang(self, *names: str) -> list[Deferred[list[str]]]:
        """Look up names whose name servers do not answer."""
        self.names.hanging.update(names)
        return [self.resolver.resolve(name) for name in names]


class ResolverTests(ResolverCase):
    """`Resolver`."""

    def test_found(self) -> None:
        self.assertEqual(self.resolved(), [ADDRESS])
        self.assertEqual(self.resolved("nobody.example"), [])

    def test_address(self) -> None:
        """An address is its own."""
        for text in (ADDRESS, "2606:4700::1111"):
            self.assertEqual(self.successResultOf(self.resolver.resolve(text)), [text])
        self.assertEqual(self.names.asked, [])

    def test_used_again(self) -> None:
        """For some seconds, also that there is no address."""
        for _ in range(2):
            self.assertEqual(self.resolved(), [ADDRESS])
            self.assertEqual(self.resolved("nobody.example"), [])
        self.assertEqual(self.names.asked, [GOOD, "nobody.example"])
        self.names.known[GOOD] = ["8.8.8.8"]
        self.turn(RESOLVER_CACHE)
        self.assertEqual(self.resolved(), ["8.8.8.8"])

    def test_asked_once(self) -> None:
        """A name that is being looked up costs one thread, however many want it."""
        waiting = [*self.hang(GOOD), self.resolver.resolve(GOOD), self.resolver.resolve(GOOD)]
        self.assertEqual(self.names.asked, [GOOD])
        self.names.answer(GOOD)
        self.turn()
        for one in waiting:
            self.assertEqual(self.successResultOf(one), [ADDRESS])

    def test_cancelled(self) -> None:
        """The wait ends; the lookup, which nothing can stop, goes on and serves the next."""
        (waiting,) = self.hang(GOOD)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.names.stuck, [GOOD])
        later = self.resolver.resolve(GOOD)
        self.names.answer(GOOD)
        self.turn()
        self.assertEqual(self.successResultOf(later), [ADDRESS])

    def test_timeout(self) -> None:
        (waiting,) = self.hang(GOOD)
        waiting.addTimeout(RESOLVE_TIMEOUT, self.reactor)
        self.turn(RESOLVE_TIMEOUT)
        self.failureResultOf(waiting, TimeoutError)

    def test_one_slow_domain(self) -> None:
        """Its names get a few threads, and others are found at once."""
        self.hang(*[f"h{number}.slow.example.test" for number in range(200)])
        self.assertEqual(len(self.names.stuck), RESOLVER_SHARE)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_many_slow_domains(self) -> None:
        """What was found promptly before is found again."""
        self.resolved()
        self.turn(RESOLVER_CACHE)
        self.hang(*[f"slow{number}.test{number}" for number in range(200)])
        self.assertEqual(len(self.names.stuck), RESOLVER_THREADS - RESOLVER_RESERVED)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_waits_for_a_thread(self) -> None:
        """And gets one when a lookup ends; one that nobody waits for any more is not begun."""
        names = [f"h{number}.slow.test" for number in range(RESOLVER_SHARE + 2)]
        waiting = self.hang(*names)
        waiting[-2].cancel()
        self.failureResultOf(waiting[-2], CancelledError)
        self.names.answer(names[0])
        self.turn()
        self.assertEqual(self.names.stuck, [*names[1:RESOLVER_SHARE], names[-1]])

    def test_bounded(self) -> None:
        """Beyond so many, names that nothing is known of are refused at once."""
        self.resolved()
        self.turn(RESOLVER_CACHE)
        self.hang(*[f"slow{number}.test{number}" for number in range(MAX_LOOKUPS)])
        self.failureResultOf(self.resolver.resolve("one.more"), TooManyLookups)
        self.assertEqual(self.resolved(), [ADDRESS])

    def test_no_thread(self) -> None:
        """Where the system gives none, there is no address."""

        def ask(name: str, told: object) -> None:
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
        """While the name server hangs: no traceback, and no connection later."""
        self.names.hanging.add(GOOD)
        connected = self.connect()
        connected.cancel()
        self.failureResultOf(connected)
        self.names.answer(GOOD)
        self.turn()
        self.assertEqual(self.reactor.tcpClients, [])


class ThreadTests(SynchronousTestCase):
    """The operating system is asked in a thread."""

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
        """No name server, and a label that no name may have."""

        def unreachable(*arguments: object, **more: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        self.assertEqual(self.ask("x" * 70 + ".example"), [])
        self.patch(socket, "getaddrinfo", unreachable)
        self.assertEqual(self.ask("localhost"), [])
