"""Results page: ratios first, then each row with medians and ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import chart
from bench.figures import Figure, Spread, advantage, formatted, times
from bench.results import Results
from bench.servers import OURS, STORES, TITLES
from bench.work.row import Row

#: Above this share of its core, in percent, the load generator may have limited the result.
BUSY = 95.0

INTRODUCTION = """\
# Benchmarks

This server and others on one machine, one after another. The server has one core, the load
generator the other. Servers take turns within a round; figures are medians over all rounds, with
ranges. Every run is verified: no response was an error, every acknowledged append is present
afterwards, every subscriber got every append once. Compare ratios rather than absolute numbers,
which depend on the machine.

- *ours*: this server in one process; for several see [workers](how-to/workers.md#figures)
- *ours, Klein and twisted.web*: with `--no-fast-channel`, the server of [embedding](embedding.md)
- *ours, PostgreSQL*: one node, on a database of the same machine
- *Node reference*: `@durable-streams/server`, the reference server of the protocol
- *Caddy plugin (Go)*: `packages/caddy-plugin` of the protocol's repository
- *Rust server*: `packages/durable-streams-rust` of the repository `electric-sql/electric`

"Durable" is what each server means by it; for this one see [Durability](durability.md).
"""

HOW = """\
## How it is measured

- wrk with one thread generates the HTTP load, after a second of warm-up. If the load's core is busy
  all the time, the server could be faster than the figure.
- Subscribers are one Python process with epoll. The *bare sender* sends prepared bytes without
  a server: its figures are the limit of that client, and no server can appear
  faster. A burst is 200 appends of one writer, each sent after the response to the last;
  deliveries are counted until the last subscriber has the last append. A delay begins when
  the append is sent.
- Memory is the resident memory of the server's process, CPU its user and system time. The kernel's
  memory of idle connections is not included.
- The server on PostgreSQL uses a database on this machine, whose processes run on both cores. CPU
  and memory of the database are not included. Compare it with the data directory by
  `python -m bench.compare --servers fast,postgres --stores durable`. `python -m bench.database`
  measures its committer alone.
- A stream of 100 MB is read by one client, following `Stream-Next-Offset` to the tail. If
  a server takes too long to fill its store, the row says so; `--full` allows more time.
- Starts are timed from the start of the process to the first response, with the file system's
  cache warm.

Run it again with `{command}`. Servers that are not npm packages are given as paths of
binaries; `--list` names the rows, `--only` selects some, and `--add` keeps the results
of the others. Install wrk (Debian and Ubuntu: package `wrk`), and Node for
the reference server. `--profile` draws flame graphs of this server with py-spy
(`pip install "durable-streams-tw[bench]"`).
"""


def write(results: Results, rows: Sequence[Row], folder: Path) -> None:
    """Write ``benchmarks.md`` and ``benchmarks.svg`` to a directory."""
    (folder / "benchmarks.md").write_text(page(results, rows))
    (folder / "benchmarks.svg").write_text(plot(results, rows))


def own_variant(results: Results) -> str:
    """Return the variant of this server that peers are compared with: "fast" if measured."""
    measured = {sample.server for sample in results.samples if sample.figures}
    return next((name for name in OURS if name in measured), OURS[0])


def peers(results: Results) -> list[str]:
    """Return the other servers that were measured, without the bare sender."""
    measured = {sample.server for sample in results.samples}
    return [name for name in TITLES if name in measured - {own_variant(results), "sender"}]


def page(results: Results, rows: Sequence[Row]) -> str:
    """Return the page in Markdown."""
    lines = [INTRODUCTION, *_circumstances(results), "", "## Ratios", ""]
    lines.append("Ratios of this server to each other server: above 1, this server is better.\n")
    lines.append("![The ratios, on a logarithmic scale](benchmarks.svg)\n")
    lines += _ratios(results, rows)
    for row in rows:
        lines += _section(results, row)
    lines.append(HOW.format(command=results.command))
    return "\n".join(lines)


def plot(results: Results, rows: Sequence[Row]) -> str:
    """Return the chart of the headline ratios, as SVG."""
    others = peers(results)
    bars = []
    for row in rows:
        for store in STORES:
            ratios = tuple(_ratio(results, row, row.figures[0], store, peer) for peer in others)
            bars.append(chart.Bars(f"{row.title} ({store})", ratios))
    title = "This server compared with … (above 1: better)"
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
            mine = results.spreads(row.name, own_variant(results), store)
            for figure in row.figures:
                if figure.better != "context" and figure.key in mine:
                    ratios = [_ratio(results, row, figure, store, peer) for peer in others]
                    value = f"{formatted(figure, mine[figure.key].median)} {figure.unit}".strip()
                    work = f"{row.title}, {store}"
                    yield _cells([work, figure.title, value, *map(times, ratios)])
    yield ""


def _ratio(results: Results, row: Row, figure: Figure, store: str, peer: str) -> float | None:
    mine = results.spreads(row.name, own_variant(results), store).get(figure.key)
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
    middle = formatted(figure, found.median)
    if figure.key in ("client_cpu", "load_cpu") and found.median >= BUSY:
        return f"{middle} (busy)"
    if found.least == found.most or figure.better == "context":
        return middle
    return f"{middle} ({formatted(figure, found.least)} to {formatted(figure, found.most)})"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
