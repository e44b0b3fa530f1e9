"""Tests of `durable_streams_tw.http.operators.recent_appends`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.limits import RECENT_APPENDS, RECENT_STREAMS
from durable_streams_tw.http.operators.recent_appends import RecentAppends
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change


def change(stream_id: int, start: int, data: bytes = b"x", gone: bool = False) -> Change:
    """Return a change of a stream."""
    tail = start + len(data)
    return Change(StreamState(stream_id, "a", "text/plain", tail, 0, 0), start, data, gone)


class RecentAppendsTests(SynchronousTestCase):
    """Kept appends and their bound."""

    def test_within(self) -> None:
        """Positions of a range begin with the last one before it; closing is no append."""
        recent = RecentAppends()
        recent.record([change(1, 0, b"abc"), change(2, 7), change(1, 3)])
        recent.record([change(1, 4, b"")])
        self.assertEqual(recent.within(1, 0, 9), [0, 3])
        self.assertEqual(recent.within(1, 1, 4), [0, 3])
        self.assertEqual(recent.within(1, 1, 3), [0])
        self.assertEqual(recent.within(1, 3, 4), [3])
        self.assertEqual(recent.within(3, 0, 9), [])

    def test_bounds(self) -> None:
        """The oldest positions of a stream go, and the streams appended to longest ago."""
        recent = RecentAppends()
        recent.record([change(0, at) for at in range(RECENT_APPENDS + 5)])
        self.assertEqual(recent.within(0, 0, 10), [5, 6, 7, 8, 9])
        recent.record([change(number, 0) for number in range(1, RECENT_STREAMS)])
        recent.record([change(0, RECENT_APPENDS + 5), change(RECENT_STREAMS, 0)])
        self.assertEqual(recent.within(1, 0, 9), [])
        self.assertEqual(recent.within(2, 0, 9), [0])
        self.assertEqual(len(recent.within(0, 0, 10_000)), RECENT_APPENDS)

    def test_gap(self) -> None:
        """After changes that were not reported, only later appends are known."""
        recent = RecentAppends()
        recent.record([change(1, 0), change(1, 1), change(1, 5), change(1, 6)])
        self.assertEqual(recent.within(1, 0, 9), [5, 6])

    def test_deleted(self) -> None:
        """Positions of a deleted stream are forgotten."""
        recent = RecentAppends()
        recent.record([change(1, 0), change(1, 1, b"", gone=True)])
        self.assertEqual(recent.within(1, 0, 9), [])
