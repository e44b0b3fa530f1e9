"""Tests of `durable_streams_tw.protocol.cursors`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.cursors import interval_at, next_cursor, parse_cursor
from durable_streams_tw.protocol.limits import (
    CURSOR_EPOCH,
    CURSOR_INTERVAL,
    CURSOR_MAX_JITTER,
    MAX_CURSOR_DIGITS,
)
from tests.protocol.refusal_case import RefusalTestCase

TIMES = st.floats(0, 4e9)
CHANCES = st.floats(0, 1, exclude_max=True)
# 2026-11-24T12:00:07Z, in the middle of an interval.
NOW = 1_795_521_607.0
CURRENT = 3_354_480


class IntervalTests(RefusalTestCase):
    """Numbers of intervals."""

    def test_counted_from_the_epoch(self) -> None:
        """Intervals of 20 seconds are counted from 2024-10-09T00:00:00Z."""
        for now, interval in (
            (CURSOR_EPOCH, 0),
            (CURSOR_EPOCH + 19.999, 0),
            (CURSOR_EPOCH + 20, 1),
            (CURSOR_EPOCH + 86_400, 4320),
            (NOW, CURRENT),
        ):
            self.assertEqual(interval_at(now), interval)

    def test_clock_before_the_epoch(self) -> None:
        """A clock before the epoch yields no negative number."""
        self.assertEqual(interval_at(0.0), 0)
        self.assertEqual(interval_at(CURSOR_EPOCH - 0.5), 0)

    @given(TIMES, TIMES)
    def test_monotonic(self, one: float, other: float) -> None:
        """A later time has no smaller number."""
        earlier, later = sorted((one, other))
        self.assertLessEqual(interval_at(earlier), interval_at(later))


class ParseTests(RefusalTestCase):
    """Parsing of cursors."""

    def test_numbers(self) -> None:
        """Decimal numbers up to a bound are parsed exactly."""
        for text, cursor in (
            ("0", 0),
            ("1000", 1000),
            ("0001", 1),
            (str(2**53), 2**53),
            ("9" * MAX_CURSOR_DIGITS, 10**MAX_CURSOR_DIGITS - 1),
        ):
            self.assertEqual(parse_cursor(text), cursor)

    def test_malformed_cursors_are_ignored(self) -> None:
        """A malformed cursor is ignored: it only affects cache keys."""
        for text in (
            *("", " ", "abc", "-1", "+1", "1.0", "1e3", "1e+23", "0x10", " 1", "1 ", "1\n", "1_0"),
            *("\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}"),
            *("9" * (MAX_CURSOR_DIGITS + 1), "1" * 10_000),
        ):
            self.assertIsNone(parse_cursor(text), text)


class NextTests(RefusalTestCase):
    """Cursors of responses."""

    def test_without_a_cursor(self) -> None:
        """Without a cursor the response has the current interval."""
        self.assertEqual(next_cursor(NOW, None, 0.5), CURRENT)

    def test_older_cursor(self) -> None:
        """An older cursor is followed by the current interval."""
        for chance in (0.0, 0.5, 0.999_999):
            self.assertEqual(next_cursor(NOW, CURRENT - 1, chance), CURRENT)
            self.assertEqual(next_cursor(NOW, 0, chance), CURRENT)

    def test_jitter(self) -> None:
        """A current cursor is increased by 1 to 3600 seconds, in whole intervals."""
        for echoed in (CURRENT, CURRENT + 1, CURRENT + 10_000):
            self.assertEqual(next_cursor(NOW, echoed, 0.0), echoed + 1)
            self.assertEqual(next_cursor(NOW, echoed, 0.5), echoed + 90)
            self.assertEqual(next_cursor(NOW, echoed, 38.5 / 3600), echoed + 1)
            self.assertEqual(next_cursor(NOW, echoed, 39.5 / 3600), echoed + 2)
            self.assertEqual(next_cursor(NOW, echoed, 1 - 2**-53), echoed + 180)

    @given(TIMES, st.none() | st.integers(0, 10**40), CHANCES)
    def test_progress(self, now: float, echoed: int | None, chance: float) -> None:
        """The cursor is never before the clock, and above a current one of the client."""
        cursor = next_cursor(now, echoed, chance)
        current = interval_at(now)
        self.assertGreaterEqual(cursor, current)
        if echoed is not None and echoed >= current:
            self.assertGreater(cursor, echoed)
            self.assertLessEqual(cursor, echoed + CURSOR_MAX_JITTER // CURSOR_INTERVAL)
        else:
            self.assertEqual(cursor, current)

    @given(
        TIMES,
        st.lists(st.tuples(st.floats(0, 1000), CHANCES), max_size=20),
        st.integers(0, 10**20) | st.none(),
    )
    def test_sequence_increases(
        self, now: float, steps: list[tuple[float, float]], echoed: int | None
    ) -> None:
        """The cursors of a client that sends back each one never decrease.

        Within an interval each is greater than the one before.
        """
        for passed, chance in steps:
            now += passed
            cursor = next_cursor(now, echoed, chance)
            if echoed is not None:
                self.assertGreater(cursor, echoed) if echoed >= interval_at(
                    now
                ) else self.assertGreaterEqual(cursor, echoed)
            self.assertEqual(parse_cursor(str(cursor)), cursor)
            echoed = cursor
