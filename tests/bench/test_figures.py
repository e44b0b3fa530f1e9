"""Tests of `bench.figures`: medians, ranges, percentiles, ratios and number formats."""

from __future__ import annotations

from bench.figures import Figure, Spread, advantage, percentile, short, spread, times
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

RATE = Figure("rate", "appends", "/s", "more")
DELAY = Figure("p50", "delay", "ms", "less")
SHARE = Figure("cpu", "client's core", "%", "context")


class SpreadTests(SynchronousTestCase):
    """`spread`."""

    def test_odd_number(self) -> None:
        """The median of an odd number of values is the middle one."""
        self.assertEqual(spread([3.0, 1.0, 2.0]), Spread(2.0, 1.0, 3.0, 3))

    def test_even_number(self) -> None:
        """The median of an even number of values is the mean of the middle two."""
        self.assertEqual(spread([1.0, 2.0]), Spread(1.5, 1.0, 2.0, 2))

    def test_empty(self) -> None:
        """Without values `spread` raises `ValueError`."""
        self.assertRaises(ValueError, spread, [])


class PercentileTests(SynchronousTestCase):
    """`percentile` uses the nearest rank, so it returns a measured value."""

    def test_hundred_values(self) -> None:
        """The p-th percentile of 1 to 100 is p."""
        ordered = [float(number) for number in range(1, 101)]
        self.assertEqual([percentile(ordered, at) for at in (0.01, 0.5, 0.99, 1)], [1, 50, 99, 100])

    def test_few_values(self) -> None:
        """Percentiles of one and two values."""
        self.assertEqual(percentile([1.0, 5.0], 0.5), 1.0)
        self.assertEqual(percentile([1.0, 5.0], 0.51), 5.0)
        self.assertEqual(percentile([7.0], 0.0), 7.0)

    def test_empty(self) -> None:
        """Without values `percentile` raises `ValueError`."""
        self.assertRaises(ValueError, percentile, [], 0.5)

    @given(
        st.lists(st.floats(-1e9, 1e9), min_size=1).map(sorted),
        st.fractions(0, 1, max_denominator=64),
    )
    def test_share(self, ordered: list[float], share: object) -> None:
        """At least ``share`` of all values do not exceed the percentile, and no smaller value has
        this property.
        """
        wanted = float(share)  # type: ignore[arg-type]
        value = percentile(ordered, wanted)
        self.assertIn(value, ordered)
        self.assertGreaterEqual(sum(one <= value for one in ordered), wanted * len(ordered))
        if value != ordered[0]:
            self.assertLess(sum(one < value for one in ordered), wanted * len(ordered))


class AdvantageTests(SynchronousTestCase):
    """`advantage` is above 1 if this server is better."""

    def test_more_is_better(self) -> None:
        """Twice the rate is an advantage of 2."""
        self.assertEqual(advantage(RATE, 200.0, 100.0), 2.0)

    def test_less_is_better(self) -> None:
        """Half the delay is an advantage of 2."""
        self.assertEqual(advantage(DELAY, 5.0, 10.0), 2.0)

    def test_context(self) -> None:
        """A figure of kind "context" has no advantage."""
        self.assertIsNone(advantage(SHARE, 1.0, 2.0))

    def test_zero(self) -> None:
        """A value of zero has no advantage."""
        self.assertIsNone(advantage(DELAY, 0.0, 10.0))
        self.assertIsNone(advantage(RATE, 10.0, 0.0))


class FormatTests(SynchronousTestCase):
    """Number formats: three significant digits."""

    def test_short(self) -> None:
        """`short` formats small to large numbers, also at the limits between units."""
        written = {
            0.0: "0",
            0.0063: "0.006",
            0.0994: "0.099",
            0.0996: "0.10",
            1.234: "1.23",
            9.994: "9.99",
            9.996: "10.0",
            99.94: "99.9",
            99.96: "100",
            999.4: "999",
            999.6: "1.00k",
            12_345.0: "12.3k",
            999_400.0: "999k",
            999_600.0: "1.00M",
            2_700_000.0: "2.70M",
        }
        self.assertEqual({value: short(value) for value in written}, written)

    def test_times(self) -> None:
        """`times` formats a ratio, and None as an empty cell."""
        self.assertEqual([times(1.0), times(17.94), times(None)], ["1.00x", "17.9x", ""])
