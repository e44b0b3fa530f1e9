"""Tests of `durable_streams_tw.protocol.offsets`."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.offsets import NOW, START, format_offset, parse_offset
from tests.protocol.refusing import RefusingTestCase

POSITIONS = st.integers(0, MAX_POSITION)


class FormatTests(RefusingTestCase):
    """What clients are given."""

    def test_begins_at_zero(self) -> None:
        """The first offset of every stream is a text that clients write out."""
        self.assertEqual(format_offset(START), "0000000000000000_0000000000000000")

    def test_has_one_width(self) -> None:
        """The largest position takes no more room than the smallest."""
        self.assertEqual(format_offset(MAX_POSITION), "0000000000000000_9999999999999999")
        self.assertEqual(format_offset(1), "0000000000000000_0000000000000001")

    @given(POSITIONS)
    def test_round_trip(self, position: int) -> None:
        """A token names the position that it was made from, and is no sentinel."""
        token = format_offset(position)
        self.assertEqual(parse_offset(token), position)
        self.assertRegex(token, re.compile(r"\A[0-9_]{33}\Z"))

    @given(POSITIONS, POSITIONS)
    def test_sorts_as_positions_do(self, one: int, other: int) -> None:
        """PROTOCOL.md §8: tokens compare as strings."""
        self.assertEqual(format_offset(one) < format_offset(other), one < other)
        self.assertEqual(format_offset(one) == format_offset(other), one == other)


class ParseTests(RefusingTestCase):
    """What clients send."""

    def test_sentinels(self) -> None:
        """``-1`` is the start, ``now`` stands apart from every position."""
        self.assertEqual(parse_offset("-1"), START)
        self.assertEqual(parse_offset("now"), NOW)
        self.assertLess(NOW, START)

    def test_other_widths(self) -> None:
        """Leading zeros do not matter."""
        for token, position in (
            ("0_0", 0),
            ("0_11", 11),
            ("00_0000011", 11),
            ("0" * 32 + "_" + "7".zfill(32), 7),
            (f"0_{MAX_POSITION}", MAX_POSITION),
        ):
            self.assertEqual(parse_offset(token), position, token)

    def test_beyond_every_stream(self) -> None:
        """A first half that is not zero, or a position that no stream can have."""
        for token in (
            "1_0",
            "0000000000000001_0000000000000000",
            "9999999999999999_9999999999999999",
            f"0_{MAX_POSITION + 1}",
        ):
            self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, parse_offset, token)

    def test_malformed(self) -> None:
        """Everything that is not exactly an offset is refused, nothing is stripped."""
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
        """Any text is a position, a sentinel, or refused as the client's fault."""
        try:
            position = parse_offset(text)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem.status, 400)
        else:
            self.assertRegex(text, re.compile(r"\A(-1|now|0+_[0-9]+)\Z"))
            self.assertLessEqual(position, MAX_POSITION)

    @given(
        POSITIONS,
        st.sampled_from([" ", "\n", "\r\n", "\0", ",", "/", "/..", "&", "=", "?", "_", "a", "\t"]),
        st.integers(0, 33),
    )
    def test_spoiled_tokens(self, position: int, spoiler: str, at: int) -> None:
        """A token of ours with anything put into it is none any more."""
        token = format_offset(position)
        self.assertRefused(
            Problem.MALFORMED_OFFSET, parse_offset, token[:at] + spoiler + token[at:]
        )

    @given(st.text(alphabet="0123456789_", max_size=40))
    def test_digits_and_underscores(self, text: str) -> None:
        """Exactly one underscore with digits on both sides."""
        assume(re.fullmatch(r"[0-9]+_[0-9]+", text) is None)
        self.assertRefused(Problem.MALFORMED_OFFSET, parse_offset, text)
