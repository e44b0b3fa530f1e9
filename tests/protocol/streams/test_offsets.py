"""Tests of `durable_streams_tw.protocol.streams.offsets`."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams.offsets import (
    BEYOND_TAIL,
    NOW,
    OTHER_INCARNATION,
    START,
    Offset,
    format_offset,
    parse_offset,
    resolve,
)
from durable_streams_tw.protocol.streams.state import StreamState
from tests.protocol.refusal_case import RefusalTestCase

POSITIONS = st.integers(0, MAX_POSITION)
INCARNATIONS = st.integers(1, 2**64 - 1)


def stream(number: int, tail: int = MAX_POSITION) -> StreamState:
    """Return a stream all of whose positions have one incarnation."""
    return StreamState(number, "a", "text/plain", tail, created_at=0, touched_at=0)


class FormatTests(RefusalTestCase):
    """Formatting of offsets."""

    def test_has_one_width(self) -> None:
        """All offsets have the same width."""
        last = format_offset(stream(2**64 - 1), MAX_POSITION)
        self.assertEqual(last, "18446744073709551615_9999999999999999")
        self.assertEqual(format_offset(stream(7), 1), "00000000000000000007_0000000000000001")

    def test_without_a_stream(self) -> None:
        """An offset without a stream is that of earlier versions, and sorts before all
        positions.
        """
        self.assertEqual(format_offset(None, 0), "0000000000000000_0000000000000000")
        self.assertLess(format_offset(None, MAX_POSITION), format_offset(stream(10**18), 0))

    @given(INCARNATIONS, POSITIONS)
    def test_round_trip(self, number: int, position: int) -> None:
        """A formatted offset parses to the position it was made from, and is no sentinel."""
        token = format_offset(stream(number), position)
        self.assertEqual(parse_offset(token), Offset(number, position))
        self.assertRegex(token, re.compile(r"\A[0-9_]{37}\Z"))

    @given(INCARNATIONS, POSITIONS, POSITIONS)
    def test_sorts_as_positions_do(self, number: int, one: int, other: int) -> None:
        """Offsets compare as strings like their positions (PROTOCOL.md §8)."""
        first, second = (format_offset(stream(number), each) for each in (one, other))
        self.assertEqual(first < second, one < other)
        self.assertEqual(first == second, one == other)


class ResolveTests(RefusalTestCase):
    """Resolution of offsets in a stream."""

    def test_positions(self) -> None:
        """Bare positions and sentinels resolve up to the tail."""
        for asked, position in ((START, 0), (5, 5), (10, 10), (NOW, 10)):
            self.assertEqual(resolve(stream(7, 10), asked), position)
        self.assertEqual(resolve(stream(7, 10), 11), BEYOND_TAIL)

    def test_incarnations(self) -> None:
        """An offset of another incarnation is refused, and so is one after the tail."""
        self.assertEqual(resolve(stream(7, 10), Offset(7, 10)), 10)
        for asked in (Offset(6, 0), Offset(8, 10), Offset(7, 11)):
            refusal = resolve(stream(7, 10), asked)
            self.assertEqual(refusal, OTHER_INCARNATION)
        self.assertEqual(OTHER_INCARNATION.problem.status, 410)


class ParseTests(RefusalTestCase):
    """Parsing of offsets."""

    def test_sentinels(self) -> None:
        """``-1`` is the start of the stream, ``now`` its tail."""
        self.assertEqual(parse_offset("-1"), START)
        self.assertEqual(parse_offset("now"), NOW)
        self.assertLess(NOW, START)

    def test_other_widths(self) -> None:
        """Leading zeros do not change a position."""
        for token, position in (
            ("0_0", 0),
            ("0_11", 11),
            ("00_0000011", 11),
            ("0" * 32 + "_" + "7".zfill(32), 7),
            (f"0_{MAX_POSITION}", MAX_POSITION),
            ("7_1", Offset(7, 1)),
            ("0" * 31 + "7_0", Offset(7, 0)),
        ):
            self.assertEqual(parse_offset(token), position, token)

    def test_beyond_the_largest_position(self) -> None:
        """A position that no stream can have is refused as out of range."""
        for token in (f"0_{MAX_POSITION + 1}", f"1_{MAX_POSITION + 1}", "0_" + "9" * 32):
            self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, parse_offset, token)

    def test_malformed(self) -> None:
        """Malformed offsets are refused; nothing is stripped."""
        for token in (
            *("", " ", "_", "0", "12345", "abc_def", "1_2_3", "_1", "1_", "0__0", "-1_0", "0_-1"),
            *("0,1", "0 1", "0_1 ", " 0_1", "+0_1", "0_1/..", "../0_1", "0_0x1", "0_1e3", "0_1.0"),
            *("-1 ", "-1\n", "now\n", "now ", "NOW", "Now", "-01", "-0", "-2", "--1", "now_0"),
            *("0_1\n", "0_1\r\n", "0_1\0", "\N{ARABIC-INDIC DIGIT ONE}_0", "0_\N{SUPERSCRIPT TWO}"),
            *("\N{FULLWIDTH DIGIT ONE}_0", "0\N{FULLWIDTH LOW LINE}0"),
            *("0_" + "0" * 33, "0" * 33 + "_0", "9" * 100_000),
        ):
            self.assertRefused(Problem.MALFORMED_OFFSET, parse_offset, token)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any text is a position, a sentinel, or refused with 400."""
        try:
            position = parse_offset(text)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem.status, 400)
        else:
            self.assertRegex(text, re.compile(r"\A(-1|now|[0-9]+_[0-9]+)\Z"))
            bare = position.position if isinstance(position, Offset) else position
            self.assertLessEqual(bare, MAX_POSITION)

    @given(
        POSITIONS,
        st.sampled_from([" ", "\n", "\r\n", "\0", ",", "/", "/..", "&", "=", "?", "_", "a", "\t"]),
        st.integers(0, 37),
    )
    def test_mutated_offsets(self, position: int, spoiler: str, at: int) -> None:
        """An offset with any inserted text is refused."""
        token = format_offset(stream(7), position)
        self.assertRefused(
            Problem.MALFORMED_OFFSET, parse_offset, token[:at] + spoiler + token[at:]
        )

    @given(st.text(alphabet="0123456789_", max_size=40))
    def test_digits_and_underscores(self, text: str) -> None:
        """Exactly one underscore with digits on both sides."""
        assume(re.fullmatch(r"[0-9]+_[0-9]+", text) is None)
        self.assertRefused(Problem.MALFORMED_OFFSET, parse_offset, text)
