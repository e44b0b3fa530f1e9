"""Tests of `durable_streams_tw.live.tail_buffer`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.live.limits import READ_PIECE, TAIL_WINDOW
from durable_streams_tw.live.tail_buffer import TailBuffer


class WindowTests(SynchronousTestCase):
    """Newest bytes, bounded."""

    def test_grows_and_is_trimmed(self) -> None:
        """What was added is there until it is let go of."""
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
        """And nothing beyond it, which a reader of the store may have seen already."""
        window = TailBuffer(10, whole=False)
        self.assertEqual(window.slice(10, 5), b"")
        self.assertEqual(window.slice(12, 5), b"")

    def test_a_gap_begins_anew(self) -> None:
        """Bytes that do not follow are never joined to those before."""
        window = TailBuffer(0, whole=False)
        window.add(0, b"abc")
        window.add(5, b"fg")
        self.assertIsNone(window.slice(0, 100))
        self.assertEqual(window.slice(5, 100), b"fg")

    def test_what_it_has_is_ignored(self) -> None:
        """News may arrive in another order than commits were made."""
        window = TailBuffer(0, whole=False)
        window.add(0, b"abc")
        window.add(0, b"a")
        self.assertEqual(window.slice(0, 100), b"abc")

    def test_bounded(self) -> None:
        """The oldest bytes go, and a change larger than all leaves nothing."""
        window = TailBuffer(0, whole=False)
        for index in range(20):
            window.add(index * 100_000, b"x" * 100_000)
        self.assertEqual(window.end - window.start, TAIL_WINDOW)
        window.add(window.end, b"y" * (TAIL_WINDOW + 1))
        self.assertEqual(window.start, window.end)

    def test_whole_is_cut_between_appends(self) -> None:
        """Where no append ends within the limit, only the store can cut."""
        window = TailBuffer(0, whole=True)
        window.add(0, b"1" * (READ_PIECE - 1))
        window.add(READ_PIECE - 1, b"2" * 50)
        window.add(window.end, b"3" * (READ_PIECE + 1))
        self.assertEqual(window.slice(0, READ_PIECE), b"1" * (READ_PIECE - 1))
        self.assertIsNone(window.slice(READ_PIECE + 49, READ_PIECE))
        self.assertEqual(len(window.slice(READ_PIECE + 50, READ_PIECE) or b""), READ_PIECE)

    def test_whole_tiny_appends(self) -> None:
        """Cuts are remembered now and then, so half a chunk can always be had."""
        window = TailBuffer(0, whole=True)
        while window.end < TAIL_WINDOW - 6:
            window.add(window.end, b"12345,")
        piece = window.slice(0, READ_PIECE)
        assert piece is not None
        self.assertGreater(len(piece), READ_PIECE // 2)
        self.assertEqual(len(piece) % 6, 0)

    @given(st.lists(st.integers(1, 90_000), min_size=1, max_size=60), st.integers(0, 2**21))
    def test_whole_pieces_end_where_appends_do(self, sizes: list[int], trimmed: int) -> None:
        """Whatever is added and trimmed, pieces walk from append to append to the end."""
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
