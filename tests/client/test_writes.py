"""What is appended is appended once, or the client says that it does not know."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client.errors import (
    BadProducer,
    Broken,
    Fenced,
    OutcomeUnknown,
    Rejected,
    Unreachable,
)
from durable_streams_tw.client.producer import Producer
from durable_streams_tw.client.urls import target_of
from tests.client.rig import Rig, Script, answer

LOST = b""


class ProducerTests(SynchronousTestCase):
    """Against the real streams, and against scripts."""

    def produce(self, rig: Rig, parts: list[bytes], **how: Any) -> Producer:
        producer = Producer(rig.client, rig.target("s"), "text/plain", **how)

        async def work() -> None:
            for part in parts:
                await producer.send(part)
            await producer.send(close=True)

        rig.run(work())
        return producer

    @given(
        st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6),
        st.lists(st.integers(0, 400), max_size=10),
    )
    def test_lost_answers(self, parts: list[bytes], cuts: list[int]) -> None:
        """Whatever answers are lost, each batch is there once, in order."""
        rig = Rig(cuts=[*cuts], endure=None)
        rig.rig.put("s")
        self.produce(rig, parts)
        read = rig.rig.ask("GET", "s")
        self.assertEqual((read.body, read.header["stream-closed"]), (b"".join(parts), "true"))

    def test_a_name_that_was_used(self) -> None:
        """The next one of the name appends too, and shuts the one before out."""
        rig = Rig()
        rig.rig.put("s")
        first = Producer(rig.client, rig.target("s"), "text/plain", name="p")
        rig.run(first.send(b"1"))
        rig.clock.advance(1)
        second = Producer(rig.client, rig.target("s"), "text/plain", name="p")
        rig.run(second.send(b"2"))
        self.assertRaises(Fenced, rig.run, first.send(b"never"))
        # A clock that was set back is no reason to fail.
        rig.clock.rightNow -= 5000
        third = Producer(rig.client, rig.target("s"), "text/plain", name="p")
        rig.run(third.send(b"3"))
        self.assertEqual(rig.rig.ask("GET", "s").body, b"123")

    def test_an_epoch_that_was_used(self) -> None:
        """A batch that is taken for another's is not lost without a word."""
        rig = Rig()
        rig.rig.put("s")
        self.assertEqual(self.produce_one(rig, b"1").epoch, 7)
        self.assertRaises(Fenced, self.produce_one, rig, b"2")

    def produce_one(self, rig: Rig, data: bytes) -> Producer:
        producer = Producer(rig.client, rig.target("s"), "text/plain", name="p", epoch=7)
        rig.run(producer.send(data))
        return producer

    def test_gives_up_in_doubt(self) -> None:
        """A batch that a proxy answered for may be there when the producer gives up."""
        for replies in (
            [answer("502 Bad Gateway")] * 20,
            [answer("502 Bad Gateway"), answer("404 Not Found")],
            [answer("502 Bad Gateway"), answer("403 Forbidden", Producer_Epoch="9")],
            [LOST] * 20,
        ):
            rig = Rig(Script(*replies), endure=5)
            self.assertRaises(OutcomeUnknown, self.produce, rig, [b"1"])
        rig = Rig(Script(answer("404 Not Found")))
        self.assertRaises(Rejected, self.produce, rig, [b"1"])

    def test_a_token_that_was_renewed(self) -> None:
        """A producer goes on with the new token."""
        done = answer("200 OK", Stream_Next_Offset="a", Producer_Epoch="0", Producer_Seq="0")
        script = Script(answer("401 Unauthorized"), done, done)
        self.produce(Rig(script, tokens=["old", "new"]), [b"1"])
        self.assertIn(b"Bearer new", script.requests[1])

    def test_refused_names(self) -> None:
        """What no server takes."""
        rig = Rig()
        for how in (
            {"name": ""},
            {"name": "a\nb"},
            {"name": " a"},
            {"epoch": -1},
            {"epoch": 2**53},
        ):
            with self.assertRaises(BadProducer):
                Producer(rig.client, rig.target("s"), "text/plain", **how)

    def test_a_server_that_does_not_count(self) -> None:
        """Is not sent anything twice."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        script = Script(done, LOST, done)
        rig = Rig(script)
        self.assertRaises(OutcomeUnknown, self.produce, rig, [b"1", b"2"])
        self.assertEqual(len(script.requests), 2)


class AppendTests(SynchronousTestCase):
    """Without a producer."""

    def append(self, *answers: bytes, **rig: Any) -> int:
        script = Script(*answers)
        one = Rig(script, **rig)
        self.script = script
        one.run(one.client.append(one.target("s"), b"x", "text/plain"))
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
        done = rig.start(rig.client.append(rig.target("s"), b"x", "text/plain"))
        rig.turn(3)
        rig.network.down = False
        rig.finish(done)
        self.assertEqual(rig.rig.ask("GET", "s").body, b"x")
        rig = Rig(endure=0)
        rig.network.down = True
        self.assertRaises(
            Unreachable, rig.run, rig.client.append(rig.target("s"), b"x", "text/plain")
        )

    def test_what_a_refusal_says(self) -> None:
        """The server's sentence, and nothing that a terminal would obey."""
        for body, kind, said in (
            (b'{"title":"t","detail":"no\\u001b[31m room"}', "application/problem+json", "no [31m"),
            (b"plain\nwords", "text/plain", "plain words"),
            (b"<html>proxy</html>", "text/html", "answered 403"),
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
            (answer("200 OK"), Broken),
        ):
            rig = Rig(Script(reply), endure=0)
            target = target_of(f"{url}?key=secret") if kind is Rejected else rig.target("s")
            with self.assertRaises(kind) as caught:
                rig.run(rig.client.head(target))
            self.assertEqual(caught.exception.url, target.url.partition("?")[0])
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
        rig.run(rig.client.append(rig.target("s"), b"x", "text/plain"))
        self.assertIn(b"Bearer old", script.requests[0])
        self.assertIn(b"Bearer new", script.requests[1])
        script = Script(late)
        rig = Rig(script, tokens=["old"])
        appending = rig.client.append(rig.target("s"), b"x", "text/plain")
        self.assertRaises(Rejected, rig.run, appending)

    def test_deleting_in_doubt(self) -> None:
        """A stream that is gone when it is asked again was deleted; else it is missing."""
        rig = Rig(Script(LOST, answer("404 Not Found")))
        rig.run(rig.client.delete(rig.target("s")))
        rig = Rig(Script(answer("404 Not Found")))
        self.assertRaises(Rejected, rig.run, rig.client.delete(rig.target("s")))

    def test_fields(self) -> None:
        """Each request carries what all carry."""
        script = Script(answer("204 No Content", Stream_Next_Offset="a"))
        rig = Rig(script, header={"Authorization": "Bearer t"})
        rig.run(rig.client.close(rig.target("s")))
        head = script.requests[0].lower()
        self.assertIn(b"authorization: bearer t\r\n", head)
        self.assertIn(b"stream-closed: true\r\n", head)
