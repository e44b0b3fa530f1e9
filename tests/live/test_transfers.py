"""Tests of `durable_streams_tw.live.transfers`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from durable_streams_tw.live.limits import READ_PIECE
from durable_streams_tw.live.transfers import Encoder, Transfer, Transfers
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams.offsets import START
from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.storage.api import Chunk
from tests.http.server_fixture import FakeThreads, at_once
from tests.live.live_case import PATH, LiveTestCase, RecordingSink

BODY = bytes(range(251)) * (3 * READ_PIECE // 251 + 7)


class TransferTests(LiveTestCase):
    """One transfer at a time."""

    def setUp(self) -> None:
        super().setUp()
        self.in_thread: Callable[..., Deferred[Any]] = at_once

    def tearDown(self) -> None:
        self.assertNothingLeft()

    def begin(self, room: int | None = None, encoder: Encoder | None = None) -> RecordingSink:
        """Start a transfer; its first piece is read as a request reads it."""
        read = self.store.memory.read(PATH, START, MAX_POSITION, None, READ_PIECE)
        chunk = self.successResultOf(read)
        assert isinstance(chunk, Chunk)
        self.assertEqual(len(chunk.data), READ_PIECE)
        self.transfers = Transfers(self.store, self.registry, self.in_thread, self.piece_size)
        sink = RecordingSink(room)
        sink.producer = Transfer(self.transfers, chunk, encoder, sink)
        return sink

    def finish(self, sink: RecordingSink) -> None:
        """Read until the body has ended."""
        for _ in range(20):
            self.turn()
            sink.drain()

    def test_whole(self) -> None:
        """Writes all pieces in order, none larger than the piece size, then ends the body."""
        self.create("application/octet-stream", BODY)
        sink = self.begin()
        self.finish(sink)
        self.assertTrue(sink.bytes == BODY)
        self.assertTrue(sink.ended)
        self.assertEqual(max(map(len, sink.writes)), READ_PIECE)
        self.assertEqual(self.store.reads, 3)
        self.assertEqual(self.transfers.running, set())

    def test_json(self) -> None:
        """The body is one array, wherever pieces cut messages."""
        messages = [b'"%d,%s"' % (n, b"]," * 20_000) for n in range(50)]
        self.create("application/json", b"[" + b",".join(messages) + b"]")
        sink = self.begin()
        self.finish(sink)
        self.assertTrue(sink.bytes == b"[" + b",".join(messages) + b"]")
        self.assertTrue(sink.ended)

    def test_appends_in_between(self) -> None:
        """The body ends at the tail that the first read saw."""
        self.create("application/octet-stream", BODY)
        sink = self.begin(room=1)
        self.append(b"later")
        self.finish(sink)
        self.assertTrue(sink.bytes == BODY)

    def test_slow_reader(self) -> None:
        """While the transport is paused nothing is read; at most one piece is in memory."""
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
        """The body is aborted, also if another stream has the path by then."""
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
        """The TTL does not expire during the transfer, and restarts after it."""
        self.create("application/octet-stream", BODY, lifetime=Lifetime(ttl=5))
        sink = self.begin()
        sink.pause()
        self.clock.advance(60)
        self.finish(sink)
        self.assertTrue(sink.ended)
        self.clock.advance(4)
        self.state()

    def test_failing_read(self) -> None:
        """A read that fails or returns too few bytes is logged, and the body aborted."""
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
        """A sink whose write raises is aborted."""
        self.create("application/octet-stream", BODY)
        sink = self.begin()
        sink.failing = True
        self.finish(sink)
        self.assertTrue(sink.aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_client_disconnects(self) -> None:
        """After a disconnect nothing is read or written, also if a read is pending."""
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
        """A content coding spans all pieces and runs on a worker thread."""
        self.create("application/octet-stream", BODY)
        self.in_thread = threads = FakeThreads()
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
