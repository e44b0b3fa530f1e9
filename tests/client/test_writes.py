"""Tests of appends by the client: appended once, or reported as unknown."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import (
    BadResponse,
    OutcomeUnknown,
    Rejected,
    Unreachable,
)
from tests.client.client_fixture import ClientFixture, Script, answer

LOST = b""


async def plain(fixture: ClientFixture) -> None:
    """Append without a producer."""
    await fixture.stream("s").append(b"x", content_type="text/plain", idempotent=False)


class AppendTests(SynchronousTestCase):
    """Appends without a producer."""

    def append(self, *answers: bytes, **fixture: Any) -> int:
        script = Script(*answers)
        one = ClientFixture(script, **fixture)
        self.script = script
        one.run(plain(one))
        return len(script.requests)

    def test_in_doubt(self) -> None:
        """An append whose outcome is unknown is not repeated."""
        self.assertRaises(OutcomeUnknown, self.append, LOST)
        self.assertEqual(len(self.script.requests), 1)
        # A proxy's answer, which may follow an append that was carried out.
        for status in ("500 Error", "502 Bad Gateway", "504 Timeout", "499 Gone", "520 Unknown"):
            self.assertRaises(OutcomeUnknown, self.append, answer(status), endure=60)
            self.assertEqual(len(self.script.requests), 1)

    def test_refused(self) -> None:
        """A refusal by the server is final at any status; one by a proxy is repeated."""
        full, busy = (
            answer(
                status,
                b'{"type": "urn:durable-streams:problem:%b", "detail": "d"}' % slug,
                Content_Type="application/problem+json",
            )
            for status, slug in (("507 Full", b"storage-full"), ("503 Busy", b"overloaded"))
        )
        with self.assertRaises(Rejected) as caught:
            self.append(full)
        self.assertEqual(caught.exception.problem, "urn:durable-streams:problem:storage-full")
        self.assertRaises(Rejected, self.append, answer("409 Conflict"))
        done = answer("204 No Content", Stream_Next_Offset="a")
        self.assertEqual(self.append(busy, busy, done), 3)
        doubt = b'{"type": "urn:durable-streams:problem:outcome-unknown"}'
        unknown = answer("503 Fault", doubt, Content_Type="application/problem+json")
        self.assertRaises(OutcomeUnknown, self.append, unknown)

    def test_turned_away(self) -> None:
        """An append refused with Retry-After is repeated."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        self.assertEqual(self.append(answer("429 Too Many", Retry_After="1"), done), 2)

    def test_never_sent(self) -> None:
        """A connection that cannot be established is retried: nothing was sent."""
        fixture = ClientFixture(endure=None)
        fixture.fixture.put("s")
        fixture.network.down = True
        done = fixture.start(plain(fixture))
        fixture.turn(3)
        fixture.network.down = False
        fixture.finish(done)
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"x")
        fixture = ClientFixture(endure=0)
        fixture.network.down = True
        self.assertRaises(Unreachable, fixture.run, plain(fixture))

    def test_what_a_refusal_says(self) -> None:
        """A refusal has the server's detail without control characters."""
        for body, kind, said in (
            (b'{"title":"t","detail":"no\\u001b[31m room"}', "application/problem+json", "no [31m"),
            (b"plain\nwords", "text/plain", "plain words"),
            (b"<html>proxy</html>", "text/html", "responded with 403"),
            (b'{"error":{"message":"inner"}}', "application/json", "inner"),
        ):
            with self.assertRaises(Rejected) as caught:
                self.append(answer("403 Forbidden", body, Content_Type=kind))
            self.assertIn(said, str(caught.exception))
            self.assertTrue(str(caught.exception).isprintable())

    def test_errors_name_the_stream(self) -> None:
        """Every error names the stream's URL without its query, which may hold a secret."""
        url = "http://streams.example/v1/stream/s"
        for reply, kind in (
            (answer("404 Not Found"), Rejected),
            (LOST, Unreachable),
            (answer("200 OK"), BadResponse),
        ):
            fixture = ClientFixture(Script(reply), endure=0)
            stream = fixture.stream(f"{url}?key=secret" if kind is Rejected else "s")
            with self.assertRaises(kind) as caught:
                fixture.run(stream.head())
            self.assertEqual(caught.exception.url, stream.url.partition("?")[0])
            self.assertTrue(str(caught.exception).startswith(url), caught.exception)
            self.assertNotIn("secret", str(caught.exception))
        with self.assertRaises(OutcomeUnknown) as unknown:
            self.append(LOST)
        self.assertTrue(str(unknown.exception).startswith(url + ": the connection was lost"))

    def test_a_token_that_was_renewed(self) -> None:
        """A request with an expired token is repeated with the renewed one."""
        late, done = answer("401 Unauthorized"), answer("204 No Content", Stream_Next_Offset="a")
        script = Script(late, done)
        fixture = ClientFixture(script, tokens=["old", "new"])
        fixture.run(plain(fixture))
        self.assertIn(b"Bearer old", script.requests[0])
        self.assertIn(b"Bearer new", script.requests[1])
        script = Script(late)
        fixture = ClientFixture(script, tokens=["old"])
        appending = plain(fixture)
        self.assertRaises(Rejected, fixture.run, appending)

    def test_deleting_in_doubt(self) -> None:
        """A repeated DELETE that gets 404 succeeds; a first one raises `NotFound`."""
        fixture = ClientFixture(Script(LOST, answer("404 Not Found")))
        fixture.run(fixture.stream("s").delete())
        fixture = ClientFixture(Script(answer("404 Not Found")))
        self.assertRaises(Rejected, fixture.run, fixture.stream("s").delete())

    def test_fields(self) -> None:
        """Each request carries the headers of the client."""
        script = Script(answer("204 No Content", Stream_Next_Offset="a"))
        fixture = ClientFixture(script, header={"Authorization": "Bearer t"})
        fixture.run(fixture.stream("s").close())
        head = script.requests[0].lower()
        self.assertIn(b"authorization: bearer t\r\n", head)
        self.assertIn(b"stream-closed: true\r\n", head)
