"""Tests of `bench.report`, `bench.chart`, `bench.results` and the command line of
`bench.compare`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from bench import chart, report, results
from bench.compare import command_line, parse
from bench.figures import Figure
from bench.results import Results, Sample
from bench.work import ROWS
from bench.work.row import Row, Trial
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

SVG = "{http://www.w3.org/2000/svg}"


class FakeRow(Row):
    """Row that is never measured."""

    name = "made"
    title = "appends of nothing"
    figures = (
        Figure("rate", "appends", "/s", "more"),
        Figure("late", "delay", "ms", "less"),
        Figure("load_cpu", "load's core", "%", "context"),
    )

    def measure(self, trial: Trial) -> dict[str, float]:
        """Raise: no test measures."""
        raise NotImplementedError


ROW = FakeRow()
DATE = "2026-01-02 03:04 UTC"


def sample(server: str, number: int, rate: float, late: float, cpu: float = 50.0) -> Sample:
    """Return a sample of one round."""
    figures = {"rate": rate, "late": late, "load_cpu": cpu}
    return Sample("made", server, "memory", number, DATE, figures)


def failed(server: str, number: int, why: str) -> Sample:
    """Return a sample of a round without figures."""
    return Sample("made", server, "memory", number, DATE, {}, why)


def results_of(*samples: Sample) -> Results:
    """Return results with these samples."""
    settings: dict[str, float] = {"rounds": 3, "seconds": 5.0, "scale": 1.0, "full": False}
    return Results(DATE, "run it", "a box", {"Thing": "1.0"}, settings, ["x: y"], list(samples))


FIELD = results_of(
    *(sample("fast", number, rate, 5.0) for number, rate in enumerate((90.0, 120.0, 100.0), 1)),
    *(sample("rust", number, 400.0, 2.5, cpu=99.0) for number in (1, 2, 3)),
    sample("caddy", 1, 10.0, 10.0),
    failed("caddy", 2, "it fell over"),
    failed("caddy", 3, "it fell over"),
    sample("sender", 1, 900.0, 1.0),
)


def table(page: str, start: str) -> list[list[str]]:
    """Return the cells of all lines with this start."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith(start)
    ]


class PageTests(SynchronousTestCase):
    """`report.page`."""

    def setUp(self) -> None:
        self.page = report.page(FIELD, [ROW])

    def test_ratios(self) -> None:
        """A ratio above 1 favours this server, for rates and delays; context figures
        have no ratio.
        """
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
        """A median over several rounds has its range."""
        lines = table(self.page, "| ours |")
        self.assertEqual(lines, [["ours", "memory", "100 (90.0 to 120)", "5.00", "50.0"]])

    def test_busy_load(self) -> None:
        """A load generator without idle CPU time is marked as busy."""
        self.assertEqual(table(self.page, "| Rust server |")[0][-1], "99.0 (busy)")

    def test_sender_is_not_a_peer(self) -> None:
        """The bare sender has a row, but no ratio."""
        self.assertEqual(report.peers(FIELD), ["caddy", "rust"])
        self.assertEqual(table(self.page, "| bare sender |")[0][1:3], ["", "900"])

    def test_failures(self) -> None:
        """A reason for failed rounds is listed once."""
        self.assertEqual(self.page.count("it fell over"), 1)
        self.assertIn("- Caddy plugin (Go), memory: it fell over", self.page)

    def test_conditions(self) -> None:
        """The page has date, machine, versions, command and remarks."""
        for words in (DATE, "a box", "Thing 1.0", "`run it`", "- x: y"):
            self.assertIn(words, self.page)
        self.assertNotIn("Scaled", self.page)

    def test_scaled(self) -> None:
        """Results of a scaled run say the factor."""
        page = report.page(replace(FIELD, settings=FIELD.settings | {"scale": 0.1}), [ROW])
        self.assertIn("Scaled by 0.1", page)

    def test_klein_alone(self) -> None:
        """Without the variant "fast", peers are compared with the variant "klein"."""
        alone = results_of(sample("klein", 1, 50.0, 1.0), sample("rust", 1, 100.0, 1.0))
        self.assertEqual(report.own_variant(alone), "klein")
        self.assertEqual(report.peers(alone), ["rust"])
        self.assertEqual(table(report.page(alone, [ROW]), "| appends of nothing")[0][-1], "0.50x")


class PlotTests(SynchronousTestCase):
    """`report.plot`."""

    def test_bars(self) -> None:
        """A ratio below 1 has a bar to the left of the line, one above 1 to its right."""
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
        """The chart of any ratios is well-formed, and no bar exceeds its width."""
        bars = [chart.Bars(label, (first, second)) for label, first, second in rows]
        tree = ElementTree.fromstring(chart.draw("<all>", ["a&b", "c"], bars))
        for bar in tree.iter(f"{SVG}rect"):
            end = float(bar.get("x", 0)) + float(bar.attrib["width"])
            self.assertLessEqual(end, chart.WIDTH)


class FileTests(SynchronousTestCase):
    """Results files."""

    def test_round_trip(self) -> None:
        """A saved file loads to equal results."""
        path = Path(self.mktemp())
        FIELD.save(path)
        self.assertEqual(results.load(path), FIELD)

    def test_replace(self) -> None:
        """`replace` removes the samples of one row and one server."""
        field = results_of(sample("fast", 1, 1.0, 1.0), sample("rust", 1, 2.0, 2.0))
        field.replace("made", "fast", "memory")
        self.assertEqual(field.samples, [sample("rust", 1, 2.0, 2.0)])


class CommandTests(SynchronousTestCase):
    """Command line of `bench.compare`."""

    def test_paths_are_omitted(self) -> None:
        """Paths of this machine are replaced in the command line."""
        told = command_line(["--caddy", "/a/b", "--rust=/c", "--rounds", "3", "--add"])
        self.assertEqual(told, "python -m bench.compare --caddy PATH --rust=PATH --rounds 3 --add")

    def test_names(self) -> None:
        """`--only` takes names of rows, separated by commas."""
        self.assertEqual(parse(["--only", "get-1k,kill"]).only, ["get-1k", "kill"])

    def test_names_are_unique(self) -> None:
        """Names of rows, and keys of the figures of a row, are unique."""
        names = [row.name for row in ROWS]
        self.assertEqual(len(set(names)), len(names))
        for row in ROWS:
            keys = [figure.key for figure in row.figures]
            self.assertEqual(len(set(keys)), len(keys))
            self.assertNotEqual(row.figures[0].better, "context")
