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
from tests.client.client_fixture import ClientFixture, Script, answer

LOST = b""
GAP = {"Producer_Expected_Seq": "0", "Producer_Received_Seq": "1"}


def accepted(seq: int) -> bytes:
    return answer("200 OK", Stream_Next_Offset="a", Producer_Epoch="0", Producer_Seq=str(seq))


class ProducerTests(SynchronousTestCase):
    """Against the real streams, and against scripts."""

    def producer(self, fixture: ClientFixture, name: str | None = None, **how: Any) -> Producer:
        stream = fixture.stream("s")
        stream._content_type = "text/plain"
        return stream.producer(name, **how)

    def append_all(self, fixture: ClientFixture, parts: list[bytes], **how: Any) -> Producer:
        producer = self.producer(fixture, **how)

        async def work() -> None:
            for part in parts:
                await producer.append(part)
            await producer.close()

        fixture.run(work())
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
        fixture = ClientFixture(cuts=[*cuts], endure=None)
        fixture.fixture.put("s")
        self.append_all(fixture, parts, max_in_flight=in_flight, max_batch_bytes=size)
        read = fixture.fixture.ask("GET", "s")
        self.assertEqual((read.body, read.header["stream-closed"]), (b"".join(parts), "true"))

    def test_messages_are_batched(self) -> None:
        """Messages of one turn share a request; a JSON batch is an array of them."""
        fixture = ClientFixture()
        fixture.fixture.put("s", "application/json")
        before = fixture.network.connects

        async def work() -> list[Any]:
            async with fixture.stream("s").producer() as producer:
                return [await producer.append_json([number]) for number in range(20)]

        deliveries = fixture.run(work())
        self.assertTrue(all(delivery.is_settled for delivery in deliveries))
        self.assertEqual(
            fixture.run(fixture.stream("s").read_json()), [[number] for number in range(20)]
        )
        # One connection asked for the content type, one appended, one read.
        self.assertEqual(fixture.network.connects - before, 3)

    def test_linger(self) -> None:
        """A batch is sent when it is full, or when its first message has waited long enough."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        producer = self.producer(fixture, linger=2.0, max_batch_bytes=4)

        async def give(*parts: bytes) -> None:
            for part in parts:
                await producer.append(part)

        fixture.run(give(b"ab"))
        fixture.turn(1.9)
        fixture.turn()
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"")
        fixture.turn(0.2)
        fixture.turn()
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"ab")
        fixture.run(give(b"cd", b"ef", b"g"))
        fixture.turn()
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"abcdef")
        fixture.run(producer.flush())
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"abcdefg")

    def test_back_pressure(self) -> None:
        """`append` waits while too many bytes are unacknowledged, and goes on in order."""
        fixture = ClientFixture(endure=None)
        fixture.fixture.put("s")
        producer = self.producer(fixture, max_buffered_bytes=3, linger=0)
        fixture.run(producer.append(b"1"))
        fixture.run(producer.flush())
        fixture.network.down = True
        for link in fixture.network.links:
            link.cut()
        appends = [fixture.start(producer.append(b"%d2" % number)) for number in range(4)]
        fixture.turn()
        self.assertEqual([one.called for one in appends], [True, True, False, False])
        fixture.network.down = False
        for append in appends:
            fixture.finish(append)
        fixture.run(producer.flush())
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"102122232")

    def test_back_pressure_of_small_messages(self) -> None:
        """`append` also waits while twice the messages of the batches in flight are outstanding."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        producer = self.producer(fixture, max_in_flight=1, max_batch_messages=2)
        appends = [fixture.start(producer.append(b"%d;" % number)) for number in range(6)]
        self.assertEqual([one.called for one in appends], [True] * 4 + [False] * 2)
        for append in appends:
            fixture.finish(append)
        fixture.run(producer.flush())
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"0;1;2;3;4;5;")

    def test_gap(self) -> None:
        """A batch that overtakes the previous one is repeated after it."""
        script = Script(answer("409 Conflict", **GAP), accepted(0), accepted(1))
        # The first batch is answered last: its connection is the first to be lost.
        script.answers.insert(0, LOST)
        fixture = ClientFixture(script)
        producer = self.producer(fixture, max_batch_bytes=1)

        async def work() -> None:
            for part in (b"1", b"2"):
                await producer.append(part)
            await producer.flush()

        fixture.run(work())
        numbers = [one.lower().partition(b"producer-seq: ")[2][:1] for one in script.requests]
        self.assertEqual(numbers, [b"0", b"1", b"0", b"1"])

    def test_gap_that_stays(self) -> None:
        """A server that has forgotten the producer ends it with an error."""
        script = Script(accepted(0), answer("409 Conflict", **GAP), answer("409 Conflict", **GAP))
        fixture = ClientFixture(script)
        producer = self.producer(fixture)
        fixture.run(producer.append(b"1"))
        fixture.run(producer.flush())
        fixture.run(producer.append(b"2"))
        self.assertRaises(SequenceConflict, fixture.run, producer.flush())

    def test_failed_batch_stops_the_producer(self) -> None:
        """Messages after a refused batch are not sent; each gets its error."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        failed: list[bytes] = []
        producer = self.producer(
            fixture,
            max_batch_bytes=1,
            max_in_flight=2,
            on_failure=lambda data, _: failed.append(data),
        )
        deliveries: list[Delivery] = []

        async def give(*parts: bytes) -> None:
            for part in parts:
                deliveries.append(await producer.append(part))

        fixture.run(give(b"1"))
        fixture.run(producer.flush())
        fixture.fixture.ask("POST", "s", {"Stream-Closed": "true"})
        fixture.run(give(b"2", b"3", b"4", b"5"))
        self.assertRaises(StreamClosed, fixture.run, producer.flush())
        self.assertEqual(sorted(failed), [b"2", b"3", b"4", b"5"])

        async def result(delivery: Delivery) -> Any:
            return await delivery

        fixture.run(result(deliveries[0]))
        self.assertRaises(StreamClosed, fixture.run, result(deliveries[1]))
        for delivery in deliveries[3:]:
            self.assertRaises(ProducerStopped, fixture.run, result(delivery))
        with self.assertRaises(ProducerStopped) as caught:
            fixture.run(producer.append(b"6"))
        self.assertIn("streams.example", str(caught.exception))

    def test_failing_header_function(self) -> None:
        """An error of a header function is the error of the messages, and ends no loop."""
        fixture = ClientFixture(headers_fail=True)
        producer = self.producer(fixture)
        fixture.run(producer.append(b"1"))
        self.assertRaises(ZeroDivisionError, fixture.run, producer.flush())

    def test_invalid_messages(self) -> None:
        """An invalid message is refused without the others of its batch."""
        fixture = ClientFixture()
        fixture.fixture.put("j", "application/json")
        fixture.fixture.put("s")
        producer = fixture.stream("j").producer()
        self.assertRaises(InvalidArgument, fixture.run, producer.append("no"))
        self.assertRaises(InvalidArgument, fixture.run, producer.append("1, 2"))
        fixture.run(producer.append("1"))
        fixture.run(producer.flush())
        self.assertEqual(fixture.fixture.ask("GET", "j").body, b"[1]")
        self.assertRaises(InvalidArgument, fixture.run, fixture.stream("s").producer().append(""))

    def test_closing(self) -> None:
        """A producer closes once, atomically with a last message, and accepts nothing after it."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        producer = self.producer(fixture)
        fixture.run(producer.append("1"))
        first = fixture.run(producer.close("end"))
        self.assertTrue(first.closed)
        self.assertEqual(fixture.run(producer.close("other")), first)
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"1end")
        self.assertRaises(ProducerStopped, fixture.run, producer.append("2"))

    def test_left_by_an_error(self) -> None:
        """A block that fails drops the messages that are not sent."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        deliveries: list[Delivery] = []

        async def work() -> None:
            async with self.producer(fixture, linger=60) as producer:
                deliveries.append(await producer.append("1"))
                raise KeyError

        self.assertRaises(KeyError, fixture.run, work())
        self.assertTrue(deliveries[0].is_settled)
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"")

    def test_name_in_use(self) -> None:
        """The next producer of a name appends too, and fences the one before."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        first = self.producer(fixture, "p")
        fixture.run(first.append(b"1"))
        fixture.run(first.flush())
        fixture.clock.advance(1)
        second = self.producer(fixture, "p")
        fixture.run(second.append(b"2"))
        fixture.run(second.flush())
        fixture.run(first.append(b"never"))
        with self.assertRaises(Fenced) as caught:
            fixture.run(first.flush())
        self.assertEqual(caught.exception.status, 403)
        self.assertEqual(caught.exception.problem, "urn:durable-streams:problem:stale-epoch")
        # The clock was set back: the next epoch is claimed.
        fixture.clock.rightNow -= 5000
        third = self.producer(fixture, "p", max_batch_bytes=1)
        for part in (b"3", b"4"):
            fixture.run(third.append(part))
        fixture.run(third.flush())
        self.assertEqual(third.epoch, second.epoch + 1)
        self.assertEqual(fixture.fixture.ask("GET", "s").body, b"1234")

    def test_epoch_in_use(self) -> None:
        """A batch that the server deduplicates against another one raises an error."""
        fixture = ClientFixture()
        fixture.fixture.put("s")
        for error in (None, Fenced):
            producer = self.producer(fixture, "p", epoch=7)
            fixture.run(producer.append(b"1"))
            if error is None:
                fixture.run(producer.flush())
            else:
                self.assertRaises(error, fixture.run, producer.flush())
        producer = self.producer(fixture, "p", epoch=3)
        fixture.run(producer.append(b"1"))
        self.assertRaises(Fenced, fixture.run, producer.flush())
        producer = self.producer(fixture, "p", epoch=3, claim=True)
        fixture.run(producer.append(b"2"))
        fixture.run(producer.flush())
        self.assertEqual((producer.epoch, fixture.fixture.ask("GET", "s").body), (8, b"12"))

    def test_gives_up_in_doubt(self) -> None:
        """A batch that a proxy answered for has an unknown outcome when the producer gives up."""
        for replies, status in (
            ([answer("502 Bad Gateway")] * 20, 502),
            ([answer("502 Bad Gateway"), answer("404 Not Found")], 404),
            ([answer("502 Bad Gateway"), answer("403 Forbidden", Producer_Epoch="9")], 403),
            ([LOST] * 20, None),
        ):
            fixture = ClientFixture(Script(*replies), endure=5)
            with self.assertRaises(OutcomeUnknown) as caught:
                self.append_all(fixture, [b"1"])
            self.assertEqual(caught.exception.status, status)
        self.assertRaises(
            NotFound, self.append_all, ClientFixture(Script(answer("404 Not Found"))), [b"1"]
        )

    def test_renewed_token(self) -> None:
        """A producer goes on with the new token."""
        script = Script(answer("401 Unauthorized"), accepted(0), accepted(1))
        self.append_all(ClientFixture(script, tokens=["old", "new"]), [b"1"])
        self.assertIn(b"Bearer new", script.requests[1])
        script = Script(answer("401 Unauthorized"))
        self.assertRaises(
            Unauthorized, self.append_all, ClientFixture(script, tokens=["old"]), [b"1"]
        )

    def test_invalid_options(self) -> None:
        """Arguments out of range are refused, with the name of the argument."""
        fixture = ClientFixture()
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
                self.producer(fixture, **{argument: value})
            self.assertEqual(caught.exception.argument, argument)
            self.assertIsInstance(caught.exception, ClientError)

    def test_server_that_ignores_numbers(self) -> None:
        """A batch is not repeated to a server that does not deduplicate."""
        done = answer("204 No Content", Stream_Next_Offset="a")
        script = Script(done, LOST, done)
        fixture = ClientFixture(script)
        self.assertRaises(
            OutcomeUnknown,
            self.append_all,
            fixture,
            [b"1", b"2"],
            max_batch_bytes=1,
            max_in_flight=1,
        )
        self.assertEqual(len(script.requests), 2)
