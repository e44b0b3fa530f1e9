"""Tests of `durable_streams_tw.protocol.streams.lineage`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import MAX_LINEAGE
from durable_streams_tw.protocol.streams import lineage
from durable_streams_tw.protocol.streams.forks import assign_id
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.state import ForkPoint, Lineage, StreamState

ROOT = StreamState(10, "root", "text/plain", 100, created_at=0, touched_at=0)


def forked(source: StreamState, number: int, position: int, own: int = 0) -> StreamState:
    """Return a fork with ``own`` bytes after those that it inherits."""
    point = ForkPoint(source.id, position, source.path, position, 0, 1, False)
    state = replace(source, id=0, tail=position + own, fork=point, lineage=None)
    return assign_id(state, source, number)


def owners(state: StreamState, *positions: int) -> list[int]:
    """Return the incarnations of positions."""
    return [lineage.incarnation(state, position) for position in positions]


class LineageTests(SynchronousTestCase):
    """Incarnation that owns a position."""

    def test_plain(self) -> None:
        """A stream that one process has written has its id as the only incarnation."""
        self.assertEqual(owners(ROOT, 0, 100), [10, 10])
        self.assertTrue(lineage.owns(ROOT, 10, 100))
        self.assertFalse(lineage.owns(ROOT, 9, 0))

    def test_renewed(self) -> None:
        """Bytes of a later process have another incarnation; older bytes keep theirs."""
        state = lineage.start_incarnation(ROOT, 20, 100)
        self.assertEqual(owners(state, 0, 100, 101), [10, 10, 20])
        self.assertEqual(lineage.newest_incarnation(state), 20)
        self.assertFalse(lineage.owns(state, 20, 100))
        self.assertFalse(lineage.owns(state, 10, 101))

    def test_renewed_empty(self) -> None:
        """Position 0 belongs to the incarnation that created the empty stream."""
        state = lineage.start_incarnation(replace(ROOT, tail=0), 20, 0)
        self.assertEqual(owners(state, 0, 1), [10, 20])

    def test_fork(self) -> None:
        """Inherited positions, including the fork point, have offsets of the source."""
        fork = forked(ROOT, 20, 50, 10)
        self.assertEqual(owners(fork, 0, 50, 51), [10, 10, 20])
        inner = forked(fork, 30, 55, 5)
        self.assertEqual(owners(inner, 50, 51, 55, 56), [10, 20, 20, 30])
        self.assertFalse(lineage.owns(fork, 10, 51))

    def test_fork_before_the_last_renewal(self) -> None:
        """Bytes that the source appended after the fork point do not belong to the fork."""
        source = replace(lineage.start_incarnation(ROOT, 20, 100), tail=120)
        self.assertEqual(forked(source, 30, 100).lineage, Lineage((10, 30), (0, 100), 10))
        self.assertEqual(forked(source, 30, 101).lineage, Lineage((10, 20, 30), (0, 100, 101), 10))

    def test_fork_at_position_0(self) -> None:
        """Position 0 belongs to the source, all others to the fork."""
        fork = forked(ROOT, 20, 0, 5)
        self.assertEqual(owners(fork, 0, 1), [10, 20])
        inner = forked(fork, 30, 0, 5)
        self.assertEqual(owners(inner, 0, 1), [10, 30])

    def test_fork_without_own_bytes_renewed(self) -> None:
        """A range without a position is omitted."""
        fork = lineage.start_incarnation(forked(ROOT, 20, 50), 30, 50)
        self.assertEqual(fork.lineage, Lineage((10, 30), (0, 50), 10))

    def test_fork_of_an_earlier_version(self) -> None:
        """A fork of an earlier version has unknown ancestors: their offsets are accepted, those of
        later streams are not.
        """
        point = ForkPoint(10, 50, "root", 50, 0, 2, False)
        fork = replace(ROOT, id=20, fork=point)
        self.assertEqual(owners(fork, 0, 50, 51), [10, 10, 20])
        for number, owned in ((5, True), (10, True), (11, False), (20, False)):
            self.assertEqual(lineage.owns(fork, number, 50), owned)
        self.assertFalse(lineage.owns(fork, 10, 51))

    def test_bounded(self) -> None:
        """The oldest incarnations are merged into one, which accepts the offsets of all of them."""
        state = ROOT
        for number in range(MAX_LINEAGE + 1):
            state = lineage.start_incarnation(
                replace(state, tail=101 + number), 20 + number, 100 + number
            )
        kept = lineage.lineage_of(state)
        self.assertEqual((len(kept.ids), len(kept.starts)), (MAX_LINEAGE, MAX_LINEAGE))
        self.assertEqual(kept.ids[0], 21)
        for number, owned in ((9, False), (10, True), (20, True), (21, True), (22, False)):
            self.assertEqual(lineage.owns(state, number, 101), owned)

    def test_deep_forks(self) -> None:
        """A fork accepts the offsets of all its sources, at any depth."""
        state = ROOT
        for depth in range(3 * MAX_LINEAGE):
            source, state = state, forked(state, 20 + depth, 50 + depth, 1)
            self.assertEqual(lineage.incarnation(state, 0), ROOT.id)
            tail = format_offset(source, source.tail)
            if depth:
                self.assertEqual(format_offset(state, state.tail - 1), tail)
        kept = lineage.lineage_of(state)
        self.assertEqual(len(kept.ids), 3 * MAX_LINEAGE + 1)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12), st.data())
    def test_sorts(self, steps: list[tuple[bool, int]], data: st.DataObject) -> None:
        """Offsets sort as positions do, across incarnations and forks."""
        state, number = replace(ROOT, tail=0), ROOT.id
        for forks, size in steps:
            number += 1
            before = state
            if forks:
                point = data.draw(st.integers(0, state.tail))
                state = forked(state, number, point, size)
                for position in range(point + 1):
                    self.assertEqual(
                        format_offset(state, position), format_offset(before, position)
                    )
            elif size:
                state = lineage.start_incarnation(state, number, state.tail)
                state = replace(state, tail=state.tail + size)
        tokens = [format_offset(state, position) for position in range(state.tail + 1)]
        self.assertEqual(tokens, sorted(set(tokens)))
        for position, token in enumerate(tokens):
            self.assertTrue(lineage.owns(state, int(token.partition("_")[0]), position))
