"""Tests of `bench.workers`."""

from __future__ import annotations

from bench.workers import Figures, median
from twisted.trial.unittest import SynchronousTestCase


class FiguresTests(SynchronousTestCase):
    """Medians and estimates."""

    def test_estimate(self) -> None:
        """Fronts take all cores but one, until the owner's core is busy."""
        figures = Figures(rate=20_000, front=20.0, owner=10.0)
        self.assertEqual(figures.estimate(2), 50_000)
        self.assertEqual(figures.estimate(4), 100_000)
        self.assertEqual(Figures(20_000, 40.0, 10.0).estimate(4), 75_000)

    def test_estimate_of_one_process(self) -> None:
        """One process does not use more cores."""
        self.assertEqual(Figures(20_000, 40.0, 0.0).estimate(8), 20_000)

    def test_median(self) -> None:
        """Each figure has a median of its own."""
        results = [Figures(1, 6, 5), Figures(2, 4, 9), Figures(3, 5, 7)]
        self.assertEqual(median(results), Figures(2, 5, 7))
