"""What is appended is appended once, or the client says that it does not know."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import (
    BadResponse,
    OutcomeUnknown,
    Rejected,
    Unreachable,
)
from tests.client.rig import Rig, Script, answer

LOST = b""


async def plain(rig: Rig) -> None:
    """Append without a producer."""
    await rig.stream("s").append(b"x", content_type="text/plain", idempotent=False)


class AppendTests(SynchronousTestCase):
    """Without a producer."""

    def append(self, *answers: bytes, **rig: Any) -> int:
        script = Script(*answers)
        one = Rig(script, **rig)
        self.script = script
        one.run(plain(one))
        return len(script.requests)

    def test_in_doubt(self) -> None:
        """It is sent once only."""
        self.assertRaises(OutcomeUnknown, self.append, LOST)
        self.assertEqual(len(self.script.requests), 1)
        # A proxy's answer, which may follow an append that was carried out.
        for status in ("500 Error", "502 Bad Gateway", "504 Timeout", "499 Gone", "520 Unknown"):
            self.assertRaises(OutcomeUnknown, self.append, answer(status), endure=60)
            self.assertEqual(len(self.script.requests), 1)

    def test_refused(self) -> None:
        """A refusal of the server itself is one, whatever the status; others are sent again."""
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
        """Who was asked to come again comes again."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        self.assertEqual(self.append(answer("429 Too Many", Retry_After="1"), done), 2)

    def test_never_sent(self) -> None:
        """A server that cannot be reached has seen nothing."""
        rig = Rig(endure=None)
        rig.rig.put("s")
        rig.network.down = True
        done = rig.start(plain(rig))
        rig.turn(3)
        rig.network.down = False
        rig.finish(done)
        self.assertEqual(rig.rig.ask("GET", "s").body, b"x")
        rig = Rig(endure=0)
        rig.network.down = True
        self.assertRaises(Unreachable, rig.run, plain(rig))

    def test_what_a_refusal_says(self) -> None:
        """The server's sentence, and nothing that a terminal would obey."""
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
        """Whatever goes wrong; without the query, which may hold a secret."""
        url = "http://streams.example/v1/stream/s"
        for reply, kind in (
            (answer("404 Not Found"), Rejected),
            (LOST, Unreachable),
            (answer("200 OK"), BadResponse),
        ):
            rig = Rig(Script(reply), endure=0)
            stream = rig.stream(f"{url}?key=secret" if kind is Rejected else "s")
            with self.assertRaises(kind) as caught:
                rig.run(stream.head())
            self.assertEqual(caught.exception.url, stream.url.partition("?")[0])
            self.assertTrue(str(caught.exception).startswith(url), caught.exception)
            self.assertNotIn("secret", str(caught.exception))
        with self.assertRaises(OutcomeUnknown) as unknown:
            self.append(LOST)
        self.assertTrue(str(unknown.exception).startswith(url + ": the connection was lost"))

    def test_a_token_that_was_renewed(self) -> None:
        """A request that comes too late with the old token is sent again with the new one."""
        late, done = answer("401 Unauthorized"), answer("204 No Content", Stream_Next_Offset="a")
        script = Script(late, done)
        rig = Rig(script, tokens=["old", "new"])
        rig.run(plain(rig))
        self.assertIn(b"Bearer old", script.requests[0])
        self.assertIn(b"Bearer new", script.requests[1])
        script = Script(late)
        rig = Rig(script, tokens=["old"])
        appending = plain(rig)
        self.assertRaises(Rejected, rig.run, appending)

    def test_deleting_in_doubt(self) -> None:
        """A stream that is gone when it is asked again was deleted; else it is missing."""
        rig = Rig(Script(LOST, answer("404 Not Found")))
        rig.run(rig.stream("s").delete())
        rig = Rig(Script(answer("404 Not Found")))
        self.assertRaises(Rejected, rig.run, rig.stream("s").delete())

    def test_fields(self) -> None:
        """Each request carries what all carry."""
        script = Script(answer("204 No Content", Stream_Next_Offset="a"))
        rig = Rig(script, header={"Authorization": "Bearer t"})
        rig.run(rig.stream("s").close())
        head = script.requests[0].lower()
        self.assertIn(b"authorization: bearer t\r\n", head)
        self.assertIn(b"stream-closed: true\r\n", head)
