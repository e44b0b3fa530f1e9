"""Tests of `durable_streams_tw.storage.fork_ranges`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import MAX_FORK_DEPTH
from durable_streams_tw.protocol.streams.offsets import BEYOND_TAIL, NOW, START
from durable_streams_tw.protocol.streams.state import ForkPoint, StreamState
from durable_streams_tw.storage.fork_ranges import STREAM_REPLACED, Extent, extents, resolve_offset

STREAM = StreamState(1, "a", "text/plain", 10, created_at=1, touched_at=1)
NO_SOURCES: dict[int, StreamState] = {}


def chain(points: list[int], tails: list[int]) -> dict[int, StreamState]:
    """Return streams by id: 1, a fork of it, a fork of that, and so on."""
    streams = {1: replace(STREAM, tail=tails[0])}
    for depth, point in enumerate(points, 1):
        fork = ForkPoint(depth, point, "a", point, 0, depth, False)
        streams[depth + 1] = replace(STREAM, id=depth + 1, tail=tails[depth], fork=fork)
    return streams


class ForkRangeTests(SynchronousTestCase):
    """Extents of forks."""

    def test_of_its_own(self) -> None:
        """A stream that is no fork has one extent."""
        self.assertEqual(extents(NO_SOURCES.get, STREAM, 3, 8), [Extent(1, 3, 8)])
        self.assertEqual(extents(NO_SOURCES.get, STREAM, 0, 10), [Extent(1, 0, 10)])

    def test_nothing(self) -> None:
        """An empty range has no extents."""
        for position in (0, 5, 10):
            self.assertEqual(extents(NO_SOURCES.get, STREAM, position, position), [])

    def test_of_a_fork(self) -> None:
        """Bytes before the fork point belong to the source."""
        streams = chain([6], [20, 9])
        for start, stop, expected in (
            (0, 9, [Extent(1, 0, 6), Extent(2, 6, 9)]),
            (0, 6, [Extent(1, 0, 6)]),
            (2, 4, [Extent(1, 2, 4)]),
            (6, 9, [Extent(2, 6, 9)]),
            (7, 8, [Extent(2, 7, 8)]),
            (5, 7, [Extent(1, 5, 6), Extent(2, 6, 7)]),
        ):
            self.assertEqual(extents(streams.get, streams[2], start, stop), expected)

    def test_a_fork_before_its_sources_own_bytes(self) -> None:
        """A fork point before the source's own fork point skips the source."""
        streams = chain([6, 4], [20, 9, 5])
        self.assertEqual(extents(streams.get, streams[3], 0, 5), [Extent(1, 0, 4), Extent(3, 4, 5)])

    def test_empty_forks(self) -> None:
        streams = chain([6, 6, 0], [6, 6, 6, 2])
        self.assertEqual(extents(streams.get, streams[3], 0, 6), [Extent(1, 0, 6)])
        self.assertEqual(extents(streams.get, streams[4], 0, 2), [Extent(4, 0, 2)])

    def test_deep_chains(self) -> None:
        """The deepest chain does not exceed the recursion limit."""
        points = list(range(1, MAX_FORK_DEPTH + 1))
        streams = chain(points, [*points, MAX_FORK_DEPTH + 1])
        found = extents(streams.get, streams[MAX_FORK_DEPTH + 1], 0, MAX_FORK_DEPTH + 1)
        self.assertEqual(found, [Extent(at + 1, at, at + 1) for at in range(MAX_FORK_DEPTH + 1)])

    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=6), st.data())
    def test_any_chain(self, forks: list[tuple[int, int]], data: st.DataObject) -> None:
        """Byte by byte equal to copies."""
        copies = [[(1, at) for at in range(12)]]
        points, tails = [], [12]
        for depth, (wanted, added) in enumerate(forks, 2):
            point = min(wanted, tails[-1])
            own = [(depth, at) for at in range(point, point + added)]
            copies.append(copies[-1][:point] + own)
            points.append(point)
            tails.append(point + added)
        streams = chain(points, tails)
        last = streams[len(tails)]
        start = data.draw(st.integers(0, last.tail))
        stop = data.draw(st.integers(start, last.tail))
        found = extents(streams.get, last, start, stop)
        walked = [
            (extent.stream_id, at) for extent in found for at in range(extent.start, extent.stop)
        ]
        self.assertEqual(walked, copies[-1][start:stop])
        self.assertTrue(all(extent.start < extent.stop for extent in found))


class ResolveTests(SynchronousTestCase):
    """Positions of requested offsets."""

    def test_positions(self) -> None:
        """All positions up to the tail are valid."""
        for offset, position in ((START, 0), (5, 5), (10, 10), (NOW, 10)):
            self.assertEqual(resolve_offset(STREAM, offset, None), position)
            self.assertEqual(resolve_offset(STREAM, offset, 1), position)

    def test_beyond(self) -> None:
        """Offsets after the tail are refused."""
        for offset in (11, 10**16 - 1):
            self.assertEqual(resolve_offset(STREAM, offset, None), BEYOND_TAIL)
            self.assertEqual(resolve_offset(STREAM, offset, 1), BEYOND_TAIL)

    def test_another_stream(self) -> None:
        """A reader of a deleted stream is refused the next stream at the path."""
        for offset in (START, NOW, 5, 11):
            self.assertEqual(resolve_offset(STREAM, offset, 2), STREAM_REPLACED)
