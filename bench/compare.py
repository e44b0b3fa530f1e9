"""Benchmark of this server against its peers, on one machine.

    python -m bench.compare                            all servers that can run here
    python -m bench.compare --caddy PATH --rust PATH   with peers that you have built
    python -m bench.compare --only append-64,get-1k --servers fast,klein --seconds 2
    python -m bench.compare --list

Requires Linux, wrk, two cores, and Node for the reference server. Results go to the directory of
--output: benchmarks.json, benchmarks.md and benchmarks.svg.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, report, results, wrk
from bench.client import Mismatch
from bench.figures import formatted
from bench.held import NotHeld
from bench.process import Fault, can_profile
from bench.results import Results, Sample
from bench.servers import STORES, TITLES, Field, Variant, gather
from bench.subscribers import Missing
from bench.work import ROWS
from bench.work.row import Kept, Row, Settings, Trial, Unmeasurable, forget

#: Errors of a server, or of its connection to the load generator: the row reports them, and other
#: rows continue.
TROUBLE = (Fault, Mismatch, Missing, NotHeld, OSError, subprocess.TimeoutExpired, wrk.BadLoad)
#: Factor of the time limit for filling a store with --full.
FULL = 15
#: Share of other processes above which their load is reported.
QUIET = 0.05
PATHS = ("--caddy", "--rust", "--output", "--directory")


class Names:
    """Argument parser for a comma-separated list of known names."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in self.known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(self.known)}")
        return names


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = Names([row.name for row in ROWS])
    servers = Names(list(TITLES))
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--only", type=names, help="comma-separated rows to measure")
    parser.add_argument("--servers", type=servers, default=list(TITLES), help=", ".join(TITLES))
    parser.add_argument("--stores", type=Names(list(STORES)), default=list(STORES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each load")
    parser.add_argument(
        "--full", action="store_true", help="include rows and servers that take very long"
    )
    parser.add_argument("--caddy", type=Path, help="path of Caddy with the durable_streams module")
    parser.add_argument("--rust", type=Path, help="path of the Rust server")
    parser.add_argument("--output", type=Path, default=Path("bench/results"))
    parser.add_argument(
        "--add", action="store_true", help="keep the results of other rows in --output"
    )
    parser.add_argument("--report", action="store_true", help="only write the page from --output")
    parser.add_argument(
        "--directory", type=Path, help="directory for stores (default: the system's)"
    )
    parser.add_argument("--fill-limit", type=float, default=60.0, help="seconds to fill a store")
    parser.add_argument("--server-core", type=int)
    parser.add_argument("--load-core", type=int)
    parser.add_argument(
        "--profile", action="store_true", help="draw flame graphs; distorts the figures"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of all counts, to try the benchmark"
    )
    return parser.parse_args(arguments)


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line without paths of this machine."""
    words, path = ["python -m bench.compare"], False
    for word in arguments:
        name, given, _ = word.partition("=")
        words.append("PATH" if path else f"{name}=PATH" if given and name in PATHS else word)
        path = word in PATHS
    return " ".join(words)


class Comparison:
    """One run of the benchmark."""

    def __init__(
        self, settings: Settings, found: Field, kept: Results, folder: Path, output: Path
    ) -> None:
        self._settings = settings
        self._found = found
        self._results = kept
        self._folder = folder
        self._output = output

    def run(self, row: Row, stores: Sequence[str], rounds: int) -> None:
        """Measure one row: in each round all servers, one after another."""
        variants = [
            variant
            for variant in self._found.variants
            if variant.store in stores and row.fits(variant)
        ]
        keeping = {str(variant): self._keep(row, variant) for variant in variants}
        print(f"=== {row.name}: {row.title}", flush=True)
        try:
            for number in range(1, rounds + 1):
                for variant in variants:
                    kept = keeping[str(variant)]
                    if kept.hopeless is None:
                        self._measure(row, variant, kept, number)
        finally:
            for kept in keeping.values():
                forget(kept)

    def _keep(self, row: Row, variant: Variant) -> Kept:
        self._results.replace(row.name, variant.server, variant.store)
        home = self._folder / f"kept-{variant}".replace(" ", "-")
        home.mkdir()
        return Kept(home)

    def _measure(self, row: Row, variant: Variant, kept: Kept, number: int) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        trial = Trial(variant, self._settings, folder, kept, number, row.name)
        figures: dict[str, float] = {}
        failure = None
        try:
            figures = row.measure(trial)
        except Unmeasurable as reason:
            failure = kept.hopeless = str(reason)
        except TROUBLE as trouble:
            failure = f"{type(trouble).__name__}: {trouble}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        said = ", ".join(
            f"{figure.title} {formatted(figure, figures[figure.key])} {figure.unit}".strip()
            for figure in row.figures
            if figure.key in figures
        )
        print(f"  {number} {variant!s:<15} {said or failure}", flush=True)
        date = _now()
        self._results.date = date
        self._results.samples.append(
            Sample(row.name, variant.server, variant.store, number, date, figures, failure)
        )
        self._results.save(self._output)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def choose(options: argparse.Namespace, skipped: list[str]) -> list[Row]:
    """Return the requested rows that can run, and a line for each one that cannot."""
    rows = []
    for row in ROWS:
        if options.only is not None and row.name not in options.only:
            continue
        if row.needs_wrk and not wrk.available():
            skipped.append(f"{row.name}: {wrk.MISSING}")
        elif row.only_full and not options.full:
            skipped.append(f"{row.name}: only with --full")
        else:
            rows.append(row)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark, write the results, and return the exit status."""
    options = parse(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:<16} {row.title}{' (only with --full)' if row.only_full else ''}")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "benchmarks.json"
    if options.report:
        report.write(results.load(file), ROWS, options.output)
        return 0
    cores, warning = machine.choose_cores(options.server_core, options.load_core)
    files = machine.raise_file_limit()
    found = gather(options.servers, options.caddy, options.rust)
    rows = choose(options, found.skipped)
    remarks = [f"Not measured: {line}" for line in found.skipped]
    if warning is not None:
        remarks.append(warning)
    busy = machine.foreign_load()
    if busy > QUIET:
        remarks.append(
            f"Other work took {100 * busy:.0f} % of this machine just before: trust no figure"
        )
    if options.profile and not can_profile():
        remarks.append('No profiles: py-spy is not on the path (the extra "bench" has it)')
    for line in remarks:
        print(line, flush=True)
    cores.take_load()
    settings = Settings(
        seconds=options.seconds,
        full=options.full,
        fill_limit=options.fill_limit * (FULL if options.full else 1),
        scale=options.scale,
        files=files,
        cores=cores,
        profiles=options.output.resolve() if options.profile and can_profile() else None,
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        folder = Path(name).resolve()
        kept = Results(
            date=_now(),
            command=command_line(arguments),
            machine=machine.describe(folder),
            versions=machine.python_versions() | found.versions,
            settings={
                "rounds": options.rounds,
                "seconds": options.seconds,
                "scale": options.scale,
                "full": options.full,
            },
            remarks=remarks,
            samples=results.load(file).samples if options.add and file.exists() else [],
        )
        comparison = Comparison(settings, found, kept, folder, file)
        for row in rows:
            comparison.run(row, options.stores, options.rounds)
    report.write(kept, ROWS, options.output)
    print(f"Written: {file}, and benchmarks.md and benchmarks.svg beside it")
    return 0


if __name__ == "__main__":
    # Like Ctrl-C: stop the running server and remove its directory.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
