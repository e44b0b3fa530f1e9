"""Bar chart of ratios on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bench.figures import times

WIDTH = 1060
LEFT = 500
RIGHT = 70
BAR = 13
GAP = 12
TOP = 64
COLOURS = ("#4c78a8", "#54a24b", "#f58518", "#b279a2", "#9d755d", "#e45756")


@dataclass(frozen=True)
class Bars:
    """Row of the chart: a label, and a ratio for each series (None: no bar)."""

    label: str
    ratios: tuple[float | None, ...]


def draw(title: str, series: Sequence[str], rows: Sequence[Bars]) -> str:
    """Return the chart as SVG. Ratios above 1 favour this server; rows without any are omitted."""
    rows = [row for row in rows if any(row.ratios)]
    found = [ratio for row in rows for ratio in row.ratios if ratio]
    low = math.floor(math.log10(min([0.5, *found])))
    high = math.ceil(math.log10(max([2.0, *found])))

    def across(ratio: float) -> float:
        share = (math.log10(ratio) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    parts: list[str] = []
    at = TOP
    for row in rows:
        bars = [(number, ratio) for number, ratio in enumerate(row.ratios) if ratio]
        middle = at + len(bars) * BAR / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">')
        parts.append(f"{escape(row.label)}</text>")
        for number, ratio in bars:
            start, end = sorted((across(1.0), across(ratio)))
            colour = COLOURS[number % len(COLOURS)]
            parts.append(
                f'<rect x="{start:.1f}" y="{at}" width="{max(1.0, end - start):.1f}" '
                f'height="{BAR - 2}" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{end + 4:.1f}" y="{at + 9}" class="small">{times(ratio)}</text>'
            )
            at += BAR
        at += GAP
    height = at + 24
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"',
            'font-family="sans-serif" font-size="12">',
            "<style>.small { font-size: 10px } .grid { stroke: #d0d0d0 }</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="10" y="20" font-size="15">{escape(title)}</text>',
            *_legend(series),
            *_grid(low, high, across, at),
            *parts,
            "</svg>",
            "",
        ]
    )


def _legend(series: Sequence[str]) -> list[str]:
    parts = []
    x = 10.0
    for number, name in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="31" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="41">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts


def _grid(low: int, high: int, across: Callable[[float], float], bottom: float) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = across(10.0**power)
        dark = ' style="stroke: #404040"' if power == 0 else ""
        parts.append(f'<path d="M{x:.1f} {TOP - 8}V{bottom}" class="grid"{dark}/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle" class="small">'
            f"{10.0**power:g}x</text>"
        )
    return parts
