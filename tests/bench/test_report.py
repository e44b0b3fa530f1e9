"""From samples to a page, a plot, and a file that can be read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from bench import chart, report, results
from bench.compare import parse, shown
from bench.figures import Figure
from bench.results import Results, Sample
from bench.work import ROWS
from bench.work.row import Row, Trial
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

SVG = "{http://www.w3.org/2000/svg}"


class Made(Row):
    """A row that is never measured."""

    name = "made"
    title = "appends of nothing"
    figures = (
        Figure("rate", "appends", "/s", "more"),
        Figure("late", "delay", "ms", "less"),
        Figure("load_cpu", "load's core", "%", "context"),
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Nothing calls it."""
        raise NotImplementedError


ROW = Made()
DATE = "2026-01-02 03:04 UTC"


def sample(server: str, number: int, rate: float, late: float, cpu: float = 50.0) -> Sample:
    """What one round gave."""
    figures = {"rate": rate, "late": late, "load_cpu": cpu}
    return Sample("made", server, "memory", number, DATE, figures)


def failed(server: str, number: int, why: str) -> Sample:
    """A round that gave nothing."""
    return Sample("made", server, "memory", number, DATE, {}, why)


def of(*samples: Sample) -> Results:
    """Results with these samples."""
    settings: dict[str, float] = {"rounds": 3, "seconds": 5.0, "scale": 1.0, "full": False}
    return Results(DATE, "run it", "a box", {"Thing": "1.0"}, settings, ["x: y"], list(samples))


FIELD = of(
    *(sample("fast", number, rate, 5.0) for number, rate in enumerate((90.0, 120.0, 100.0), 1)),
    *(sample("rust", number, 400.0, 2.5, cpu=99.0) for number in (1, 2, 3)),
    sample("caddy", 1, 10.0, 10.0),
    failed("caddy", 2, "it fell over"),
    failed("caddy", 3, "it fell over"),
    sample("sender", 1, 900.0, 1.0),
)


def table(page: str, start: str) -> list[list[str]]:
    """The cells of all lines that begin so."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith(start)
    ]


class PageTests(SynchronousTestCase):
    """What the page says."""

    def setUp(self) -> None:
        self.page = report.page(FIELD, [ROW])

    def test_ratios(self) -> None:
        """Ours by theirs for what is good, theirs by ours for what is bad; context is left out."""
        lines = table(self.page, "| appends of nothing, memory")
        work = "appends of nothing, memory"
        self.assertEqual(
            lines,
            [
                [work, "appends", "100 /s", "10.0x", "0.25x"],
                [work, "delay", "5.00 ms", "2.00x", "0.50x"],
            ],
        )

    def test_medians_and_ranges(self) -> None:
        """The range is told where there is one."""
        lines = table(self.page, "| ours |")
        self.assertEqual(lines, [["ours", "memory", "100 (90.0 to 120)", "5.00", "50.0"]])

    def test_busy_load(self) -> None:
        """A load that had no room left is named."""
        self.assertEqual(table(self.page, "| Rust server |")[0][-1], "99.0 (busy)")

    def test_the_sender_is_no_peer(self) -> None:
        """It stands in its row, and in no ratio."""
        self.assertEqual(report.peers(FIELD), ["caddy", "rust"])
        self.assertEqual(table(self.page, "| bare sender |")[0][1:3], ["", "900"])

    def test_failures(self) -> None:
        """Each reason once."""
        self.assertEqual(self.page.count("it fell over"), 1)
        self.assertIn("- Caddy plugin (Go), memory: it fell over", self.page)

    def test_circumstances(self) -> None:
        """Date, machine, versions, command, and what was left out."""
        for words in (DATE, "a box", "Thing 1.0", "`run it`", "- x: y"):
            self.assertIn(words, self.page)
        self.assertNotIn("Scaled", self.page)

    def test_scaled(self) -> None:
        """A trial of the bench says that it is one."""
        page = report.page(replace(FIELD, settings=FIELD.settings | {"scale": 0.1}), [ROW])
        self.assertIn("Scaled by 0.1", page)

    def test_klein_alone(self) -> None:
        """Without the fast channel the Klein door is compared."""
        alone = of(sample("klein", 1, 50.0, 1.0), sample("rust", 1, 100.0, 1.0))
        self.assertEqual(report.us(alone), "klein")
        self.assertEqual(report.peers(alone), ["rust"])
        self.assertEqual(table(report.page(alone, [ROW]), "| appends of nothing")[0][-1], "0.50x")


class PlotTests(SynchronousTestCase):
    """What the plot shows."""

    def test_a_bar_for_each_ratio(self) -> None:
        """Left of the line where ours is worse, right of it where it is better."""
        tree = ElementTree.fromstring(report.plot(FIELD, [ROW]))
        bars = {
            bar.get("fill"): (float(bar.attrib["x"]), float(bar.attrib["width"]))
            for bar in tree.iter(f"{SVG}rect")
            if bar.get("height") == str(chart.BAR - 2) and float(bar.attrib["x"]) >= chart.LEFT
        }
        (better, wide), (worse, narrow) = bars[chart.COLOURS[0]], bars[chart.COLOURS[1]]
        self.assertAlmostEqual(worse + narrow, better, delta=0.2)
        self.assertGreater(wide, narrow)

    @given(
        st.lists(
            st.tuples(st.text("abc <&>\"'"), st.none() | st.floats(1e-6, 1e6), st.none()),
            max_size=5,
        )
    )
    def test_any_ratios(self, rows: list[tuple[str, float | None, None]]) -> None:
        """Always XML, and nothing is drawn outside."""
        bars = [chart.Bars(label, (first, second)) for label, first, second in rows]
        tree = ElementTree.fromstring(chart.draw("<all>", ["a&b", "c"], bars))
        for bar in tree.iter(f"{SVG}rect"):
            end = float(bar.get("x", 0)) + float(bar.attrib["width"])
            self.assertLessEqual(end, chart.WIDTH)


class FileTests(SynchronousTestCase):
    """What is kept between runs."""

    def test_round_trip(self) -> None:
        """All of it comes back."""
        path = Path(self.mktemp())
        FIELD.save(path)
        self.assertEqual(results.load(path), FIELD)

    def test_replace(self) -> None:
        """A new run of a row takes the place of the old one, for its server alone."""
        field = of(sample("fast", 1, 1.0, 1.0), sample("rust", 1, 2.0, 2.0))
        field.replace("made", "fast", "memory")
        self.assertEqual(field.samples, [sample("rust", 1, 2.0, 2.0)])


class CommandTests(SynchronousTestCase):
    """The command line."""

    def test_paths_are_not_shown(self) -> None:
        """Nobody needs to know where somebody else's binaries are."""
        told = shown(["--caddy", "/a/b", "--rust=/c", "--rounds", "3", "--add"])
        self.assertEqual(told, "python -m bench.compare --caddy PATH --rust=PATH --rounds 3 --add")

    def test_names(self) -> None:
        """Rows by name, with commas."""
        self.assertEqual(parse(["--only", "get-1k,kill"]).only, ["get-1k", "kill"])

    def test_rows_have_different_names(self) -> None:
        """And every figure of a row has a key of its own."""
        names = [row.name for row in ROWS]
        self.assertEqual(len(set(names)), len(names))
        for row in ROWS:
            keys = [figure.key for figure in row.figures]
            self.assertEqual(len(set(keys)), len(keys))
            self.assertNotEqual(row.figures[0].better, "context")
