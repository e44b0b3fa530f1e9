"""Tests of `durable_streams_tw.live.sse.broadcaster` and `feed`."""

from __future__ import annotations

import base64
from itertools import pairwise

from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from durable_streams_tw.live.limits import (
    FANOUT_SLICE,
    FANOUT_SLICE_IN_BURSTS,
    READ_PIECE,
    SSE_LIFETIME_SPREAD,
    TAIL_WINDOW,
)
from durable_streams_tw.protocol.cursors import interval_at
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import KIB, MIB, SSE_RETRY_FIRST_MS
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.state import Lifetime
from tests.live.live_case import (
    BEGAN,
    COMMENT,
    RECONNECT,
    LiveTestCase,
    RecordingSink,
    control,
)
from tests.sse_parser import Parser


class BeginningTests(LiveTestCase):
    """First events of a connection."""

    def test_data_then_control(self) -> None:
        """A data event is followed by a control event with the new position."""
        self.create(body=b"abc")
        sink = self.subscribe()
        self.assertEqual(sink.writes, [])
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls, [control(3)])
        self.assertEqual(len(sink.writes), 1)

    def test_nothing_yet(self) -> None:
        """Without data a control event is sent at once."""
        self.create()
        sink = self.subscribe()
        self.turn()
        self.assertEqual(sink.events[0][0], "control")
        self.assertEqual(sink.controls, [control(0)])

    def test_now(self) -> None:
        """With ``offset=now`` the first control event has the tail."""
        self.create(body=b"abc")
        sink = self.subscribe(NOW)
        self.turn()
        self.assertEqual(sink.controls, [control(3)])
        self.append(b"def")
        self.turn()
        self.assertEqual(sink.payload, "def")
        self.assertEqual(sink.controls[1:], [control(6)])

    def test_now_with_an_append_before_the_first_event(self) -> None:
        """The first event has the current tail; the data follow."""
        self.create(body=b"abc")
        sink = self.subscribe(NOW)
        self.append(b"def")
        self.turn()
        self.assertEqual(sink.controls, [control(3, up_to_date=False), control(6)])
        self.assertEqual(sink.payload, "def")

    def test_closed_at_the_tail(self) -> None:
        """One control event, then the end."""
        self.create(body=b"abc")
        self.close()
        sink = self.subscribe(NOW)
        self.turn()
        self.assertEqual([kind for kind, _ in sink.events], ["control"])
        self.assertEqual(sink.controls, [control(3, closed=True)])
        self.assertTrue(sink.ended)
        self.assertNothingLeft()

    def test_closed_with_data(self) -> None:
        """Data, the final control event, then the end."""
        self.create(body=b"abc")
        self.close()
        sink = self.subscribe()
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls, [control(3, closed=True)])
        self.assertTrue(sink.ended)

    def test_long_catch_up(self) -> None:
        """One chunk per turn; each data event is followed by a control event."""
        data = b"0123456789abcdef" * (MIB // 16) + b"end"
        self.create(body=data)
        sink = self.subscribe()
        self.turn()
        kinds = [kind for kind, _ in sink.events]
        self.assertEqual(kinds, ["data", "control"] * 5)
        self.assertEqual(sink.payload.encode(), data)
        ends = [READ_PIECE * number for number in (1, 2, 3, 4)]
        self.assertEqual(
            sink.controls, [control(end, up_to_date=False) for end in ends] + [control(MIB + 3)]
        )
        self.assertLess(max(map(len, sink.writes)), READ_PIECE + KIB)

    def test_catch_up_gives_turns_to_others(self) -> None:
        """Catching up on a long stream does not block the reactor."""
        self.create("application/octet-stream", bytes(20 * MIB))
        sink = self.subscribe()
        written: list[int] = []
        self.clock.callLater(0, lambda: written.append(len(sink.writes)))
        self.turn()
        self.assertLess(written[0], 20)
        self.assertEqual(sink.position, 20 * MIB)

    def test_json(self) -> None:
        """Events contain arrays of whole messages."""
        self.create("application/json", b'[{"a":1},"x"]')
        sink = self.subscribe()
        self.turn()
        self.append(b"[2]")
        self.append(b"3")
        self.turn()
        self.assertEqual(
            [data for kind, data in sink.events if kind == "data"], ['[{"a":1},"x"]', "[2,3]"]
        )

    def test_binary(self) -> None:
        """Each event is encoded in base64."""
        self.create("application/octet-stream", b"\x00\xff")
        sink = self.subscribe()
        self.turn()
        self.append(b"\x01")
        self.turn()
        texts = [data for kind, data in sink.events if kind == "data"]
        self.assertEqual([base64.b64decode(text) for text in texts], [b"\x00\xff", b"\x01"])

    def test_a_push_producer(self) -> None:
        """A subscriber can be registered as push producer of a transport."""
        self.create()
        sink = self.subscribe()
        self.assertTrue(verifyObject(IPushProducer, sink.producer))


class StreamTestCase(LiveTestCase):
    """Test case with an empty stream."""

    def setUp(self) -> None:
        super().setUp()
        self.create()


class FollowingTests(StreamTestCase):
    """Subscribers that are caught up."""

    def test_bursts_are_few_writes(self) -> None:
        """Two hundred appends in one turn are one write per subscriber."""
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        for number in range(200):
            self.append(b"%d," % number)
        self.turn()
        for sink in sinks:
            self.assertEqual(len(sink.writes), 2)
            self.assertEqual(sink.payload, "".join(f"{number}," for number in range(200)))
            self.assertEqual(sink.controls[-1], control(690))

    def test_encoded_once(self) -> None:
        """Subscribers at one position are sent the same bytes object."""
        sinks = [self.subscribe() for _ in range(FANOUT_SLICE * 2)]
        self.turn()
        self.append(b"abc")
        self.turn()
        self.assertEqual(len({id(sink.writes[-1]) for sink in sinks}), 1)

    def test_nothing_is_read_from_the_store(self) -> None:
        """Subscribers that keep up are served from the buffer."""
        sinks = [self.subscribe() for _ in range(5)]
        self.turn()
        reads = self.store.reads
        self.append(b"abc")
        self.turn()
        self.assertEqual([sink.payload for sink in sinks], ["abc"] * 5)
        self.assertEqual(self.store.reads, reads)

    def test_the_writer_does_not_wait(self) -> None:
        """Nothing is written during the commit."""
        sink = self.subscribe()
        self.turn()
        self.append(b"abc")
        self.assertEqual(len(sink.writes), 1)
        self.turn()
        self.assertEqual(len(sink.writes), 2)

    def test_slices(self) -> None:
        """Each turn writes to a slice; later slices include newer appends."""
        sinks = [self.subscribe() for _ in range(FANOUT_SLICE * 3)]
        self.turn()
        counts: list[int] = []

        def between_turns() -> None:
            counts.append(sum(len(sink.writes) == 2 for sink in sinks))
            if len(counts) == 1:
                self.append(b"more")

        self.append(b"abc")
        self.clock.callLater(0, between_turns)
        self.turn()
        self.assertEqual(counts, [FANOUT_SLICE])
        for sink in sinks:
            self.assertEqual(sink.payload, "abcmore")
            self.assertEqual(sink.controls[-1], control(7))
        self.assertEqual(sum(len(sink.writes) == 2 for sink in sinks), FANOUT_SLICE * 2)

    def test_burst(self) -> None:
        """While commits arrive faster than subscribers are reached, slices are small."""
        sinks = [self.subscribe() for _ in range(FANOUT_SLICE * 3)]
        self.turn()
        reached: list[int] = []

        def between_turns() -> None:
            reached.append(sum(sink.payload != "" for sink in sinks))
            if len(reached) == 1:
                self.append(b"b")
            if len(reached) < 3:
                self.clock.callLater(0, between_turns)

        self.append(b"a")
        self.clock.callLater(0, between_turns)
        self.turn()
        first, later = FANOUT_SLICE, FANOUT_SLICE_IN_BURSTS
        self.assertEqual(reached, [first, first + later, first + 2 * later])
        self.assertEqual({sink.payload for sink in sinks}, {"ab"})
        reached.clear()
        self.append(b"c")
        self.clock.callLater(
            0, lambda: reached.append(sum(sink.payload == "abc" for sink in sinks))
        )
        self.turn()
        self.assertEqual(reached, [FANOUT_SLICE])

    def test_up_to_date_only_at_the_tail(self) -> None:
        """Of a burst larger than a chunk only the last event is up to date."""
        sink = self.subscribe()
        self.turn()
        self.append(b"x" * READ_PIECE)
        self.append(b"y" * 10)
        self.turn()
        self.assertEqual(
            sink.controls[1:],
            [control(READ_PIECE, up_to_date=False), control(READ_PIECE + 10)],
        )
        self.assertLess(max(map(len, sink.writes)), READ_PIECE + KIB)

    def test_burst_above_the_buffer(self) -> None:
        """A burst larger than the buffer is read from the store."""
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        self.append(b"x" * (TAIL_WINDOW + 5))
        self.append(b"end")
        self.turn()
        for sink in sinks:
            self.assertEqual(sink.payload, "x" * (TAIL_WINDOW + 5) + "end")
            self.assertEqual(sink.controls[-1], control(TAIL_WINDOW + 8))

    def test_json_batch_above_an_event(self) -> None:
        """A batch larger than an event is cut between messages by the store."""
        self.create("application/json", path="j")
        sink = self.subscribe(path="j")
        self.turn()
        message = b'"' + b"m" * 1000 + b'"'
        self.append(b"[" + b",".join([message] * 300) + b"]", path="j")
        self.append(b"1", path="j")
        self.turn()
        self.assertEqual(sink.payload.count("m" * 1000), 300)
        self.assertTrue(sink.payload.endswith("1]"))
        self.assertLess(max(map(len, sink.writes)), READ_PIECE + 20 * KIB)

    def test_buffer_is_released(self) -> None:
        """Bytes sent to all are dropped, and all bytes without subscribers."""
        sink = self.subscribe()
        self.turn()
        (tail,) = self.registry._streams.values()
        buffer = tail.buffer
        assert buffer is not None
        self.append(b"x" * 1000)
        self.assertEqual(buffer.end - buffer.start, 1000)
        self.turn()
        self.assertEqual(buffer.end - buffer.start, 0)
        assert sink.producer is not None
        waiting = self.wait(self.chunk(NOW))
        sink.producer.stopProducing()
        self.assertIsNone(tail.buffer)
        self.append(b"y")
        self.turn()
        self.successResultOf(waiting)
        self.assertNothingLeft()

    def test_close(self) -> None:
        """All get the final control event, then the end."""
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        self.append(b"abc", closed=True)
        self.turn()
        for sink in sinks:
            self.assertEqual(sink.payload, "abc")
            self.assertEqual(sink.controls[1:], [control(3, closed=True)])
            self.assertTrue(sink.ended)
        self.assertNothingLeft()

    def test_close_without_data(self) -> None:
        sink = self.subscribe()
        self.turn()
        self.close()
        self.turn()
        self.assertEqual(sink.controls, [control(0), control(0, closed=True)])
        self.assertTrue(sink.ended)

    def test_deleted(self) -> None:
        """Earlier commits are sent, then the connection ends."""
        sinks = [self.subscribe() for _ in range(FANOUT_SLICE + 5)]
        self.turn()
        sinks[3].pause()
        self.append(b"abc")
        self.delete()
        self.create(body=b"another")
        self.turn()
        for sink in sinks:
            self.assertTrue(sink.ended)
            self.assertEqual(sink.payload, "" if sink is sinks[3] else "abc")
        self.assertNothingLeft()

    def test_a_subscriber_that_comes_while_the_stream_goes(self) -> None:
        """A subscription to a deleted stream sends the chunk that was read, then ends."""
        old = self.subscribe()
        self.turn()
        chunk = self.chunk()
        self.delete()
        new = self.subscribe(chunk=chunk)
        self.turn()
        self.assertTrue(old.ended)
        self.assertTrue(new.ended)
        self.assertEqual(new.controls, [control(0)])
        self.assertNothingLeft()

    def test_does_not_expire_while_followed(self) -> None:
        """The TTL restarts when the last subscriber leaves."""
        self.create(path="t", lifetime=Lifetime(ttl=5))
        self.chance = 0.0
        sink = self.subscribe(path="t")
        self.turn()
        self.clock.advance(RECONNECT - 1)
        self.store.memory.sweep()
        self.turn()
        self.assertFalse(sink.ended)
        self.clock.advance(1)
        self.assertTrue(sink.ended)
        self.clock.advance(5)
        self.store.memory.sweep()
        self.assertIsInstance(self.successResultOf(self.store.get_state("t")), Refusal)

    def test_expired(self) -> None:
        """A deadline ends connections."""
        deadline = int(self.clock.seconds() * 1000) + 10_000
        self.create(path="t", lifetime=Lifetime(expires_at=deadline))
        sink = self.subscribe(path="t")
        self.clock.advance(10)
        self.store.memory.sweep()
        self.turn()
        self.assertTrue(sink.ended)
        self.assertNothingLeft()


class TextTests(StreamTestCase):
    """Characters and line ends split between two appends."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = self.subscribe()
        self.turn()

    def send(self, *pieces: bytes) -> None:
        """Append, with a turn after each append."""
        for piece in pieces:
            self.append(piece)
            self.turn()

    def test_a_torn_character(self) -> None:
        """The first bytes of a character are held back, also in the position."""
        self.send(b"a\xf0\x9f", b"\x98", b"\x80b")
        self.assertEqual(self.sink.payload, "a\N{GRINNING FACE}b")
        self.assertEqual(self.sink.controls[1:], [control(1, up_to_date=False), control(6)])

    def test_a_torn_character_at_the_end(self) -> None:
        """An incomplete character is sent when the stream is closed."""
        self.send(b"a\xf0\x9f")
        self.close()
        self.turn()
        self.assertEqual(self.sink.payload, "a\N{REPLACEMENT CHARACTER}")
        self.assertEqual(self.sink.controls[-1], control(3, closed=True))

    def test_subscriber_at_a_torn_character(self) -> None:
        """A new subscriber starts at the first byte of the character."""
        self.send(b"a\xf0\x9f")
        late = self.subscribe()
        at_the_tear = self.subscribe(self.sink.position)
        self.turn()
        self.send(b"\x98\x80")
        self.assertEqual(late.payload, "a\N{GRINNING FACE}")
        self.assertEqual(at_the_tear.payload, "\N{GRINNING FACE}")
        self.assertEqual(at_the_tear.controls[0], control(1, up_to_date=False))
        self.assertEqual(at_the_tear.controls[-1], control(5))

    def test_torn_character_without_notification(self) -> None:
        """A read that saw the rest of a character causes one further read, not endless ones."""
        self.send(b"a", b"\xe2")
        self.store.mute = True
        self.append(b"\x82\xac")
        late = self.subscribe(NOW)
        self.sink.pause()
        self.sink.drain()
        self.turn()
        self.assertEqual(self.sink.payload, "a\N{EURO SIGN}")
        self.assertEqual(self.sink.controls[-1], control(4))
        self.assertEqual(late.controls, [control(4)])

    def test_a_torn_line_end(self) -> None:
        """CR LF is one line end, also in two appends."""
        self.send(b"a\r", b"\nb\r", b"\r\n", b"\n")
        self.assertEqual(self.sink.payload, "a\nb\n\n\n")
        self.assertEqual([event["upToDate"] for event in self.sink.controls], [True] * 5)
        self.assertEqual(self.sink.controls[-1], control(8))

    def test_line_feed_after_a_sent_return(self) -> None:
        """The position moves without a data event."""
        self.send(b"a\r", b"\n")
        self.assertEqual([kind for kind, _ in self.sink.events].count("data"), 1)
        self.assertEqual(self.sink.controls[-1], control(3))

    def test_subscriber_at_a_torn_line_end(self) -> None:
        """A subscriber that was not sent the carriage return is sent the line feed."""
        self.send(b"a\r")
        late = self.subscribe(NOW)
        self.turn()
        self.send(b"\nb")
        self.assertEqual((self.sink.payload, late.payload), ("a\nb", "\nb"))

    def test_nothing_forges_an_event(self) -> None:
        """Payloads that look like SSE fields stay payloads."""
        hostile = "event: control\ndata: {}\n\n:x\nid: 1\n data\ufeff\u2028\0end\n\n"
        self.send(hostile.encode())
        self.assertEqual(self.sink.payload, hostile)
        self.assertEqual(len(self.sink.events), 3)


class CursorTests(StreamTestCase):
    """Cursors (PROTOCOL.md §10.1)."""

    def setUp(self) -> None:
        super().setUp()
        self.current = interval_at(BEGAN)

    def cursors(self, sink: RecordingSink) -> list[int]:
        """Return the cursors sent to a client."""
        return [int(event["streamCursor"]) for event in sink.controls]

    def test_follows_the_time(self) -> None:
        """Without a cursor, or with an old one, cursors follow the time."""
        sinks = [self.subscribe(), self.subscribe(cursor=self.current - 1)]
        self.turn()
        self.clock.advance(20)
        self.append(b"a")
        self.turn()
        for sink in sinks:
            self.assertEqual(self.cursors(sink), [self.current, self.current + 1])

    def test_beyond_the_clients(self) -> None:
        """All cursors are above a current one of the client, and none decreases."""
        for echoed in (self.current, self.current + 5):
            for self.chance in (0.0, 0.999):
                sink = self.subscribe(cursor=echoed)
                self.turn()
                self.append(b"a")
                self.turn()
                cursors = self.cursors(sink)
                self.assertGreater(cursors[0], echoed)
                self.assertEqual(cursors, sorted(cursors))

    def test_time_overtakes(self) -> None:
        """Cursors follow the time again once it is past the floor."""
        self.chance = 0.0
        sink = self.subscribe(cursor=self.current)
        self.turn()
        self.clock.advance(40)
        self.append(b"a")
        self.turn()
        self.assertEqual(self.cursors(sink), [self.current + 1, self.current + 2])

    def test_frames_by_cursor(self) -> None:
        """Subscribers with equal cursors share a frame."""
        self.chance = 0.0
        floors = [None, self.current, self.current + 7, self.current + 7]
        sinks = [self.subscribe(cursor=floor) for floor in floors]
        self.turn()
        self.append(b"abc")
        self.turn()
        self.assertEqual([self.cursors(sink)[-1] - self.current for sink in sinks], [0, 1, 8, 8])
        self.assertIs(sinks[2].writes[-1], sinks[3].writes[-1])


class PausingTests(StreamTestCase):
    """Back-pressure."""

    def test_a_paused_reader_is_sent_nothing(self) -> None:
        """After resuming it continues at its own position."""
        slow, quick = self.subscribe(), self.subscribe()
        self.turn()
        slow.pause()
        self.append(b"abc")
        self.turn()
        self.append(b"def")
        self.turn()
        self.assertEqual(len(slow.writes), 1)
        self.assertEqual(quick.payload, "abcdef")
        slow.drain()
        self.assertEqual(len(slow.writes), 1)
        self.turn()
        self.assertEqual(slow.payload, "abcdef")
        self.assertEqual(slow.controls[-1], control(6))
        self.append(b"ghi")
        self.turn()
        self.assertEqual((slow.payload, quick.payload), ("abcdefghi", "abcdefghi"))

    def test_resumed_with_nothing_new(self) -> None:
        """Resuming without news causes no read and no write."""
        sink = self.subscribe()
        self.turn()
        sink.pause()
        reads = self.store.reads
        sink.drain()
        self.turn()
        self.assertEqual(self.store.reads, reads)
        self.assertEqual(len(sink.writes), 1)
        self.append(b"abc")
        self.turn()
        self.assertEqual(sink.payload, "abc")

    def test_paused_before_the_first_write(self) -> None:
        self.append(b"abc")
        sink = self.subscribe()
        sink.pause()
        self.turn()
        self.assertEqual(sink.writes, [])
        sink.drain()
        self.turn()
        self.assertEqual(sink.payload, "abc")

    def test_one_chunk_at_a_time(self) -> None:
        """While catching up, each write waits for the transport."""
        self.append(b"x" * MIB)
        sink = self.subscribe(room=64 * KIB)
        for writes in (1, 2, 3, 4):
            self.turn()
            self.assertEqual(len(sink.writes), writes)
            sink.drain()
        self.turn()
        self.assertEqual(len(sink.writes), 4)
        self.assertEqual(sink.controls[-1], control(MIB))

    def test_paused_and_resumed_within_a_write(self) -> None:
        sink = self.subscribe()
        self.turn()

        def waver() -> None:
            sink.pause()
            sink.drain()

        sink.on_write = waver
        for data in (b"abc", b"def"):
            self.append(data)
            self.turn()
        self.assertEqual(sink.payload, "abcdef")

    def test_paused_while_it_reads(self) -> None:
        """The bytes read are dropped, and read again later."""
        self.append(b"x" * READ_PIECE * 2)
        sink = self.subscribe()
        self.store.holding = True
        self.turn()
        sink.pause()
        self.store.release()
        self.turn()
        self.assertEqual(len(sink.writes), 1)
        sink.drain()
        self.turn()
        self.store.release()
        self.assertEqual(sink.controls[-1], control(READ_PIECE * 2))

    def test_paused_and_resumed_while_it_reads(self) -> None:
        """One read is enough."""
        self.append(b"x" * READ_PIECE * 2)
        sink = self.subscribe()
        self.store.holding = True
        self.turn()
        reads = self.store.reads
        sink.pause()
        sink.drain()
        self.turn()
        self.assertEqual(self.store.reads, reads)
        self.store.release()
        self.assertEqual(sink.controls[-1], control(READ_PIECE * 2))

    def test_stalled_reader_costs_nothing(self) -> None:
        """A subscriber that never reads causes no bytes, reads, comments or timers, except the
        timer that ends it.
        """
        self.chance = 0.0
        sink = self.subscribe(room=0)
        self.turn()
        reads = self.store.reads
        self.assertTrue(sink.paused)
        for _ in range(100):
            self.append(b"x" * 64 * KIB)
            self.turn()
        (tail,) = self.registry._streams.values()
        buffer = tail.buffer
        assert buffer is not None
        self.assertEqual(buffer.end - buffer.start, 0)
        self.clock.advance(RECONNECT - 1)
        self.assertEqual(len(sink.writes), 1)
        self.assertEqual(self.store.reads, reads)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1)
        self.assertTrue(sink.ended)
        self.assertNothingLeft()

    def test_reads_are_shared(self) -> None:
        """Subscribers at one position share a read from the store."""
        sinks = [self.subscribe() for _ in range(4)]
        self.turn()
        self.store.holding = True
        reads = self.store.reads
        self.append(b"x" * (TAIL_WINDOW + 1))
        self.turn()
        self.assertEqual(self.store.reads, reads + 1)
        for _ in range(5):
            self.store.release()
            self.turn()
        self.assertEqual([sink.position for sink in sinks], [TAIL_WINDOW + 1] * 4)
        self.assertEqual(self.store.reads, reads + 5)


class RaceTests(LiveTestCase):
    """No bytes are lost or duplicated between the read and the subscription."""

    def setUp(self) -> None:
        super().setUp()
        self.create(body=b"abc")

    def test_append_between_read_and_subscription(self) -> None:
        """The read after the subscription finds the commit."""
        chunk = self.chunk()
        self.append(b"def")
        sink = self.subscribe(chunk=chunk)
        self.turn()
        self.assertEqual(sink.payload, "abcdef")
        self.append(b"ghi")
        self.turn()
        self.assertEqual(sink.payload, "abcdefghi")

    def test_close_between_read_and_subscription(self) -> None:
        """The read after the subscription finds the close."""
        chunk = self.chunk()
        self.close()
        sink = self.subscribe(chunk=chunk)
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls[-1], control(3, closed=True))
        self.assertTrue(sink.ended)

    def test_append_during_the_read(self) -> None:
        """The read missed the commit, which was announced before its result."""
        self.store.holding = True
        sink = self.subscribe()
        self.turn()
        self.append(b"def")
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.store.release()
        self.turn()
        self.store.release()
        self.turn()
        self.assertEqual(sink.payload, "abcdef")
        self.assertEqual(sink.controls[-1], control(6))

    def test_close_during_the_read(self) -> None:
        """The read missed the close, which was announced before its result."""
        self.store.holding = True
        sink = self.subscribe()
        self.turn()
        self.close()
        self.store.release()
        self.turn()
        self.assertEqual(sink.controls[-1], control(3, closed=True))
        self.assertTrue(sink.ended)

    def test_read_before_the_notification(self) -> None:
        """A read that saw a commit before its notification sends nothing twice."""
        first = self.subscribe()
        self.turn()
        self.store.mute = True
        self.append(b"def")
        second = self.subscribe()
        self.turn()
        self.assertEqual((first.payload, second.payload), ("abc", "abcdef"))
        self.store.tell()
        self.turn()
        self.append(b"ghi")
        self.store.tell()
        self.turn()
        self.assertEqual((first.payload, second.payload), ("abcdefghi", "abcdefghi"))
        self.assertEqual(second.controls, [control(6), control(9)])

    def test_resumed_before_the_notification(self) -> None:
        """A subscriber that learns of a newer tail from another one's read reads it."""
        first = self.subscribe()
        self.turn()
        first.pause()
        self.store.mute = True
        self.append(b"def")
        self.subscribe()
        self.turn()
        first.drain()
        self.turn()
        self.assertEqual(first.payload, "abcdef")
        self.store.tell()
        self.turn()
        self.assertEqual(first.payload, "abcdef")

    def test_close_read_before_the_notification(self) -> None:
        """The subscriber whose read saw the close ends; the others end at its notification."""
        first = self.subscribe()
        self.turn()
        self.store.mute = True
        self.append(b"def", closed=True)
        second = self.subscribe()
        self.turn()
        self.assertTrue(second.ended)
        self.store.tell()
        self.turn()
        self.assertEqual(first.payload, "abcdef")
        self.assertTrue(first.ended)
        self.assertNothingLeft()

    def test_reordered_notifications(self) -> None:
        """A listener that appends makes later notifications arrive first."""
        sink = self.subscribe()
        self.turn()
        self.store.mute = True
        self.append(b"def")
        earlier, self.store._untold = self.store._untold, []
        self.append(b"ghi")
        self.store.tell()
        self.store._untold = earlier
        self.store.tell()
        self.turn()
        self.assertEqual(sink.payload, "abcdefghi")

    def test_notification_without_bytes(self) -> None:
        """Bytes missing in a notification are read from the store."""
        for number, pending in enumerate((b"", b"def")):
            path = f"s{number}"
            self.create(body=b"abc", path=path)
            sink = self.subscribe(path=path)
            self.turn()
            if pending:
                self.append(pending, path)
            self.store.mute = True
            self.append(b"ghi", path, closed=True)
            self.store.tell_states()
            self.store.mute = False
            for _ in range(4):
                self.turn()
            self.assertEqual(sink.payload, f"abc{pending.decode()}ghi")
            self.assertTrue(sink.ended)

    def test_committed_within_a_write(self) -> None:
        """An append inside a sink's write is delivered."""
        sink = self.subscribe()
        self.turn()
        more = [b"3", b"2", b"1"]
        sink.on_write = lambda: self.append(more.pop()) if more else None
        self.append(b"0")
        self.turn()
        self.assertEqual(sink.payload, "abc0123")
        self.assertEqual(sink.controls[-1], control(7))


class SilenceTests(StreamTestCase):
    """Comments and reconnects."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = self.subscribe()
        self.turn()

    def test_a_comment_after_silence(self) -> None:
        """A comment is sent after each idle interval."""
        self.clock.advance(COMMENT - 0.25)
        self.assertEqual(len(self.sink.writes), 1)
        self.clock.advance(0.25)
        self.assertEqual(len(self.sink.writes), 2)
        self.assertTrue(self.sink.writes[1].startswith(b":"))
        self.assertTrue(self.sink.writes[1].endswith(b"\n\n"))
        self.clock.advance(COMMENT)
        self.assertEqual(len(self.sink.writes), 3)
        self.assertEqual(len(self.sink.events), 1)

    def test_silence_counts_from_the_last_write(self) -> None:
        for _ in range(4):
            self.clock.advance(COMMENT - 5)
            self.append(b"x")
            self.turn()
        self.assertEqual(len(self.sink.writes), 5)
        self.clock.advance(COMMENT)
        self.assertEqual(len(self.sink.writes), 6)

    def test_comments_resume_with_the_reader(self) -> None:
        """No comments while paused; then after the usual interval."""
        self.sink.pause()
        self.clock.advance(COMMENT * 2)
        self.sink.drain()
        self.clock.advance(COMMENT)
        self.assertEqual(len(self.sink.writes), 2)

    def test_timers_do_not_grow_with_readers(self) -> None:
        """Idle subscribers share two delayed calls."""
        for _ in range(20):
            self.subscribe()
        self.turn()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)

    def test_reconnect(self) -> None:
        """The connection ends as complete after a control event."""
        self.append(b"abc")
        self.clock.advance(RECONNECT * 0.9 - 0.25)
        self.assertFalse(self.sink.ended)
        self.clock.advance(0.25)
        self.assertTrue(self.sink.ended)
        self.assertEqual(self.sink.events[-1][0], "control")
        self.assertEqual(self.sink.position, 3)
        self.assertNothingLeft()

    def test_random_lifetimes(self) -> None:
        """Lifetimes are random, so that clients do not reconnect together."""
        sinks = []
        for step in range(100):
            self.chance = step / 100
            sinks.append(self.subscribe())
        self.turn()
        ended = []
        for _ in range(int(RECONNECT) + 1):
            ended.append(sum(sink.ended for sink in sinks))
            self.clock.advance(1)
        self.assertEqual(ended[int(RECONNECT * (1 - SSE_LIFETIME_SPREAD)) - 2], 0)
        self.assertEqual(sum(sink.ended for sink in sinks), 100)
        most = max(later - before for before, later in pairwise(ended))
        self.assertLess(most, 20)
        self.clock.advance(RECONNECT)

    def test_random_retry_field(self) -> None:
        """Each connection begins with a random ``retry`` field."""
        told = []
        for chance in (0.0, 0.5, 0.99):
            self.chance = chance
            sink = self.subscribe()
            self.turn()
            parser = Parser()
            self.assertEqual(len(parser.feed(sink.bytes)), 1)
            told.append(parser.retry)
        self.assertEqual(told, [SSE_RETRY_FIRST_MS, 1750, 2975])

    def test_reconnect_while_catching_up(self) -> None:
        """The client continues at the last control event."""
        self.append(b"x" * MIB)
        late = self.subscribe(room=0)
        self.turn()
        self.clock.advance(RECONNECT)
        self.assertTrue(late.ended)
        self.assertEqual(late.controls, [control(READ_PIECE, up_to_date=False)])

    def test_reconnect_before_the_first_write(self) -> None:
        """The client gets a control event first."""
        late = self.subscribe()
        late.pause()
        self.clock.advance(RECONNECT)
        self.assertTrue(late.ended)
        self.assertEqual(late.position, 0)


class EndingTests(StreamTestCase):
    """Clients that disconnect, sinks and stores that fail, servers that stop."""

    def test_client_disconnects(self) -> None:
        """All resources are released, without a call to the sink."""
        sink, other = self.subscribe(), self.subscribe()
        self.turn()
        assert sink.producer is not None
        sink.producer.stopProducing()
        sink.producer.stopProducing()
        sink.producer.resumeProducing()
        self.append(b"abc")
        self.turn()
        self.assertEqual((len(sink.writes), other.payload), (1, "abc"))
        self.assertFalse(sink.over)
        assert other.producer is not None
        other.producer.stopProducing()
        self.assertNothingLeft()

    def test_gone_before_the_first_write(self) -> None:
        """Nothing is written."""
        sink = self.subscribe()
        assert sink.producer is not None
        sink.producer.stopProducing()
        self.turn()
        self.assertEqual(sink.writes, [])
        self.assertNothingLeft()

    def test_gone_within_a_write(self) -> None:
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        gone = sinks[1].producer
        assert gone is not None
        sinks[1].on_write = gone.stopProducing
        self.append(b"abc", closed=True)
        self.turn()
        self.assertEqual([sink.ended for sink in sinks], [True, False, True])
        self.assertNothingLeft()

    def test_gone_while_it_reads(self) -> None:
        """The result of the read is dropped."""
        self.store.holding = True
        sink = self.subscribe()
        self.turn()
        assert sink.producer is not None
        sink.producer.stopProducing()
        self.store.release()
        self.assertNothingLeft()

    def test_a_sink_that_fails(self) -> None:
        """The sink is aborted, and the other subscribers are written to."""
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        sinks[1].failing = True
        self.append(b"abc")
        self.turn()
        self.assertEqual([sink.payload for sink in sinks], ["abc", "", "abc"])
        self.assertEqual([sink.aborted for sink in sinks], [False, True, False])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.fanout.count, 2)

    def test_a_refused_read(self) -> None:
        """The subscriber is aborted; the others continue."""
        quick, slow = self.subscribe(), self.subscribe()
        self.turn()
        slow.pause()
        self.append(b"abc")
        self.turn()
        self.store.broken = Refusal(Problem.CORRUPT_RECORD, "bad bytes")
        slow.drain()
        self.append(b"def")
        self.turn()
        self.assertEqual((slow.aborted, quick.aborted), (True, False))
        self.assertEqual(quick.payload, "abcdef")

    def test_a_failing_read(self) -> None:
        """A bug of the store is logged, and aborts only the subscriber that reads."""
        quick, slow = self.subscribe(), self.subscribe()
        self.turn()
        slow.pause()
        self.append(b"abc")
        self.turn()
        self.store.broken = ZeroDivisionError()
        slow.drain()
        self.append(b"def")
        self.turn()
        self.assertEqual((slow.aborted, quick.aborted), (True, False))
        self.assertEqual(quick.payload, "abcdef")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_read_that_brings_nothing(self) -> None:
        """An empty read before the tail aborts the subscriber instead of repeating."""
        chunk = self.chunk()
        self.append(b"abc")
        sink = self.subscribe(chunk=chunk)
        self.patch(self.store.memory, "_parts", lambda *_: [])
        self.turn()
        self.assertTrue(sink.aborted)

    def test_stop(self) -> None:
        """All connections end after a control event."""
        self.append(b"abc")
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        new = self.subscribe()
        self.fanout.stop()
        for sink in [*sinks, new]:
            self.assertEqual(sink.events[-1][0], "control")
            self.assertEqual(sink.position, 3)
            self.assertTrue(sink.ended)
        later = self.subscribe()
        self.turn()
        self.assertTrue(later.ended)
        self.assertEqual(later.position, 3)
        self.assertNothingLeft()
