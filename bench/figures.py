"""Figures of measurements, and their medians, ranges and ratios over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """Figure that a row measures for each server.

    ``better`` is "more" or "less", or "context" for a figure that is printed but not compared.
    """

    key: str
    title: str
    unit: str
    better: Literal["more", "less", "context"]


@dataclass(frozen=True)
class Spread:
    """Median and range over some rounds."""

    median: float
    least: float
    most: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Return median and range. Raise `ValueError` without values."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of all values do not exceed.

    ``ordered`` is sorted ascending. Raise `ValueError` if it is empty.
    """
    if not ordered:
        raise ValueError("no values")
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def advantage(figure: Figure, ours: float, theirs: float) -> float | None:
    """Return how many times better this server is (below 1: worse).

    Return None for figures that are not compared, and for values that are not above zero.
    """
    if figure.better == "context" or ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if figure.better == "more" else theirs / ours


def formatted(figure: Figure, value: float) -> str:
    """Format a value: counts in full, other values with three significant digits."""
    return short(value) if figure.unit else f"{value:,.0f}"


def short(value: float) -> str:
    """Format with three significant digits, thousands as ``k``, millions as ``M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        # A value that rounds up to 1000 is written in the next unit.
        if abs(value) >= size * 0.9995:
            return _three(value / size) + letter
    return _three(value)


def _three(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return f"{value:.{digits}f}"


def times(ratio: float | None) -> str:
    """Format a ratio for a table."""
    return "" if ratio is None else f"{_three(ratio)}x"
