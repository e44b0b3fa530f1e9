"""Tests of `durable_streams_tw.protocol.streams.state`."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_streams_tw.protocol.limits import MAX_TTL
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, ForkPoint, Lifetime, StreamState
from tests.protocol.refusal_case import RefusalTestCase

STREAM = StreamState(1, "a", "text/plain", 10, created_at=1000, touched_at=5000)


class LifetimeTests(RefusalTestCase):
    """Lifetimes."""

    def test_matches(self) -> None:
        """Deadlines are compared as times, not as texts."""
        one = Lifetime(expires_at=5, expires_at_text="1970-01-01T00:00:00.005Z")
        self.assertTrue(one.matches(Lifetime(expires_at=5, expires_at_text="other")))
        self.assertTrue(NO_EXPIRY.matches(Lifetime()))
        self.assertTrue(Lifetime(ttl=0).matches(Lifetime(ttl=0)))
        for other in (NO_EXPIRY, Lifetime(ttl=5), Lifetime(expires_at=6)):
            self.assertFalse(one.matches(other))
        self.assertFalse(NO_EXPIRY.matches(Lifetime(ttl=0)))
        self.assertFalse(Lifetime(ttl=1).matches(Lifetime(ttl=2)))


class DeadlineTests(RefusalTestCase):
    """Deadlines of streams."""

    def test_never(self) -> None:
        """Without a lifetime a stream has no deadline."""
        self.assertIsNone(STREAM.deadline(10**15))
        self.assertFalse(STREAM.has_expired(10**15))

    def test_ttl(self) -> None:
        """A TTL restarts with the last access, to the millisecond, whether that is
        stored or not.
        """
        stream = replace(STREAM, lifetime=Lifetime(ttl=2))
        self.assertEqual(stream.deadline(), 7000)
        self.assertEqual(stream.deadline(4000), 7000)
        self.assertEqual(stream.deadline(6001), 8001)
        self.assertFalse(stream.has_expired(6999))
        self.assertTrue(stream.has_expired(7000))
        self.assertFalse(stream.has_expired(7000, 5001))
        self.assertTrue(stream.has_expired(7001, 5001))

    def test_zero_ttl(self) -> None:
        """A TTL of 0 expires at once."""
        self.assertTrue(replace(STREAM, lifetime=Lifetime(ttl=0)).has_expired(5000))

    def test_longest_ttl(self) -> None:
        """The longest TTL does not overflow."""
        stream = replace(STREAM, lifetime=Lifetime(ttl=MAX_TTL))
        self.assertEqual(stream.deadline(), 5000 + MAX_TTL * 1000)
        self.assertFalse(stream.has_expired(10**12))

    def test_expires_at(self) -> None:
        """An absolute deadline is unaffected by accesses."""
        stream = replace(STREAM, lifetime=Lifetime(expires_at=7000, expires_at_text="x"))
        for accessed_at in (0, 6999, 10**12):
            self.assertEqual(stream.deadline(accessed_at), 7000)
            self.assertFalse(stream.has_expired(6999, accessed_at))
            self.assertTrue(stream.has_expired(7000, accessed_at))

    @given(st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
    def test_access_never_shortens(self, ttl: int, one: int, other: int, now: int) -> None:
        """A later access never moves the deadline back."""
        stream = replace(STREAM, lifetime=Lifetime(ttl=ttl))
        earlier, later = sorted((one, other))
        if stream.has_expired(now, later):
            self.assertTrue(stream.has_expired(now, earlier))


class ValueTests(RefusalTestCase):
    """States as values."""

    def test_origin(self) -> None:
        """A fork's own bytes begin at its fork point."""
        self.assertEqual(STREAM.origin, 0)
        point = ForkPoint(1, 7, "a", None, 0, 1, False)
        self.assertEqual(replace(STREAM, fork=point).origin, 7)

    def test_round_trip(self) -> None:
        """An encoded state decodes to an equal one."""
        point = ForkPoint(1, 7, "é", 5, 2, 1, True)
        full = StreamState(
            *(
                2**63,
                "a/é",
                "text/plain",
                10**16 - 1,
                1,
                2,
                Lifetime(expires_at=1, expires_at_text="t"),
            ),
            *(True, ProducerClaim("p", 2**53 - 1, 0), b"\xff\0", point, 3, True),
        )
        for state in (STREAM, full, replace(full, last_seq=b"", lifetime=Lifetime(ttl=0))):
            packed = msgspec.msgpack.encode(state)
            self.assertEqual(msgspec.msgpack.decode(packed, type=StreamState), state)
