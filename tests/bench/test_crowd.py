"""Tests of `bench.crowd`, `bench.client.check_count` and `bench.held.answered`."""

from __future__ import annotations

from bench.client import Mismatch, check_count
from bench.crowd import post, put
from bench.held import NotHeld, answered
from twisted.trial.unittest import SynchronousTestCase


class RequestTests(SynchronousTestCase):
    """Requests of the load generator, as bytes."""

    def test_post(self) -> None:
        """`post` returns a head with all headers, an empty line and the body."""
        self.assertEqual(
            post("/s", "text/plain", b"four", "More: 1"),
            b"POST /s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 4\r\nMore: 1\r\n\r\nfour",
        )

    def test_put(self) -> None:
        """`put` returns a request with Content-Length 0 and no body."""
        self.assertTrue(put("/s", "text/plain").endswith(b"Content-Length: 0\r\n\r\n"))


class CountTests(SynchronousTestCase):
    """`check_count`: acknowledged appends must be present, appends in flight may be."""

    def test_within_bounds(self) -> None:
        """A count between none and all of the appends in flight passes."""
        check_count(100, 100, 8)
        check_count(108, 100, 8)

    def test_lost(self) -> None:
        """One append fewer than acknowledged raises `Mismatch`."""
        self.assertRaises(Mismatch, check_count, 99, 100, 8)

    def test_duplicated(self) -> None:
        """One append more than sent raises `Mismatch`."""
        self.assertRaises(Mismatch, check_count, 109, 100, 8)


class AnsweredTests(SynchronousTestCase):
    """`answered`."""

    def test_head(self) -> None:
        """A connection is answered once the head of the response is complete."""
        head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
        found = [answered(head[:end]) for end in range(len(head) + 1)]
        self.assertEqual(found, [False] * len(head) + [True])

    def test_refusal(self) -> None:
        """A status other than 200 raises `NotHeld` before the head is complete."""
        self.assertRaises(NotHeld, answered, b"HTTP/1.1 503")
