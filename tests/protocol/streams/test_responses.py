"""Tests of `durable_streams_tw.protocol.streams.responses`."""

from __future__ import annotations

import json

from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import ForkPoint, Lifetime, StreamState
from tests.protocol.refusal_case import RefusalTestCase

OPEN = StreamState(7, "a", "Text/Plain; charset=utf-8", 12, created_at=1, touched_at=1)
CLOSED = replace(OPEN, closed=True)
TAIL = (b"Stream-Next-Offset", format_offset(OPEN, 12).encode())
TYPE = (b"Content-Type", b"Text/Plain; charset=utf-8")
ENDED = (b"Stream-Closed", b"true")
CAUGHT_UP = (b"Stream-Up-To-Date", b"true")
NO_STORE = (b"Cache-Control", b"no-store")


class WritingTests(RefusalTestCase):
    """Responses to PUT, POST and DELETE."""

    def test_created(self) -> None:
        """A new stream is 201 with its URL, an existing one 200 without it."""
        where = (b"Location", b"http://h/v1/stream/a")
        for state, fresh, status, expected in (
            (OPEN, True, 201, [TYPE, TAIL, where]),
            (CLOSED, True, 201, [TYPE, TAIL, where, ENDED]),
            (OPEN, False, 200, [TYPE, TAIL]),
            (CLOSED, False, 200, [TYPE, TAIL, ENDED]),
        ):
            answer = responses.created(Created(state, fresh), where[1])
            self.assertEqual(answer.status, status)
            self.assertEqual(sorted(answer.headers), sorted(expected))
            self.assertEqual(answer.body, b"")

    def test_appended(self) -> None:
        """A producer's new batch is 200, other successes are 204; all have the next offset."""
        producer = ProducerState(3, 9)
        told = [(b"Producer-Epoch", b"3"), (b"Producer-Seq", b"9")]
        for outcome, status, expected in (
            (Appended(OPEN, grew=True), 204, [TAIL]),
            (Appended(CLOSED, grew=True), 204, [TAIL, ENDED]),
            (Appended(CLOSED), 204, [TAIL, ENDED]),
            (Appended(CLOSED, duplicate=True), 204, [TAIL, ENDED]),
            (Appended(OPEN, producer, grew=True), 200, [TAIL, *told]),
            (Appended(CLOSED, producer, grew=True), 200, [TAIL, *told, ENDED]),
            (Appended(CLOSED, producer), 204, [TAIL, *told, ENDED]),
            (Appended(OPEN, producer, duplicate=True), 204, [TAIL, *told]),
            (Appended(CLOSED, producer, duplicate=True), 204, [TAIL, *told, ENDED]),
        ):
            answer = responses.appended(outcome)
            self.assertEqual(answer.status, status, outcome)
            self.assertEqual(sorted(answer.headers), sorted(expected), outcome)
            self.assertEqual(answer.body, b"")

    def test_deleted(self) -> None:
        """A deletion is 204 without other headers."""
        self.assertEqual(responses.deleted(), responses.BufferedResponse(204, []))


class ReadingTests(RefusalTestCase):
    """Responses to HEAD and GET."""

    def test_described(self) -> None:
        """HEAD has the state of the stream and is not cacheable."""
        expiry = Lifetime(expires_at=5, expires_at_text="2030-01-31t12:00:00.50z")
        for state, expected in (
            (OPEN, [(b"ETag", b'"7:0:12"')]),
            (CLOSED, [(b"ETag", b'"7:0:12:c"'), ENDED]),
            (
                replace(OPEN, lifetime=Lifetime(ttl=0)),
                [(b"ETag", b'"7:0:12"'), (b"Stream-TTL", b"0")],
            ),
            (
                replace(OPEN, lifetime=expiry),
                [(b"ETag", b'"7:0:12"'), (b"Stream-Expires-At", b"2030-01-31t12:00:00.50z")],
            ),
        ):
            answer = responses.described(state)
            self.assertEqual(answer.status, 200)
            self.assertEqual(sorted(answer.headers), sorted([TYPE, TAIL, NO_STORE, *expected]))
            self.assertEqual(answer.body, b"")

    def test_described_conditionally(self) -> None:
        """HEAD gets 304 with the current tag in If-None-Match, and is refused by another If-Match,
        which takes precedence.
        """
        tag = b'"7:0:12"'
        self.assertEqual(responses.described(OPEN, tag, b'"x"'), responses.described(OPEN))
        unchanged = responses.described(OPEN, b"*", b"W/" + tag)
        self.assertEqual(unchanged.status, 304)
        self.assertEqual(sorted(unchanged.headers), sorted([TAIL, NO_STORE, (b"ETag", tag)]))
        self.assertRefused(Problem.PRECONDITION_FAILED, responses.described, OPEN, b'"x"', tag)

    def test_fork_described(self) -> None:
        """A fork is described like any stream; its ETag covers inherited bytes."""
        fork = replace(OPEN, fork=ForkPoint(1, 5, "b", None, 0, 1, False))
        self.assertEqual(responses.described(fork), responses.described(OPEN))

    def test_read_headers(self) -> None:
        """Up-to-date and closed are sent only at the tail (§5.6)."""
        short = (b"Stream-Next-Offset", format_offset(OPEN, 5).encode())
        cursor = (b"Stream-Cursor", b"77")
        for state, end, echoed, expected in (
            (OPEN, 5, None, [short]),
            (CLOSED, 5, None, [short]),
            (OPEN, 12, None, [TAIL, CAUGHT_UP]),
            (CLOSED, 12, None, [TAIL, CAUGHT_UP, ENDED]),
            (OPEN, 5, 77, [short, cursor]),
            (OPEN, 12, 77, [TAIL, cursor, CAUGHT_UP]),
        ):
            fields = responses.read_headers(state, end, echoed)
            self.assertEqual(sorted(fields), sorted(expected))

    def test_long_poll_timeout(self) -> None:
        """A long-poll that times out is at the tail (§5.7)."""
        cursor = (b"Stream-Cursor", b"77")
        for state, more in ((OPEN, []), (CLOSED, [ENDED])):
            answer = responses.long_poll_timeout(state, 77)
            self.assertEqual(answer.status, 204)
            self.assertEqual(
                sorted(answer.headers), sorted([TAIL, CAUGHT_UP, cursor, NO_STORE, *more])
            )
            self.assertEqual(answer.body, b"")

    def test_content_type(self) -> None:
        """Content-Type is that of the creation."""
        self.assertEqual(responses.content_type_header(OPEN), TYPE)


class RefusedTests(RefusalTestCase):
    """Refusals as problem details (RFC 9457)."""

    def test_every_problem(self) -> None:
        """Each problem has status, type, title and detail, and is not cacheable."""
        for problem in Problem:
            refusal = Refusal(problem, 'a "sentence"\n\x7fé\ud83d', ((b"X-More", b"1"),))
            answer = responses.refused(refusal)
            self.assertEqual(answer.status, problem.status)
            self.assertEqual(
                answer.headers,
                [(b"Content-Type", b"application/problem+json"), NO_STORE, (b"X-More", b"1")],
            )
            self.assertEqual(
                json.loads(answer.body),
                {
                    "type": problem.type,
                    "title": problem.title,
                    "status": problem.status,
                    "detail": refusal.detail,
                },
            )
