"""The page that tells the results: ratios first, then each row with medians and ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import chart
from bench.figures import Figure, Spread, advantage, times, told
from bench.results import Results
from bench.servers import OURS, STORES, TITLES
from bench.work.row import Row

#: Above this share of its core, in percent, a client may have been what limited the server.
BUSY = 95.0

INTRODUCTION = """\
# Benchmarks

This server and its peers on one machine, one after another: the server has one core, the load
the other. Within a round the servers take turns; every figure is a median over all rounds, with
its range. All of it was checked while it was measured: no answer was an error, every append
that was acknowledged is there afterwards, every subscriber got every append once. Read ratios
rather than absolute numbers: another machine has others.

"Durable" is each peer's own notion of it. Ours is in [Durability](durability.md).
"""

HOW = """\
## How it is measured

- HTTP load comes from wrk, one thread, after a second of warm-up. Where the load's core is busy
  to the last, the server could be faster than the figure says.
- Subscribers are one Python process on epoll. The *bare sender* delivers prepared bytes with
  nothing behind them: its figures are the limit of that client, and no server can be seen to be
  faster. A burst is 200 appends of one writer, each sent when the one before it was answered;
  deliveries are counted until the last subscriber has the last append. A delay is counted from
  the moment when the append is sent.
- Memory is the resident memory of the server's process, CPU its user and system time. What idle
  connections cost inside the kernel is not in it.
- A stream of 100 MB is read by one client, following `Stream-Next-Offset` to the tail. Where
  filling a store takes a peer too long the row says so; `--full` allows more time.
- Starts are timed from the start of the process to the first answer, with the file system's
  cache warm.

Make it anew with `{command}`. Peers that are not npm packages are given as paths of built
binaries; `--list` names the rows, `--only` takes some of them, and `--add` keeps what was
measured of the others. wrk has to be installed (Debian and Ubuntu: package `wrk`), and Node for
the reference server. `--profile` draws flame graphs of this server with py-spy
(`pip install "durable-streams-tw[bench]"`).
"""


def write(results: Results, rows: Sequence[Row], folder: Path) -> None:
    """Writes ``benchmarks.md`` and ``benchmarks.svg`` into a folder."""
    (folder / "benchmarks.md").write_text(page(results, rows))
    (folder / "benchmarks.svg").write_text(plot(results, rows))


def us(results: Results) -> str:
    """Which of our doors the peers are compared with: the fast one where it was measured."""
    measured = {sample.server for sample in results.samples if sample.figures}
    return next((name for name in OURS if name in measured), OURS[0])


def peers(results: Results) -> list[str]:
    """All others that were measured; not the bare sender, which is no server."""
    measured = {sample.server for sample in results.samples}
    return [name for name in TITLES if name in measured - {us(results), "sender"}]


def page(results: Results, rows: Sequence[Row]) -> str:
    """The whole page, in Markdown."""
    lines = [INTRODUCTION, *_circumstances(results), "", "## Ratios", ""]
    lines.append("How many times better ours is; below 1 it is worse.\n")
    lines.append("![The ratios, on a logarithmic scale](benchmarks.svg)\n")
    lines += _ratios(results, rows)
    for row in rows:
        lines += _section(results, row)
    lines.append(HOW.format(command=results.command))
    return "\n".join(lines)


def plot(results: Results, rows: Sequence[Row]) -> str:
    """The ratios of the headlines, as SVG."""
    others = peers(results)
    bars = []
    for row in rows:
        for store in STORES:
            ratios = tuple(_ratio(results, row, row.figures[0], store, peer) for peer in others)
            bars.append(chart.Bars(f"{row.title} ({store})", ratios))
    title = "How many times better ours is than …"
    return chart.draw(title, [TITLES[peer] for peer in others], bars)


def _circumstances(results: Results) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    lengths = f"{results.settings['rounds']:g} rounds, loads of {results.settings['seconds']:g} s"
    yield f"- Date: {results.date}"
    yield f"- Machine: {results.machine}"
    yield f"- Versions: {versions}"
    yield f"- Command: `{results.command}`; {lengths}"
    if results.settings["scale"] != 1:
        yield f"- **Scaled by {results.settings['scale']:g}: a trial of the bench, no result.**"
    for line in results.remarks:
        yield f"- {line}"


def _ratios(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    others = peers(results)
    yield _cells(["work", "figure", "ours", *(f"vs {TITLES[peer]}" for peer in others)])
    yield _cells(["---", "---", "--:", *("--:" for _ in others)])
    for row in rows:
        for store in STORES:
            mine = results.spreads(row.name, us(results), store)
            for figure in row.figures:
                if figure.better != "context" and figure.key in mine:
                    ratios = [_ratio(results, row, figure, store, peer) for peer in others]
                    value = f"{told(figure, mine[figure.key].median)} {figure.unit}".strip()
                    work = f"{row.title}, {store}"
                    yield _cells([work, figure.title, value, *map(times, ratios)])
    yield ""


def _ratio(results: Results, row: Row, figure: Figure, store: str, peer: str) -> float | None:
    mine = results.spreads(row.name, us(results), store).get(figure.key)
    theirs = results.spreads(row.name, peer, store).get(figure.key)
    if mine is None or theirs is None:
        return None
    return advantage(figure, mine.median, theirs.median)


def _section(results: Results, row: Row) -> Iterator[str]:
    measured = [
        (server, store)
        for store in STORES
        for server in TITLES
        if results.spreads(row.name, server, store) or results.failures(row.name, server, store)
    ]
    if not measured:
        return
    yield f"## {row.title[:1].upper()}{row.title[1:]}"
    yield f"\n`--only {row.name}`\n"
    heads = [f"{figure.title} {figure.unit}".strip() for figure in row.figures]
    yield _cells(["server", "store", *heads])
    yield _cells(["---", "---", *("--:" for _ in heads)])
    notes = []
    for server, store in measured:
        found = results.spreads(row.name, server, store)
        values = [_spread(figure, found.get(figure.key)) for figure in row.figures]
        yield _cells([TITLES[server], "" if server == "sender" else store, *values])
        for failure in results.failures(row.name, server, store):
            notes.append(f"- {TITLES[server]}, {store}: {failure}")
    yield ""
    yield from notes
    yield ""


def _spread(figure: Figure, found: Spread | None) -> str:
    if found is None:
        return ""
    middle = told(figure, found.median)
    if figure.key in ("client_cpu", "load_cpu") and found.median >= BUSY:
        return f"{middle} (busy)"
    if found.least == found.most or figure.better == "context":
        return middle
    return f"{middle} ({told(figure, found.least)} to {told(figure, found.most)})"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
