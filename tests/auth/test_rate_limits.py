"""Tests of `durable_streams_tw.auth.rate_limits`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.rate_limits import Rate, RateLimiter, client_address
from tests.auth.issuer import NOW


class RatesTests(SynchronousTestCase):
    """`RateLimiter`."""

    def test_burst_and_refill(self) -> None:
        """A burst passes, then one request for each step of time."""
        rates = RateLimiter(Rate(10, 1.0))
        self.assertEqual([rates.take("a", NOW) > 0 for _ in range(12)], [False] * 10 + [True] * 2)
        self.assertAlmostEqual(rates.take("a", NOW), 0.1, places=4)
        self.assertEqual(rates.take("b", NOW), 0)
        self.assertEqual(rates.take("a", NOW + 0.1), 0)
        self.assertGreater(rates.take("a", NOW + 0.1), 0)

    @given(st.lists(st.floats(0, 3), max_size=60))
    def test_bound(self, pauses: list[float]) -> None:
        """Requests never exceed the rate plus one burst."""
        rates = RateLimiter(Rate(5, 2.0))
        now, passed = NOW, 0
        for pause in pauses:
            now += pause
            passed += rates.take("a", now) == 0
            self.assertLessEqual(passed, 5 + (now - NOW) * 2.5 + 0.01)

    def test_waiting_helps(self) -> None:
        """A client that waits for the returned time passes."""
        rates = RateLimiter(Rate(3, 7.0))
        now = NOW
        for _ in range(20):
            wait = rates.take("a", now)
            if wait:
                now += wait
                self.assertEqual(rates.take("a", now), 0)

    def test_forgotten(self) -> None:
        """Full buckets are dropped."""
        rates = RateLimiter(Rate(1, 1.0))
        for number in range(1000):
            rates.take(f"{number}", NOW)
        self.assertEqual(len(rates), 1000)
        for number in range(1000):
            rates.take("a", NOW + 2 + number)
        self.assertEqual(len(rates), 1)

    def test_crowd(self) -> None:
        """The number of buckets is bounded."""
        from durable_streams_tw.auth import rate_limits as module

        self.patch(module, "RATE_CLIENTS", 100)
        rates = RateLimiter(Rate(1, 1000.0))
        for number in range(1000):
            rates.take(f"{number}", NOW)
            self.assertLessEqual(len(rates), 101)


class ClientTests(SynchronousTestCase):
    """`client_address`."""

    def test_addresses(self) -> None:
        """IPv4 clients are told apart by address, IPv6 clients by /64 network."""
        for host, client in (
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::ffff:1", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("fe80::1%eth0", "fe80::/64"),
            (None, "?"),
            ("/run/socket", "/run/socket"),
        ):
            self.assertEqual(client_address(host, None), client)

    def test_forwarded(self) -> None:
        """The last entry of X-Forwarded-For counts, in every form that proxies write."""
        for field, client in (
            (b"192.0.2.1", "192.0.2.1"),
            (b"9.9.9.9, 192.0.2.1", "192.0.2.1"),
            (b"192.0.2.1:1234", "192.0.2.1"),
            (b"[2001:db8::1]:80", "2001:db8::/64"),
            (b"2001:db8::1", "2001:db8::/64"),
            (b"", "10.0.0.1"),
            (b"192.0.2.1,", "10.0.0.1"),
            (b"unknown", "10.0.0.1"),
            (b"192.0.2.999", "10.0.0.1"),
            (b"\xff", "10.0.0.1"),
            (b"1" * 10_000, "10.0.0.1"),
        ):
            self.assertEqual(client_address("10.0.0.1", field), client, field[:20])
