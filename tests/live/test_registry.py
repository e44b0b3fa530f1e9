"""Tests of `durable_streams_tw.live.registry`."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.registry import FollowedStream
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change

STATE = StreamState(1, "a", "text/plain", 10, 0, 0)


class FollowedStreamTests(SynchronousTestCase):
    """Changes that increase the version of a followed stream."""

    def test_a_look_that_tells_nothing_new(self) -> None:
        """A read without news does not change the version: it would cause another read, forever."""
        tail = FollowedStream(STATE)
        before = tail.version
        tail.update_from_read(STATE)
        tail.update_from_read(replace(STATE, touched_at=5))
        tail.update_from_read(replace(STATE, tail=9))
        self.assertEqual((tail.version, tail.state.tail), (before, 10))

    def test_a_look_that_does(self) -> None:
        """A read that saw growth or a close increases the version."""
        tail = FollowedStream(STATE)
        tail.update_from_read(replace(STATE, tail=11))
        self.assertEqual((tail.version, tail.state.tail), (1, 11))
        tail.update_from_read(replace(STATE, tail=11, closed=True))
        self.assertEqual((tail.version, tail.state.closed), (2, True))
        tail.update_from_read(replace(STATE, tail=11))
        self.assertEqual((tail.version, tail.state.closed), (2, True))

    def test_every_commit(self) -> None:
        """Each commit increases the version."""
        tail = FollowedStream(STATE)
        before = tail.version
        tail.apply_change(Change(STATE, 10, b""))
        self.assertGreater(tail.version, before)
        tail.apply_change(Change(STATE, 10, b"", gone=True))
        self.assertTrue(tail.gone)
