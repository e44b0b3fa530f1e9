"""Tests of `durable_streams_tw.live.sse.event_batch`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.limits import TAIL_WINDOW
from durable_streams_tw.live.sse.event_batch import EventBatch
from durable_streams_tw.protocol.streams.sse import Framing
from durable_streams_tw.protocol.streams.state import StreamState


def stream(tail: int) -> StreamState:
    """Return the state of a text stream."""
    return StreamState(
        id=1, path="s", content_type="text/plain", tail=tail, created_at=0, touched_at=0
    )


class EventBatchTests(SynchronousTestCase):
    """Incomplete characters at the end of a batch."""

    def test_a_torn_character_that_could_not_be_held(self) -> None:
        """A source with more bytes would return the same part forever, so it is sent."""
        piece = EventBatch(Framing.TEXT, stream(9), 0, b"\xf0\x9f", False, False)
        self.assertEqual(piece.end, 2)

    def test_a_torn_character_that_a_commit_will_complete(self) -> None:
        """A source without more bytes: the part is held back until the next commit."""
        piece = EventBatch(Framing.TEXT, stream(9), 0, b"\xf0\x9f", True, False)
        self.assertEqual(piece.end, 0)
        self.assertFalse(piece.has_news(0))

    def test_frames_are_bounded(self) -> None:
        """Encoded frames of different cursors take at most `TAIL_WINDOW` bytes."""
        piece = EventBatch(Framing.TEXT, stream(400_000), 0, b"x" * 400_000, True, False)
        frames = [piece.frame(cursor) for cursor in range(20)]
        self.assertEqual(len(set(frames)), 20)
        self.assertLessEqual(sum(map(len, piece._frames.values())), TAIL_WINDOW)
