"""What a measurement gives, and the arithmetic over rounds: medians, ranges, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One number that a row of work gives for each server.

    ``better`` tells whether more or less of it is good, or that it judges nothing (``"context"``:
    printed beside the others, never compared).
    """

    key: str
    title: str
    unit: str
    better: Literal["more", "less", "context"]


@dataclass(frozen=True)
class Spread:
    """The values of some rounds."""

    median: float
    least: float
    most: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Median and range. Raises `ValueError` where there is no value."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of all values do not exceed.

    ``ordered`` is sorted, ascending. Raises `ValueError` where it is empty.
    """
    if not ordered:
        raise ValueError("no values")
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def advantage(figure: Figure, ours: float, theirs: float) -> float | None:
    """How many times better ours is; below 1 where it is worse.

    None where the figure judges nothing, or where a value is not above zero: no ratio says what
    nothing is worth.
    """
    if figure.better == "context" or ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if figure.better == "more" else theirs / ours


def told(figure: Figure, value: float) -> str:
    """A value of a figure: a count in full, anything else in three digits."""
    return short(value) if figure.unit else f"{value:,.0f}"


def short(value: float) -> str:
    """Three digits that matter, thousands as ``k``, millions as ``M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        # What would be rounded up to a thousand is written in the next unit.
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
    """A ratio as it stands in a table."""
    return "" if ratio is None else f"{_three(ratio)}x"
