"""What is appended is appended once, or the client says that it does not know."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client.errors import Fenced, OutcomeUnknown, Rejected, Unreachable
from durable_streams_tw.client.producer import Producer
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
        rig.house.put("s")
        self.produce(rig, parts)
        read = rig.house.ask("GET", "s")
        self.assertEqual((read.body, read.header["stream-closed"]), (b"".join(parts), "true"))

    def test_a_name_that_was_used(self) -> None:
        """The next one of the name appends too, and shuts the one before out."""
        rig = Rig()
        rig.house.put("s")
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
        self.assertEqual(rig.house.ask("GET", "s").body, b"123")

    def test_an_epoch_that_was_used(self) -> None:
        """A batch that is taken for another's is not lost without a word."""
        rig = Rig()
        rig.house.put("s")
        self.assertEqual(self.produce_one(rig, b"1").epoch, 7)
        self.assertRaises(Fenced, self.produce_one, rig, b"2")

    def produce_one(self, rig: Rig, data: bytes) -> Producer:
        producer = Producer(rig.client, rig.target("s"), "text/plain", name="p", epoch=7)
        rig.run(producer.send(data))
        return producer

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
        self.assertRaises(Rejected, self.append, answer("503 Service Unavailable"))

    def test_turned_away(self) -> None:
        """Who was asked to come again comes again."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        self.assertEqual(self.append(answer("429 Too Many", Retry_After="1"), done), 2)

    def test_never_sent(self) -> None:
        """A server that cannot be reached has seen nothing."""
        rig = Rig(endure=None)
        rig.house.put("s")
        rig.network.down = True
        done = rig.start(rig.client.append(rig.target("s"), b"x", "text/plain"))
        rig.turn(3)
        rig.network.down = False
        rig.finish(done)
        self.assertEqual(rig.house.ask("GET", "s").body, b"x")
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
            (b"<html>proxy</html>", "text/html", "answers 403"),
            (b'{"error":{"message":"inner"}}', "application/json", "inner"),
        ):
            with self.assertRaises(Rejected) as caught:
                self.append(answer("403 Forbidden", body, Content_Type=kind))
            self.assertIn(said, str(caught.exception))
            self.assertTrue(str(caught.exception).isprintable())

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
