"""Tests of `durable_streams_tw.live.transfers`: long answers, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from durable_streams_tw.live.limits import READ_PIECE
from durable_streams_tw.live.transfers import Encoder, Transfers
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams.offsets import START
from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.storage.api import Chunk
from tests.http.server_rig import Threads, at_once
from tests.live.rig import PATH, LiveTestCase, RecordingSink

BODY = bytes(range(251)) * (3 * READ_PIECE // 251 + 7)


class TransferTests(LiveTestCase):
    """One transfer after the other."""

    def setUp(self) -> None:
        super().setUp()
        self.in_thread: Callable[..., Deferred[Any]] = at_once

    def tearDown(self) -> None:
        """Nothing is held for a transfer that is over."""
        self.assertNothingLeft()

    def begin(self, room: int | None = None, encoder: Encoder | None = None) -> RecordingSink:
        """Begin to send the stream; the first piece is read as a request reads it."""
        read = self.store.memory.read(PATH, START, MAX_POSITION, None, READ_PIECE)
        chunk = self.successResultOf(read)
        assert isinstance(chunk, Chunk)
        self.assertEqual(len(chunk.data), READ_PIECE)
        self.transfers = Transfers(self.store, self.registry, self.in_thread, self.piece_size)
        sink = RecordingSink(room)
        sink.producer = self.transfers.begin(chunk, encoder, sink)
        return sink

    def finish(self, sink: RecordingSink) -> None:
        """Let the client read until the body is over."""
        for _ in range(20):
            self.turn()
            sink.drain()

    def test_whole(self) -> None:
        """All pieces, in order, none larger than a piece; then the end."""
        self.create("application/octet-stream", BODY)
        sink = self.begin()
        self.finish(sink)
        self.assertTrue(sink.bytes == BODY)
        self.assertTrue(sink.ended)
        self.assertEqual(max(map(len, sink.writes)), READ_PIECE)
        self.assertEqual(self.store.reads, 3)
        self.assertEqual(self.transfers.running, set())

    def test_json(self) -> None:
        """One array, whatever messages the pieces cut."""
        messages = [b'"%d,%s"' % (n, b"]," * 20_000) for n in range(50)]
        self.create("application/json", b"[" + b",".join(messages) + b"]")
        sink = self.begin()
        self.finish(sink)
        self.assertTrue(sink.bytes == b"[" + b",".join(messages) + b"]")
        self.assertTrue(sink.ended)

    def test_appends_in_between(self) -> None:
        """The answer ends at the tail that it found."""
        self.create("application/octet-stream", BODY)
        sink = self.begin(room=1)
        self.append(b"later")
        self.finish(sink)
        self.assertTrue(sink.bytes == BODY)

    def test_slow_reader(self) -> None:
        """While the transport is full nothing is read: at most one piece waits."""
        self.create("application/octet-stream", BODY)
        sink = self.begin()
        sink.pause()
        for _ in range(5):
            self.turn()
        self.assertEqual((self.store.reads, len(sink.bytes)), (0, READ_PIECE))
        self.store.holding = True
        sink.drain()
        self.turn()
        sink.pause()
        self.store.release()
        self.assertEqual((self.store.reads, len(sink.bytes)), (1, READ_PIECE))
        self.store.holding = False
        self.finish(sink)
        self.assertTrue(sink.bytes == BODY)
        self.assertTrue(sink.ended)

    def test_deleted_midway(self) -> None:
        """The body is cut, also where another stream has the name by then."""
        for again in (False, True):
            self.create("application/octet-stream", BODY)
            sink = self.begin(room=1)
            self.delete()
            if again:
                self.create("application/octet-stream", BODY)
            self.finish(sink)
            self.assertEqual((sink.aborted, sink.ended), (True, False))
            self.assertEqual(len(sink.bytes), READ_PIECE)
            if again:
                self.delete()

    def test_expired_midway(self) -> None:
        """A TTL waits for the end of the answer, and begins anew there."""
        self.create("application/octet-stream", BODY, lifetime=Lifetime(ttl=5))
        sink = self.begin()
        sink.pause()
        self.clock.advance(60)
        self.finish(sink)
        self.assertTrue(sink.ended)
        self.clock.advance(4)
        self.state()

    def test_failing_read(self) -> None:
        """A store that breaks, or brings too little, cuts the body; both are logged."""
        self.create("application/octet-stream", BODY)
        for broken in (Refusal(Problem.CORRUPT_RECORD, "bad bytes"), RuntimeError("a bug")):
            sink = self.begin(room=1)
            self.store.broken = broken
            self.finish(sink)
            self.assertEqual((sink.aborted, sink.ended), (True, False))
            self.store.broken = None
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        sink = self.begin(room=1)
        self.patch(self.store, "read_range", lambda *_: succeed(b"short"))
        self.finish(sink)
        self.assertEqual((sink.aborted, sink.ended), (True, False))

    def test_failing_sink(self) -> None:
        """A sink that cannot be written to is cut."""
        self.create("application/octet-stream", BODY)
        sink = self.begin()
        sink.failing = True
        self.finish(sink)
        self.assertTrue(sink.aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_client_leaves(self) -> None:
        """Nothing is read or written any more, also where a read is under way."""
        self.create("application/octet-stream", BODY)
        for reading in (False, True):
            sink = self.begin()
            self.store.holding = reading
            self.turn()
            written = len(sink.bytes)
            assert sink.producer is not None
            sink.producer.stopProducing()
            self.store.release()
            self.store.holding = False
            self.finish(sink)
            if reading:
                self.assertEqual(len(sink.bytes), written)
            self.assertFalse(sink.over and reading)

    def test_encoded(self) -> None:
        """A content coding is one whole, made in a thread piece by piece."""
        self.create("application/octet-stream", BODY)
        self.in_thread = threads = Threads()
        sink = self.begin(encoder=zlib.compressobj())
        for number in range(4):
            self.assertEqual((self.store.reads, sink.ended), (number, False))
            threads.run()
            self.turn()
        self.assertTrue(zlib.decompress(sink.bytes) == BODY)
        self.assertTrue(sink.ended)
        sink = self.begin(encoder=zlib.compressobj())
        assert sink.producer is not None
        sink.producer.stopProducing()
        threads.run()
        self.assertEqual(sink.writes, [])
