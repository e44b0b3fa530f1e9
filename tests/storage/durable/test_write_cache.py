"""Tests of `durable_streams_tw.storage.durable.write_cache`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.durable.write_cache import OpenStream, WriteCache
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.limits import PAYLOAD_CACHE, STATE_CACHE


def opened(written: WriteCache, stream_id: int) -> OpenStream:
    """Return an open stream."""
    stream = OpenStream(StreamRecord(StreamState(stream_id, f"s{stream_id}", "a/b", 0, 0, 0)))
    written.remember(stream)
    return stream


class BoundsTests(SynchronousTestCase):
    """Eviction of the oldest entries."""

    def setUp(self) -> None:
        self.written = WriteCache()

    def test_streams(self) -> None:
        """The oldest stream is evicted by path and by id."""
        for stream_id in range(STATE_CACHE + 1):
            opened(self.written, stream_id)
        self.written.trim()
        self.assertEqual(len(self.written.by_path), STATE_CACHE)
        self.assertEqual(len(self.written.by_id), STATE_CACHE)
        self.assertNotIn(0, self.written.by_id)

    def test_records(self) -> None:
        """Last records are evicted down to half of the bound."""
        value = bytes(PAYLOAD_CACHE // 8)
        streams = [opened(self.written, stream_id) for stream_id in range(12)]
        for stream in streams[:8]:
            self.written.keep(stream, value)
        self.written.trim()
        self.assertTrue(all(stream.last_value for stream in streams[:8]))
        self.written.keep(streams[0], b"")
        self.written.forget(streams[1].state)
        for stream in streams[8:10]:
            self.written.keep(stream, value)
        self.written.trim()
        self.assertTrue(all(stream.last_value for stream in streams[2:10]))
        self.written.keep(streams[10], value)
        self.written.trim()
        kept = [stream.state.id for stream in streams if stream.last_value]
        self.assertEqual(kept, [7, 8, 9, 10])
