"""Producers append each message once, in order, or report its error."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import (
    ClientError,
    Delivery,
    Fenced,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    Producer,
    ProducerStopped,
    SequenceConflict,
    StreamClosed,
    Unauthorized,
)
from tests.client.rig import Rig, Script, answer

LOST = b""
GAP = {"Producer_Expected_Seq": "0", "Producer_Received_Seq": "1"}


def accepted(seq: int) -> bytes:
    return answer("200 OK", Stream_Next_Offset="a", Producer_Epoch="0", Producer_Seq=str(seq))


class ProducerTests(SynchronousTestCase):
    """Against the real streams, and against scripts."""

    def producer(self, rig: Rig, name: str | None = None, **how: Any) -> Producer:
        stream = rig.stream("s")
        stream._content_type = "text/plain"
        return stream.producer(name, **how)

    def append_all(self, rig: Rig, parts: list[bytes], **how: Any) -> Producer:
        producer = self.producer(rig, **how)

        async def work() -> None:
            for part in parts:
                await producer.append(part)
            await producer.close()

        rig.run(work())
        return producer

    @given(
        st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=12),
        st.lists(st.integers(0, 400), max_size=12),
        st.integers(1, 4),
        st.integers(1, 40),
    )
    def test_lost_responses(
        self, parts: list[bytes], cuts: list[int], in_flight: int, size: int
    ) -> None:
        """Batches whose responses are lost are appended once, in order, pipelined or not."""
        rig = Rig(cuts=[*cuts], endure=None)
        rig.rig.put("s")
        self.append_all(rig, parts, max_in_flight=in_flight, max_batch_bytes=size)
        read = rig.rig.ask("GET", "s")
        self.assertEqual((read.body, read.header["stream-closed"]), (b"".join(parts), "true"))

    def test_messages_are_batched(self) -> None:
        """Messages of one turn share a request; a JSON batch is an array of them."""
        rig = Rig()
        rig.rig.put("s", "application/json")
        before = rig.network.connects

        async def work() -> list[Any]:
            async with rig.stream("s").producer() as producer:
                return [await producer.append_json([number]) for number in range(20)]

        deliveries = rig.run(work())
        self.assertTrue(all(delivery.is_settled for delivery in deliveries))
        self.assertEqual(rig.run(rig.stream("s").read_json()), [[number] for number in range(20)])
        # One connection asked for the content type, one appended, one read.
        self.assertEqual(rig.network.connects - before, 3)

    def test_linger(self) -> None:
        """A batch is sent when it is full, or when its first message has waited long enough."""
        rig = Rig()
        rig.rig.put("s")
        producer = self.producer(rig, linger=2.0, max_batch_bytes=4)

        async def give(*parts: bytes) -> None:
            for part in parts:
                await producer.append(part)

        rig.run(give(b"ab"))
        rig.turn(1.9)
        rig.turn()
        self.assertEqual(rig.rig.ask("GET", "s").body, b"")
        rig.turn(0.2)
        rig.turn()
        self.assertEqual(rig.rig.ask("GET", "s").body, b"ab")
        rig.run(give(b"cd", b"ef", b"g"))
        rig.turn()
        self.assertEqual(rig.rig.ask("GET", "s").body, b"abcdef")
        rig.run(producer.flush())
        self.assertEqual(rig.rig.ask("GET", "s").body, b"abcdefg")

    def test_back_pressure(self) -> None:
        """`append` waits while too many bytes are unacknowledged, and goes on in order."""
        rig = Rig(endure=None)
        rig.rig.put("s")
        producer = self.producer(rig, max_buffered_bytes=3, linger=0)
        rig.run(producer.append(b"1"))
        rig.run(producer.flush())
        rig.network.down = True
        for link in rig.network.links:
            link.cut()
        appends = [rig.start(producer.append(b"%d2" % number)) for number in range(4)]
        rig.turn()
        self.assertEqual([one.called for one in appends], [True, True, False, False])
        rig.network.down = False
        for append in appends:
            rig.finish(append)
        rig.run(producer.flush())
        self.assertEqual(rig.rig.ask("GET", "s").body, b"102122232")

    def test_gap(self) -> None:
        """A batch that arrives before the one before it is sent again after that."""
        script = Script(answer("409 Conflict", **GAP), accepted(0), accepted(1))
        # The first batch is answered last: its connection is the first to be lost.
        script.answers.insert(0, LOST)
        rig = Rig(script)
        producer = self.producer(rig, max_batch_bytes=1)

        async def work() -> None:
            for part in (b"1", b"2"):
                await producer.append(part)
            await producer.flush()

        rig.run(work())
        numbers = [one.lower().partition(b"producer-seq: ")[2][:1] for one in script.requests]
        self.assertEqual(numbers, [b"0", b"1", b"0", b"1"])

    def test_gap_that_stays(self) -> None:
        """A server that has forgotten the producer ends it with an error."""
        script = Script(accepted(0), answer("409 Conflict", **GAP), answer("409 Conflict", **GAP))
        rig = Rig(script)
        producer = self.producer(rig)
        rig.run(producer.append(b"1"))
        rig.run(producer.flush())
        rig.run(producer.append(b"2"))
        self.assertRaises(SequenceConflict, rig.run, producer.flush())

    def test_failed_batch_stops_the_producer(self) -> None:
        """Messages after a refused batch are not sent; each gets its error."""
        rig = Rig()
        rig.rig.put("s")
        failed: list[bytes] = []
        producer = self.producer(
            rig, max_batch_bytes=1, max_in_flight=2, on_failure=lambda data, _: failed.append(data)
        )
        deliveries: list[Delivery] = []

        async def give(*parts: bytes) -> None:
            for part in parts:
                deliveries.append(await producer.append(part))

        rig.run(give(b"1"))
        rig.run(producer.flush())
        rig.rig.ask("POST", "s", {"Stream-Closed": "true"})
        rig.run(give(b"2", b"3", b"4", b"5"))
        self.assertRaises(StreamClosed, rig.run, producer.flush())
        self.assertEqual(sorted(failed), [b"2", b"3", b"4", b"5"])

        async def result(delivery: Delivery) -> Any:
            return await delivery

        rig.run(result(deliveries[0]))
        self.assertRaises(StreamClosed, rig.run, result(deliveries[1]))
        for delivery in deliveries[3:]:
            self.assertRaises(ProducerStopped, rig.run, result(delivery))
        with self.assertRaises(ProducerStopped) as caught:
            rig.run(producer.append(b"6"))
        self.assertIn("streams.example", str(caught.exception))

    def test_failing_header_function(self) -> None:
        """An error of a header function is the error of the messages, and ends no loop."""
        rig = Rig(headers_fail=True)
        producer = self.producer(rig)
        rig.run(producer.append(b"1"))
        self.assertRaises(ZeroDivisionError, rig.run, producer.flush())

    def test_invalid_messages(self) -> None:
        """A message that the server would refuse is refused alone."""
        rig = Rig()
        rig.rig.put("j", "application/json")
        rig.rig.put("s")
        producer = rig.stream("j").producer()
        self.assertRaises(InvalidArgument, rig.run, producer.append("no"))
        self.assertRaises(InvalidArgument, rig.run, producer.append("1, 2"))
        rig.run(producer.append("1"))
        rig.run(producer.flush())
        self.assertEqual(rig.rig.ask("GET", "j").body, b"[1]")
        self.assertRaises(InvalidArgument, rig.run, rig.stream("s").producer().append(""))

    def test_closing(self) -> None:
        """A producer closes once, atomically with a last message, and accepts nothing after it."""
        rig = Rig()
        rig.rig.put("s")
        producer = self.producer(rig)
        rig.run(producer.append("1"))
        first = rig.run(producer.close("end"))
        self.assertTrue(first.closed)
        self.assertEqual(rig.run(producer.close("other")), first)
        self.assertEqual(rig.rig.ask("GET", "s").body, b"1end")
        self.assertRaises(ProducerStopped, rig.run, producer.append("2"))

    def test_left_by_an_error(self) -> None:
        """A block that fails drops the messages that are not sent."""
        rig = Rig()
        rig.rig.put("s")
        deliveries: list[Delivery] = []

        async def work() -> None:
            async with self.producer(rig, linger=60) as producer:
                deliveries.append(await producer.append("1"))
                raise KeyError

        self.assertRaises(KeyError, rig.run, work())
        self.assertTrue(deliveries[0].is_settled)
        self.assertEqual(rig.rig.ask("GET", "s").body, b"")

    def test_name_in_use(self) -> None:
        """The next producer of a name appends too, and fences the one before."""
        rig = Rig()
        rig.rig.put("s")
        first = self.producer(rig, "p")
        rig.run(first.append(b"1"))
        rig.run(first.flush())
        rig.clock.advance(1)
        second = self.producer(rig, "p")
        rig.run(second.append(b"2"))
        rig.run(second.flush())
        rig.run(first.append(b"never"))
        with self.assertRaises(Fenced) as caught:
            rig.run(first.flush())
        self.assertEqual(caught.exception.status, 403)
        self.assertEqual(caught.exception.problem, "urn:durable-streams:problem:stale-epoch")
        # The clock was set back: the next epoch is claimed.
        rig.clock.rightNow -= 5000
        third = self.producer(rig, "p", max_batch_bytes=1)
        for part in (b"3", b"4"):
            rig.run(third.append(part))
        rig.run(third.flush())
        self.assertEqual(third.epoch, second.epoch + 1)
        self.assertEqual(rig.rig.ask("GET", "s").body, b"1234")

    def test_epoch_in_use(self) -> None:
        """A batch that the server takes for another's is not lost without an error."""
        rig = Rig()
        rig.rig.put("s")
        for error in (None, Fenced):
            producer = self.producer(rig, "p", epoch=7)
            rig.run(producer.append(b"1"))
            if error is None:
                rig.run(producer.flush())
            else:
                self.assertRaises(error, rig.run, producer.flush())
        producer = self.producer(rig, "p", epoch=3)
        rig.run(producer.append(b"1"))
        self.assertRaises(Fenced, rig.run, producer.flush())
        producer = self.producer(rig, "p", epoch=3, claim=True)
        rig.run(producer.append(b"2"))
        rig.run(producer.flush())
        self.assertEqual((producer.epoch, rig.rig.ask("GET", "s").body), (8, b"12"))

    def test_gives_up_in_doubt(self) -> None:
        """A batch that a proxy answered for has an unknown outcome when the producer gives up."""
        for replies, status in (
            ([answer("502 Bad Gateway")] * 20, 502),
            ([answer("502 Bad Gateway"), answer("404 Not Found")], 404),
            ([answer("502 Bad Gateway"), answer("403 Forbidden", Producer_Epoch="9")], 403),
            ([LOST] * 20, None),
        ):
            rig = Rig(Script(*replies), endure=5)
            with self.assertRaises(OutcomeUnknown) as caught:
                self.append_all(rig, [b"1"])
            self.assertEqual(caught.exception.status, status)
        self.assertRaises(NotFound, self.append_all, Rig(Script(answer("404 Not Found"))), [b"1"])

    def test_renewed_token(self) -> None:
        """A producer goes on with the new token."""
        script = Script(answer("401 Unauthorized"), accepted(0), accepted(1))
        self.append_all(Rig(script, tokens=["old", "new"]), [b"1"])
        self.assertIn(b"Bearer new", script.requests[1])
        script = Script(answer("401 Unauthorized"))
        self.assertRaises(Unauthorized, self.append_all, Rig(script, tokens=["old"]), [b"1"])

    def test_invalid_options(self) -> None:
        """Arguments out of range are refused, with the name of the argument."""
        rig = Rig()
        options: tuple[tuple[str, Any], ...] = (
            ("name", ""),
            ("name", "a\nb"),
            ("name", " a"),
            ("epoch", -1),
            ("epoch", 2**53),
            ("linger", -1),
            ("max_batch_bytes", 0),
            ("max_batch_messages", 0),
            ("max_in_flight", 0),
            ("max_buffered_bytes", -1),
        )
        for argument, value in options:
            with self.assertRaises(InvalidArgument) as caught:
                self.producer(rig, **{argument: value})
            self.assertEqual(caught.exception.argument, argument)
            self.assertIsInstance(caught.exception, ClientError)

    def test_server_that_ignores_numbers(self) -> None:
        """Nothing is sent twice to a server that does not deduplicate."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        script = Script(done, LOST, done)
        rig = Rig(script)
        self.assertRaises(
            OutcomeUnknown, self.append_all, rig, [b"1", b"2"], max_batch_bytes=1, max_in_flight=1
        )
        self.assertEqual(len(script.requests), 2)
