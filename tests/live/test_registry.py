"""The ends of followed streams, as commits and looks tell of them."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.registry import FollowedStream
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change

STATE = StreamState(1, "a", "text/plain", 10, 0, 0)


class TailTests(SynchronousTestCase):
    """What counts as news."""

    def test_a_look_that_tells_nothing_new(self) -> None:
        """It asks for no other: readers at a torn character would look at it for ever."""
        tail = FollowedStream(STATE)
        before = tail.version
        tail.update_from_read(STATE)
        tail.update_from_read(replace(STATE, touched_at=5))
        tail.update_from_read(replace(STATE, tail=9))
        self.assertEqual((tail.version, tail.state.tail), (before, 10))

    def test_a_look_that_does(self) -> None:
        """Growth, or the end."""
        tail = FollowedStream(STATE)
        tail.update_from_read(replace(STATE, tail=11))
        self.assertEqual((tail.version, tail.state.tail), (1, 11))
        tail.update_from_read(replace(STATE, tail=11, closed=True))
        self.assertEqual((tail.version, tail.state.closed), (2, True))
        tail.update_from_read(replace(STATE, tail=11))
        self.assertEqual((tail.version, tail.state.closed), (2, True))

    def test_every_commit(self) -> None:
        """A commit is news whatever it tells."""
        tail = FollowedStream(STATE)
        before = tail.version
        tail.apply_change(Change(STATE, 10, b""))
        self.assertGreater(tail.version, before)
        tail.apply_change(Change(STATE, 10, b"", gone=True))
        self.assertTrue(tail.gone)
