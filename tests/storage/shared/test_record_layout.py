"""Tests of `durable_streams_tw.storage.shared.record_layout`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.storage.shared.record_layout import Piece, cut

SIZE = 10


def batch(sizes: list[int]) -> Body:
    """Return a JSON body of messages of these sizes, commas included."""
    data = b"".join([b"m" * (size - 1) + b"," for size in sizes])
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return Body(data, tuple(ends))


class CutTests(SynchronousTestCase):
    """Splitting of bodies into records."""

    def _pieces(self, body: Body) -> list[tuple[int, int, bool, bool]]:
        return [
            (piece.start, piece.stop, piece.torn_before, piece.torn_after)
            for piece in cut(body, SIZE)
        ]

    def test_nothing(self) -> None:
        """An empty body has no pieces."""
        self.assertEqual(self._pieces(Body(b"")), [])

    def test_small(self) -> None:
        """A body that fits is one record."""
        for size in (1, SIZE):
            self.assertEqual(list(cut(Body(b"x" * size), SIZE)), [Piece(0, size)])

    def test_bytes(self) -> None:
        """Bytes are split at any position, and no record is marked as torn."""
        self.assertEqual(
            self._pieces(Body(b"x" * 25)),
            [(0, 10, False, False), (10, 20, False, False), (20, 25, False, False)],
        )

    def test_between_messages(self) -> None:
        """A record has as many whole messages as fit."""
        self.assertEqual(
            self._pieces(batch([4, 4, 4, 10, 2, 9])),
            [
                *((0, 8, False, False), (8, 12, False, False), (12, 22, False, False)),
                *((22, 24, False, False), (24, 33, False, False)),
            ],
        )

    def test_a_large_message(self) -> None:
        """A large message has records of its own, marked as continued."""
        self.assertEqual(
            self._pieces(batch([3, 25, 3])),
            [
                (0, 3, False, False),
                *((3, 13, False, True), (13, 23, True, True), (23, 28, True, False)),
                (28, 31, False, False),
            ],
        )
        self.assertEqual(self._pieces(batch([20])), [(0, 10, False, True), (10, 20, True, False)])
        self.assertEqual(
            self._pieces(batch([11, 11])),
            [
                *((0, 10, False, True), (10, 11, True, False)),
                *((11, 21, False, True), (21, 22, True, False)),
            ],
        )

    @given(st.lists(st.integers(2, 35), min_size=1, max_size=12), st.integers(2, 12))
    def test_any_batch(self, sizes: list[int], size: int) -> None:
        """Records cover the body in order within the size limit.

        A record is torn if and only if it begins or ends inside of a message; it then has a part of
        one message only.
        """
        body = batch(sizes)
        boundaries = {0, *body.cuts}
        behind = 0
        for piece in cut(body, size):
            self.assertEqual(piece.start, behind)
            self.assertTrue(0 < piece.stop - piece.start <= max(size, 0))
            if len(body.data) > size:
                self.assertEqual(piece.torn_before, piece.start not in boundaries)
                self.assertEqual(piece.torn_after, piece.stop not in boundaries)
                if piece.torn_before or piece.torn_after:
                    inside = [at for at in boundaries if piece.start < at < piece.stop]
                    self.assertEqual(inside, [])
            behind = piece.stop
        self.assertEqual(behind, len(body.data))

    @given(st.integers(0, 100), st.integers(1, 12))
    def test_any_bytes(self, length: int, size: int) -> None:
        """Any bytes are covered by full records and one last record."""
        pieces = list(cut(Body(b"x" * length), size))
        self.assertEqual(
            [piece.stop - piece.start for piece in pieces[:-1]], [size] * (len(pieces) - 1)
        )
        self.assertEqual(sum(piece.stop - piece.start for piece in pieces), length)
        self.assertFalse(any(piece.torn_before or piece.torn_after for piece in pieces))
