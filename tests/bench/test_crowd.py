"""The bytes of requests, and the counting of what came of them."""

from __future__ import annotations

from bench.client import Mismatch, check_count
from bench.crowd import post, put
from bench.held import NotHeld, answered
from twisted.trial.unittest import SynchronousTestCase


class RequestTests(SynchronousTestCase):
    """HTTP/1.1 by hand."""

    def test_post(self) -> None:
        """Every field, an empty line, the body."""
        self.assertEqual(
            post("/s", "text/plain", b"four", "More: 1"),
            b"POST /s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 4\r\nMore: 1\r\n\r\nfour",
        )

    def test_put(self) -> None:
        """A body of nothing."""
        self.assertTrue(put("/s", "text/plain").endswith(b"Content-Length: 0\r\n\r\n"))


class CountTests(SynchronousTestCase):
    """What was acknowledged is there; what was cut off may be."""

    def test_between(self) -> None:
        """From none of those under way to all of them."""
        check_count(100, 100, 8)
        check_count(108, 100, 8)

    def test_lost(self) -> None:
        """One too few."""
        self.assertRaises(Mismatch, check_count, 99, 100, 8)

    def test_doubled(self) -> None:
        """One too many."""
        self.assertRaises(Mismatch, check_count, 109, 100, 8)


class AnsweredTests(SynchronousTestCase):
    """When a connection has been answered."""

    def test_head(self) -> None:
        """As soon as the head is whole."""
        head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
        found = [answered(head[:end]) for end in range(len(head) + 1)]
        self.assertEqual(found, [False] * len(head) + [True])

    def test_refusal(self) -> None:
        """As soon as the status is there."""
        self.assertRaises(NotHeld, answered, b"HTTP/1.1 503")
