"""Tests of `durable_streams_tw.live.body_output`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live import limits
from durable_streams_tw.live.body_output import PieceSize
from durable_streams_tw.live.limits import LEAST_PIECE, READ_PIECE
from durable_streams_tw.protocol.limits import MIB
from tests.live.live_case import LiveTestCase, RecordingSink


class PieceSizeTests(SynchronousTestCase):
    """Size of pieces by the number of slow readers."""

    def test_all_together(self) -> None:
        """Ten thousand readers that stop reading hold less than 350 MiB together."""
        piece_size = PieceSize()
        held = 0
        sizes = []
        for _ in range(10_000):
            sizes.append(piece_size.current)
            held += piece_size.current
            piece_size.slow_readers += 1
        self.assertLess(held, 350 * MIB)
        self.assertEqual((sizes[0], sizes[200], sizes[-1]), (READ_PIECE, READ_PIECE, LEAST_PIECE))


def leave(sink: RecordingSink) -> None:
    """Disconnect the client."""
    assert sink.producer is not None
    sink.producer.stopProducing()


class CountTests(LiveTestCase):
    """Subscribers and transfers that count as slow."""

    def tearDown(self) -> None:
        self.assertNothingLeft()

    def test_readers_that_stop(self) -> None:
        """More slow readers get smaller pieces; when they read on, pieces are large again."""
        self.patch(limits, "SLOW_READERS", 4 * READ_PIECE)
        self.create("application/octet-stream", bytes(8 * READ_PIECE))
        sinks = []
        for count in range(1, 30):
            sink = self.subscribe(room=1, chunk=self.chunk(limit=self.piece_size.current))
            self.turn()
            self.assertEqual(self.piece_size.slow_readers, count)
            sinks.append(sink)
        sizes = [len(sink.bytes) for sink in sinks]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertLess(sizes[-1], READ_PIECE // 4)
        for sink in sinks[1:]:
            leave(sink)
        self.assertEqual(self.piece_size.slow_readers, 1)
        reader = sinks[0]
        for _ in range(40):
            reader.drain()
            self.turn()
        self.assertEqual(reader.position, 8 * READ_PIECE)
        leave(reader)

    def test_new_readers(self) -> None:
        """New readers count as slow until their first write: their first chunk is in memory."""
        self.create("application/octet-stream", b"x")
        sinks = [self.subscribe() for _ in range(3)]
        self.assertEqual(self.piece_size.slow_readers, 3)
        self.turn()
        self.assertEqual(self.piece_size.slow_readers, 0)
        for sink in sinks:
            leave(sink)
