"""Operations of streams: options of requests, hooks, errors, retried appends."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import (
    BadTarget,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    InvalidArgument,
    InvalidOffset,
    InvalidRequest,
    NotFound,
    RateLimited,
    Rejected,
    RetryPolicy,
    SequenceConflict,
    StreamClient,
    StreamClosed,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tests.client.client_fixture import ClientFixture, Script, answer

FIELDS = {"Stream_Next_Offset": "a", "Content_Type": "text/plain", "Stream_Up_To_Date": "true"}


class RequestTests(SynchronousTestCase):
    """Headers, parameters and hooks."""

    def test_functions_are_called_for_each_request(self) -> None:
        """Headers and parameters may be functions, also asynchronous; a call's own come last."""
        script = Script(*[answer("200 OK", b"x", **FIELDS)] * 2)
        counts = iter(range(10))

        async def count() -> str:
            return str(next(counts))

        async def params() -> dict[str, str]:
            return {"n": await count(), "kept": "1"}

        fixture = ClientFixture(script, header={"X-One": "1"}, params=params)
        stream = fixture.stream("s")
        more: dict[str, Any] = {"X-One": lambda: succeed("2"), "X-Two": count}
        fixture.run(stream.read_text(headers=more, params={"kept": "2"}))
        fixture.run(stream.read_text())
        lines = [request.split(b"\r\n") for request in script.requests]
        self.assertEqual(
            [one[0].split()[1] for one in lines],
            [
                b"/v1/stream/s?kept=2&n=1&offset=-1",
                b"/v1/stream/s?kept=1&n=2&offset=-1",
            ],
        )
        self.assertIn(b"X-One: 2", lines[0])
        self.assertIn(b"X-Two: 0", lines[0])
        self.assertIn(b"X-One: 1", lines[1])

    def test_hooks(self) -> None:
        """One hook sees each retry; the other may repeat a request after a permanent error."""
        replies = [answer("503 Busy"), answer("403 Forbidden"), answer("200 OK", b"x", **FIELDS)]
        asked: list[ClientError] = []

        def on_error(error: ClientError) -> Deferred[bool]:
            asked.append(error)
            return succeed(len(asked) == 1)

        fixture = ClientFixture(Script(*replies), on_error=on_error)
        self.assertEqual(fixture.run(fixture.stream("s").read_text()), "x")
        self.assertIsInstance(asked[0], Forbidden)
        self.assertEqual(len(fixture.notices), 1)
        fixture = ClientFixture(Script(answer("403 Forbidden")), on_error=on_error)
        self.assertRaises(Forbidden, fixture.run, fixture.stream("s").read_text())

    def test_errors_have_types(self) -> None:
        """Each kind of refusal has a class, with URL, status and problem type."""
        closed = {"Stream_Closed": "true", "Stream_Next_Offset": "9"}
        problem = b'{"type":"urn:durable-streams:problem:%b","detail":"d"}'
        kind = {"Content_Type": "application/problem+json"}
        for reply, expected in (
            (answer("400 Bad Request"), InvalidRequest),
            (answer("400 Bad Request", problem % b"malformed-offset", **kind), InvalidOffset),
            (answer("401 Unauthorized"), Unauthorized),
            (answer("403 Forbidden"), Forbidden),
            (answer("404 Not Found"), NotFound),
            (answer("409 Conflict"), Conflict),
            (answer("409 Conflict", **closed), StreamClosed),
            (
                answer("409 Conflict", b"sequence conflict", Content_Type="text/plain"),
                SequenceConflict,
            ),
            (answer("409 Conflict", problem % b"sequence-regression", **kind), SequenceConflict),
            (answer("410 Gone"), Gone),
            (answer("413 Too Large"), TooLarge),
            (answer("429 Too Many"), RateLimited),
            (answer("418 Teapot"), Rejected),
            (answer("501 Not Implemented", problem % b"unknown-coding", **kind), Unavailable),
        ):
            fixture = ClientFixture(Script(reply), endure=0)
            with self.assertRaises(expected) as caught:
                fixture.run(fixture.stream("s").append("x", content_type="text/plain"))
            error = caught.exception
            self.assertIs(type(error), expected)
            self.assertEqual(error.url, "http://streams.example/v1/stream/s")
            self.assertIn(str(error.status), str(error))
            if kind["Content_Type"].encode() in reply:
                self.assertTrue(error.problem.startswith("urn:durable-streams:problem:"))

    def test_invalid_arguments(self) -> None:
        """Arguments that cannot be right are refused before anything is sent."""
        fixture = ClientFixture(Script())
        stream = fixture.stream("s")
        data: Any = 5
        text: Any = "1h"
        for work in (
            stream.append(""),
            stream.append(data),
            stream.append_json(),
            stream.create(ttl=-1),
            stream.create(ttl=text),
            stream.read_text(""),
        ):
            self.assertRaises(InvalidArgument, fixture.run, work)
        for options in (
            {"url": "ftp://h/"},
            {"timeout": 0},
            {"connect_timeout": -1},
            {"token": "a", "token_file": "b"},
            {"ca_file": "/nowhere"},
        ):
            more: Any = options
            self.assertRaises(InvalidArgument, StreamClient, reactor=fixture.clock, **more)
        self.assertRaises(InvalidArgument, RetryPolicy, multiplier=0.5)
        self.assertRaises(BadTarget, fixture.stream, "/")
        self.assertRaises(InvalidArgument, stream.follow, live=text)
        error = self.assertRaises(BadTarget, StreamClient, "localhost:1", reactor=fixture.clock)
        self.assertIn("localhost:1 is not a URL that begins with http://", str(error))

    def test_append_to_a_missing_stream(self) -> None:
        """An append whose content type the client asks for says that the stream is missing."""
        fixture = ClientFixture()
        with self.assertRaises(NotFound) as caught:
            fixture.run(fixture.stream("missing").append("x"))
        self.assertIn("the stream does not exist: create it first", str(caught.exception))


class OperationTests(SynchronousTestCase):
    """Operations on streams of the real server."""

    @given(
        st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6),
        st.lists(st.integers(0, 400), max_size=10),
    )
    def test_appends_are_retried(self, parts: list[bytes], cuts: list[int]) -> None:
        """Appends whose responses are lost are repeated, and appended once, in order."""
        fixture = ClientFixture(cuts=[*cuts], endure=None)
        fixture.fixture.put("s")
        stream = fixture.stream("s")
        appends = [fixture.start(stream.append(part)) for part in parts]
        for append in appends:
            fixture.finish(append)
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"".join(parts))

    def test_a_life(self) -> None:
        """A stream can be created, forked, read in three ways, closed and deleted."""
        fixture = ClientFixture()
        source, copy = fixture.stream("a"), fixture.stream("b")
        self.assertTrue(
            fixture.run(source.create("application/json", '[{"n": 1}]', ttl=60)).created
        )
        self.assertFalse(fixture.run(source.create("application/json", ttl=60)).created)
        self.assertRaises(Conflict, fixture.run, source.create("text/plain"))
        fixture.run(source.append_json({"n": 2}, [3]))
        self.assertTrue(fixture.run(source.fork("b")).created)
        fixture.run(copy.append_json("é"))
        self.assertEqual(fixture.run(copy.read_json()), [{"n": 1}, {"n": 2}, [3], "é"])
        self.assertEqual(fixture.run(source.read_bytes()), b'[{"n": 1},{"n": 2},[3]]')
        self.assertEqual(fixture.run(copy.read_text())[-10:], ',"\\u00e9"]')
        self.assertTrue(fixture.run(copy.close('"end"')).closed)
        self.assertTrue(fixture.run(copy.close()).closed)
        with self.assertRaises(StreamClosed) as caught:
            fixture.run(copy.append_json(1))
        self.assertEqual(caught.exception.offset, fixture.run(copy.head()).offset)
        fixture.run(source.delete())
        # Its fork still reads the data, so the URL stays occupied.
        self.assertRaises(Gone, fixture.run, source.head())
        fixture.run(copy.delete())
        self.assertRaises(NotFound, fixture.run, copy.head())
        self.assertRaises(BadTarget, fixture.run, copy.fork("http://other.example/v1/stream/c"))
