"""Tests of `durable_streams_tw.live.sse.broadcaster`: what each reader is sent, and when."""

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
from tests.live.rig import (
    BEGAN,
    COMMENT,
    RECONNECT,
    LiveTestCase,
    RecordingSink,
    control,
)
from tests.sse_parser import Parser


class BeginningTests(LiveTestCase):
    """The first events of a connection."""

    def test_data_then_control(self) -> None:
        """What is there, and where that leaves the client."""
        self.create(body=b"abc")
        sink = self.subscribe()
        self.assertEqual(sink.writes, [])
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls, [control(3)])
        self.assertEqual(len(sink.writes), 1)

    def test_nothing_yet(self) -> None:
        """A control event comes at once, and no data event."""
        self.create()
        sink = self.subscribe()
        self.turn()
        self.assertEqual(sink.events[0][0], "control")
        self.assertEqual(sink.controls, [control(0)])

    def test_now(self) -> None:
        """The first control event carries the tail."""
        self.create(body=b"abc")
        sink = self.subscribe(NOW)
        self.turn()
        self.assertEqual(sink.controls, [control(3)])
        self.append(b"def")
        self.turn()
        self.assertEqual(sink.payload, "def")
        self.assertEqual(sink.controls[1:], [control(6)])

    def test_now_with_an_append_before_the_first_event(self) -> None:
        """The event says what is true by then, and the data follow."""
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
        """Data, the final control event, the end."""
        self.create(body=b"abc")
        self.close()
        sink = self.subscribe()
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls, [control(3, closed=True)])
        self.assertTrue(sink.ended)

    def test_long_catch_up(self) -> None:
        """Chunk by chunk, a turn each; every data event has its control event."""
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
        """A reader of a long stream does not hold the reactor."""
        self.create("application/octet-stream", bytes(20 * MIB))
        sink = self.subscribe()
        written: list[int] = []
        self.clock.callLater(0, lambda: written.append(len(sink.writes)))
        self.turn()
        self.assertLess(written[0], 20)
        self.assertEqual(sink.position, 20 * MIB)

    def test_json(self) -> None:
        """Events hold whole messages, as arrays."""
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
        """Base64, each event for itself."""
        self.create("application/octet-stream", b"\x00\xff")
        sink = self.subscribe()
        self.turn()
        self.append(b"\x01")
        self.turn()
        texts = [data for kind, data in sink.events if kind == "data"]
        self.assertEqual([base64.b64decode(text) for text in texts], [b"\x00\xff", b"\x01"])

    def test_a_push_producer(self) -> None:
        """Transports take it as it is."""
        self.create()
        sink = self.subscribe()
        self.assertTrue(verifyObject(IPushProducer, sink.producer))


class FollowingTests(LiveTestCase):
    """Caught-up readers."""

    def setUp(self) -> None:
        """An empty stream of text."""
        super().setUp()
        self.create()

    def test_bursts_are_few_writes(self) -> None:
        """Two hundred appends in one turn are one event for each reader."""
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
        """Readers at one position are sent the same bytes object."""
        sinks = [self.subscribe() for _ in range(FANOUT_SLICE * 2)]
        self.turn()
        self.append(b"abc")
        self.turn()
        self.assertEqual(len({id(sink.writes[-1]) for sink in sinks}), 1)

    def test_nothing_is_read_from_the_store(self) -> None:
        """Who keeps up is served from memory."""
        sinks = [self.subscribe() for _ in range(5)]
        self.turn()
        reads = self.store.reads
        self.append(b"abc")
        self.turn()
        self.assertEqual([sink.payload for sink in sinks], ["abc"] * 5)
        self.assertEqual(self.store.reads, reads)

    def test_the_writer_does_not_wait(self) -> None:
        """Nothing is written within the commit."""
        sink = self.subscribe()
        self.turn()
        self.append(b"abc")
        self.assertEqual(len(sink.writes), 1)
        self.turn()
        self.assertEqual(len(sink.writes), 2)

    def test_slices(self) -> None:
        """Each turn writes to a slice; who is written to later is sent what came meanwhile."""
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
        """While commits come faster than all are reached, a writer waits for few; then no more."""
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
        """A burst larger than a chunk comes in pieces; only the last is up to date."""
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

    def test_more_than_the_window_holds(self) -> None:
        """Then the store serves all of it."""
        sinks = [self.subscribe() for _ in range(3)]
        self.turn()
        self.append(b"x" * (TAIL_WINDOW + 5))
        self.append(b"end")
        self.turn()
        for sink in sinks:
            self.assertEqual(sink.payload, "x" * (TAIL_WINDOW + 5) + "end")
            self.assertEqual(sink.controls[-1], control(TAIL_WINDOW + 8))

    def test_json_messages_that_the_window_cannot_cut(self) -> None:
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

    def test_the_window_is_let_go(self) -> None:
        """Bytes that all have been sent are not kept, and none without readers."""
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
        """A control event alone."""
        sink = self.subscribe()
        self.turn()
        self.close()
        self.turn()
        self.assertEqual(sink.controls, [control(0), control(0, closed=True)])
        self.assertTrue(sink.ended)

    def test_deleted(self) -> None:
        """What was committed before is sent, then the connection ends."""
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
        """It began with a stream that is gone by now: what it has read, then the end."""
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
        """A TTL counts from when the last reader has gone."""
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


class TextTests(LiveTestCase):
    """Characters and line ends that fall between two appends."""

    def setUp(self) -> None:
        """A reader of an empty stream."""
        super().setUp()
        self.create()
        self.sink = self.subscribe()
        self.turn()

    def send(self, *pieces: bytes) -> None:
        """Append, a turn each."""
        for piece in pieces:
            self.append(piece)
            self.turn()

    def test_a_torn_character(self) -> None:
        """Its first bytes wait for the rest; the position says so."""
        self.send(b"a\xf0\x9f", b"\x98", b"\x80b")
        self.assertEqual(self.sink.payload, "a\N{GRINNING FACE}b")
        self.assertEqual(self.sink.controls[1:], [control(1, up_to_date=False), control(6)])

    def test_a_torn_character_at_the_end(self) -> None:
        """When nothing can follow any more, what there is goes out."""
        self.send(b"a\xf0\x9f")
        self.close()
        self.turn()
        self.assertEqual(self.sink.payload, "a\N{REPLACEMENT CHARACTER}")
        self.assertEqual(self.sink.controls[-1], control(3, closed=True))

    def test_a_reader_who_comes_while_a_character_is_torn(self) -> None:
        """It goes on from the character's start."""
        self.send(b"a\xf0\x9f")
        late = self.subscribe()
        at_the_tear = self.subscribe(self.sink.position)
        self.turn()
        self.send(b"\x98\x80")
        self.assertEqual(late.payload, "a\N{GRINNING FACE}")
        self.assertEqual(at_the_tear.payload, "\N{GRINNING FACE}")
        self.assertEqual(at_the_tear.controls[0], control(1, up_to_date=False))
        self.assertEqual(at_the_tear.controls[-1], control(5))

    def test_a_character_whose_rest_was_seen_and_not_told(self) -> None:
        """Whoever has its start reads on in the store, once, instead of looking for ever."""
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
        """CR LF is one line end, also where the two come one by one."""
        self.send(b"a\r", b"\nb\r", b"\r\n", b"\n")
        self.assertEqual(self.sink.payload, "a\nb\n\n\n")
        self.assertEqual([event["upToDate"] for event in self.sink.controls], [True] * 5)
        self.assertEqual(self.sink.controls[-1], control(8))

    def test_a_lone_line_feed_behind_a_return(self) -> None:
        """There is nothing more to show, but the position moves."""
        self.send(b"a\r", b"\n")
        self.assertEqual([kind for kind, _ in self.sink.events].count("data"), 1)
        self.assertEqual(self.sink.controls[-1], control(3))

    def test_a_reader_who_comes_while_a_line_end_is_torn(self) -> None:
        """It has not been shown the return, so the line feed is its own."""
        self.send(b"a\r")
        late = self.subscribe(NOW)
        self.turn()
        self.send(b"\nb")
        self.assertEqual((self.sink.payload, late.payload), ("a\nb", "\nb"))

    def test_nothing_forges_an_event(self) -> None:
        """Payloads that look like the format are payloads."""
        hostile = "event: control\ndata: {}\n\n:x\nid: 1\n data\ufeff\u2028\0end\n\n"
        self.send(hostile.encode())
        self.assertEqual(self.sink.payload, hostile)
        self.assertEqual(len(self.sink.events), 3)


class CursorTests(LiveTestCase):
    """PROTOCOL.md §10.1."""

    def setUp(self) -> None:
        """An empty stream, and the interval that tests begin in."""
        super().setUp()
        self.create()
        self.current = interval_at(BEGAN)

    def cursors(self, sink: RecordingSink) -> list[int]:
        """The cursors that a client was sent."""
        return [int(event["streamCursor"]) for event in sink.controls]

    def test_follows_the_time(self) -> None:
        """Where the client has none, or an old one."""
        sinks = [self.subscribe(), self.subscribe(cursor=self.current - 1)]
        self.turn()
        self.clock.advance(20)
        self.append(b"a")
        self.turn()
        for sink in sinks:
            self.assertEqual(self.cursors(sink), [self.current, self.current + 1])

    def test_beyond_the_clients(self) -> None:
        """Every cursor is beyond one that is not behind, and none goes backwards."""
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
        """A floor is left behind in the end."""
        self.chance = 0.0
        sink = self.subscribe(cursor=self.current)
        self.turn()
        self.clock.advance(40)
        self.append(b"a")
        self.turn()
        self.assertEqual(self.cursors(sink), [self.current + 1, self.current + 2])

    def test_frames_by_cursor(self) -> None:
        """Readers with different cursors are each sent their own, equal ones share."""
        self.chance = 0.0
        floors = [None, self.current, self.current + 7, self.current + 7]
        sinks = [self.subscribe(cursor=floor) for floor in floors]
        self.turn()
        self.append(b"abc")
        self.turn()
        self.assertEqual([self.cursors(sink)[-1] - self.current for sink in sinks], [0, 1, 8, 8])
        self.assertIs(sinks[2].writes[-1], sinks[3].writes[-1])


class PausingTests(LiveTestCase):
    """Back-pressure."""

    def setUp(self) -> None:
        """An empty stream."""
        super().setUp()
        self.create()

    def test_a_paused_reader_is_sent_nothing(self) -> None:
        """It reads on from its own position when it resumes."""
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
        """Joins the others without a read or a write."""
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
        """A transport may be full of heads."""
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
        """A transport may change its mind at once."""
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
        """What was read for it is dropped, and read again."""
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

    def test_one_that_never_reads_costs_nothing(self) -> None:
        """No bytes, no reads, no comments, no timers but the one that ends it."""
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
        """Readers behind at one position wait for one read."""
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
    """Between looking and joining the caught-up readers nothing is lost or doubled."""

    def setUp(self) -> None:
        """A stream with three bytes."""
        super().setUp()
        self.create(body=b"abc")

    def test_between_the_requests_look_and_the_subscription(self) -> None:
        """The look behind the registration finds it."""
        chunk = self.chunk()
        self.append(b"def")
        sink = self.subscribe(chunk=chunk)
        self.turn()
        self.assertEqual(sink.payload, "abcdef")
        self.append(b"ghi")
        self.turn()
        self.assertEqual(sink.payload, "abcdefghi")

    def test_closed_between_look_and_subscription(self) -> None:
        """So is a closure."""
        chunk = self.chunk()
        self.close()
        sink = self.subscribe(chunk=chunk)
        self.turn()
        self.assertEqual(sink.payload, "abc")
        self.assertEqual(sink.controls[-1], control(3, closed=True))
        self.assertTrue(sink.ended)

    def test_while_the_look_is_under_way(self) -> None:
        """The look saw nothing; the commit came before its answer."""
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

    def test_closed_while_the_look_is_under_way(self) -> None:
        """A closure too."""
        self.store.holding = True
        sink = self.subscribe()
        self.turn()
        self.close()
        self.store.release()
        self.turn()
        self.assertEqual(sink.controls[-1], control(3, closed=True))
        self.assertTrue(sink.ended)

    def test_read_before_it_is_told(self) -> None:
        """A read may see a commit whose news are still to come: they bring nothing twice."""
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

    def test_resumed_before_it_is_told(self) -> None:
        """Who knows from another reader that there is more reads it."""
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

    def test_closure_read_before_it_is_told(self) -> None:
        """The reader who saw it has ended; the others hear of it."""
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

    def test_told_in_another_order(self) -> None:
        """A listener that writes makes later news arrive before earlier ones."""
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

    def test_told_without_the_bytes(self) -> None:
        """They are read, also behind others that are still to be sent."""
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
        """A program in the same process may append where it is written to."""
        sink = self.subscribe()
        self.turn()
        more = [b"3", b"2", b"1"]
        sink.on_write = lambda: self.append(more.pop()) if more else None
        self.append(b"0")
        self.turn()
        self.assertEqual(sink.payload, "abc0123")
        self.assertEqual(sink.controls[-1], control(7))


class SilenceTests(LiveTestCase):
    """Comments and reconnects."""

    def setUp(self) -> None:
        """A reader of an empty stream."""
        super().setUp()
        self.create()
        self.sink = self.subscribe()
        self.turn()

    def test_a_comment_after_silence(self) -> None:
        """And another after as much again."""
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
        """Who is written to needs no comment."""
        for _ in range(4):
            self.clock.advance(COMMENT - 5)
            self.append(b"x")
            self.turn()
        self.assertEqual(len(self.sink.writes), 5)
        self.clock.advance(COMMENT)
        self.assertEqual(len(self.sink.writes), 6)

    def test_comments_resume_with_the_reader(self) -> None:
        """None while paused; the usual silence afterwards."""
        self.sink.pause()
        self.clock.advance(COMMENT * 2)
        self.sink.drain()
        self.clock.advance(COMMENT)
        self.assertEqual(len(self.sink.writes), 2)

    def test_timers_do_not_grow_with_readers(self) -> None:
        """Idle readers share two timers, and no turn is asked for."""
        for _ in range(20):
            self.subscribe()
        self.turn()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)

    def test_reconnect(self) -> None:
        """The connection ends cleanly, and its last event is a control event."""
        self.append(b"abc")
        self.clock.advance(RECONNECT * 0.9 - 0.25)
        self.assertFalse(self.sink.ended)
        self.clock.advance(0.25)
        self.assertTrue(self.sink.ended)
        self.assertEqual(self.sink.events[-1][0], "control")
        self.assertEqual(self.sink.position, 3)
        self.assertNothingLeft()

    def test_connections_that_began_together_end_apart(self) -> None:
        """Each lives for a part of the interval, so that they do not come back together."""
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

    def test_browsers_are_told_to_come_back_apart(self) -> None:
        """Each connection begins with a time of its own, in the block of its first event."""
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
        """The client goes on from the last control event."""
        self.append(b"x" * MIB)
        late = self.subscribe(room=0)
        self.turn()
        self.clock.advance(RECONNECT)
        self.assertTrue(late.ended)
        self.assertEqual(late.controls, [control(READ_PIECE, up_to_date=False)])

    def test_reconnect_before_the_first_write(self) -> None:
        """Even then the client is told where it is."""
        late = self.subscribe()
        late.pause()
        self.clock.advance(RECONNECT)
        self.assertTrue(late.ended)
        self.assertEqual(late.position, 0)


class EndingTests(LiveTestCase):
    """Clients that vanish, sinks and stores that fail, servers that stop."""

    def setUp(self) -> None:
        """An empty stream."""
        super().setUp()
        self.create()

    def test_the_client_is_gone(self) -> None:
        """Everything held for it is freed, and the sink is left alone."""
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
        """A write may find out that the client has left."""
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
        """The read's answer is dropped."""
        self.store.holding = True
        sink = self.subscribe()
        self.turn()
        assert sink.producer is not None
        sink.producer.stopProducing()
        self.store.release()
        self.assertNothingLeft()

    def test_a_sink_that_fails(self) -> None:
        """It is cut, and the others are written to."""
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
        """The reader is cut, for its answer is not complete; others go on."""
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
        """A bug of the store's is logged, and cuts only who asked."""
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
        """A store that answers so, short of the tail, must not be asked for ever."""
        chunk = self.chunk()
        self.append(b"abc")
        sink = self.subscribe(chunk=chunk)
        self.patch(self.store.memory, "_parts", lambda *_: [])
        self.turn()
        self.assertTrue(sink.aborted)

    def test_stop(self) -> None:
        """Every connection ends behind a control event."""
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
