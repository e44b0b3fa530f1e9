"""Tests of `durable_streams_tw.live.tail_buffer`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.limits import READ_PIECE, TAIL_WINDOW
from durable_streams_tw.live.tail_buffer import TailBuffer


class TailBufferTests(SynchronousTestCase):
    """Newest bytes within a bound."""

    def test_grows_and_is_trimmed(self) -> None:
        window = TailBuffer(10, whole=False)
        window.add(10, b"abc")
        window.add(13, b"def")
        self.assertEqual(window.slice(10, 100), b"abcdef")
        self.assertEqual(window.slice(12, 2), b"cd")
        window.trim(14)
        self.assertEqual((window.start, window.end), (14, 16))
        self.assertEqual(window.slice(14, 100), b"ef")
        self.assertIsNone(window.slice(13, 100))

    def test_nothing_at_the_end(self) -> None:
        """At and after the end the buffer returns no bytes."""
        window = TailBuffer(10, whole=False)
        self.assertEqual(window.slice(10, 5), b"")
        self.assertEqual(window.slice(12, 5), b"")

    def test_a_gap_restarts_the_buffer(self) -> None:
        """After a gap the buffer restarts: it never joins bytes that do not follow each other."""
        window = TailBuffer(0, whole=False)
        window.add(0, b"abc")
        window.add(5, b"fg")
        self.assertIsNone(window.slice(0, 100))
        self.assertEqual(window.slice(5, 100), b"fg")

    def test_what_it_has_is_ignored(self) -> None:
        """A change that arrives late is ignored."""
        window = TailBuffer(0, whole=False)
        window.add(0, b"abc")
        window.add(0, b"a")
        self.assertEqual(window.slice(0, 100), b"abc")

    def test_bounded(self) -> None:
        """The oldest bytes are dropped; a change above the bound empties the buffer."""
        window = TailBuffer(0, whole=False)
        for index in range(20):
            window.add(index * 100_000, b"x" * 100_000)
        self.assertEqual(window.end - window.start, TAIL_WINDOW)
        window.add(window.end, b"y" * (TAIL_WINDOW + 1))
        self.assertEqual(window.start, window.end)

    def test_whole_is_cut_between_appends(self) -> None:
        """Returns None if no append ends within the limit."""
        window = TailBuffer(0, whole=True)
        window.add(0, b"1" * (READ_PIECE - 1))
        window.add(READ_PIECE - 1, b"2" * 50)
        window.add(window.end, b"3" * (READ_PIECE + 1))
        self.assertEqual(window.slice(0, READ_PIECE), b"1" * (READ_PIECE - 1))
        self.assertIsNone(window.slice(READ_PIECE + 49, READ_PIECE))
        self.assertEqual(len(window.slice(READ_PIECE + 50, READ_PIECE) or b""), READ_PIECE)

    def test_whole_tiny_appends(self) -> None:
        """Recorded cuts allow at least half a chunk."""
        window = TailBuffer(0, whole=True)
        while window.end < TAIL_WINDOW - 6:
            window.add(window.end, b"12345,")
        piece = window.slice(0, READ_PIECE)
        assert piece is not None
        self.assertGreater(len(piece), READ_PIECE // 2)
        self.assertEqual(len(piece) % 6, 0)

    @given(st.lists(st.integers(1, 90_000), min_size=1, max_size=60), st.integers(0, 2**21))
    def test_whole_pieces_end_where_appends_do(self, sizes: list[int], trimmed: int) -> None:
        """Reading piece by piece stops only between appends, and reaches the end."""
        window = TailBuffer(0, whole=True)
        ends = {0}
        for size in sizes:
            window.add(window.end, b"x" * size)
            ends.add(window.end)
        window.trim(max([end for end in ends if end <= trimmed]))
        position = min([end for end in ends if end >= window.start])
        while position < window.end:
            piece = window.slice(position, READ_PIECE)
            assert piece is not None
            self.assertLessEqual(len(piece), READ_PIECE)
            position += len(piece)
            self.assertIn(position, ends)
