"""Tests of limits that several fronts share."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.rate_limits import Rate, RateLimiter
from durable_streams_tw.http.connection_limiter import ConnectionLimiter
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.workers.roles import share_of
from durable_streams_tw.service.workers.usage import UsageReporter, UsageTotals


def client(number: int) -> IPv4Address:
    return IPv4Address("TCP", f"192.0.2.{number}", 50_000)


class Front:
    """Limits of one front."""

    def __init__(self, name: str, settings: Settings, totals: UsageTotals) -> None:
        self.name = name
        self.limiter = ConnectionLimiter(settings)
        self.rates = None if settings.rate is None else RateLimiter(settings.rate)
        self.reporter = UsageReporter(
            self.limiter, settings.max_connections, self.rates, lambda: 0.0
        )
        self.reporter.update(totals.add(name))


class SharedLimitsTests(SynchronousTestCase):
    """Two fronts and the supervisor between them."""

    def start(self, **settings: object) -> None:
        self.totals = UsageTotals()
        self.settings = Settings(**settings)  # type: ignore[arg-type]
        self.fronts = {
            name: Front(name, self.settings, self.totals) for name in ("front-1", "front-2")
        }

    def exchange(self) -> None:
        """Deliver the reports of all fronts."""
        for front in list(self.fronts.values()):
            usage = front.reporter.report()
            if usage is not None:
                for name, message in self.totals.update(front.name, usage).items():
                    self.fronts[name].reporter.update(message)

    def test_connections(self) -> None:
        """A connection to one front is refused if the others have all that the limit allows."""
        self.start(max_connections=3)
        first, second = self.fronts["front-1"].limiter, self.fronts["front-2"].limiter
        for limiter in (first, first, second):
            limiter.add(client(1))
        self.exchange()
        self.assertFalse(first.accepts(client(2)))
        self.assertFalse(second.accepts(client(2)))
        first.remove(client(1))
        self.exchange()
        self.assertTrue(second.accepts(client(2)))

    def test_no_limit(self) -> None:
        self.start(max_connections=0)
        self.fronts["front-1"].limiter.add(client(1))
        self.exchange()
        self.assertTrue(self.fronts["front-2"].limiter.accepts(client(1)))

    def test_connections_of_an_address(self) -> None:
        """A client is limited by its connections to all fronts, not by those of other clients."""
        self.start(max_connections_per_address=2)
        first, second = self.fronts["front-1"].limiter, self.fronts["front-2"].limiter
        first.add(client(1))
        second.add(client(1))
        self.exchange()
        self.assertEqual([one.accepts(client(1)) for one in (first, second)], [False, False])
        self.assertEqual([one.accepts(client(2)) for one in (first, second)], [True, True])
        second.remove(client(1))
        self.exchange()
        self.assertTrue(first.accepts(client(1)))
        self.assertEqual(first.elsewhere_by_address, {})

    def test_front_that_ends(self) -> None:
        """Its connections no longer count, and its successor learns those of the others."""
        self.start(max_connections_per_address=1)
        for front in self.fronts.values():
            front.limiter.add(client(1))
        self.exchange()
        for name, message in self.totals.remove("front-1").items():
            self.fronts[name].reporter.update(message)
        self.assertEqual(self.fronts["front-2"].limiter.elsewhere, 0)
        self.assertEqual(self.fronts["front-2"].limiter.elsewhere_by_address, {})
        successor = Front("front-1", self.settings, self.totals)
        self.assertFalse(successor.limiter.accepts(client(1)))
        self.assertTrue(successor.limiter.accepts(client(2)))
        self.assertEqual(self.totals.remove("spare"), {})

    def test_rates(self) -> None:
        """A client that sends its requests to two fronts has one rate."""
        self.start(rate=Rate(4, 1.0))
        first, second = (self.fronts[f"front-{n}"].rates for n in (1, 2))
        assert first is not None and second is not None
        for limiter in (first, first, second, second):
            self.assertEqual(limiter.take("alice", 0.0), 0.0)
        self.exchange()
        for limiter in (first, second):
            self.assertGreater(limiter.take("alice", 0.0), 0.0)
            self.assertEqual(limiter.take("bob", 0.0), 0.0)
            self.assertEqual(limiter.take("alice", 0.3), 0.0)

    def test_nothing_to_report(self) -> None:
        """A front whose use has not changed reports nothing."""
        self.start(rate=Rate(4, 1.0), max_connections_per_address=1)
        front = self.fronts["front-1"]
        self.assertIsNone(front.reporter.report())
        front.limiter.add(client(1))
        self.assertIsNotNone(front.reporter.report())
        self.assertIsNone(front.reporter.report())


class ShareTests(SynchronousTestCase):
    def test_memory(self) -> None:
        """Fronts divide the memory, but each has room for the largest body."""
        shared = share_of(Settings(max_body=100, max_body_memory=1000, max_unread_memory=90), 3)
        self.assertEqual((shared.max_body_memory, shared.max_unread_memory), (333, 30))
        self.assertEqual(share_of(Settings(max_body=100, max_body_memory=150), 4).body_memory, 100)
