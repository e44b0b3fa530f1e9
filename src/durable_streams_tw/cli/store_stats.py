"""Command ``stats``: size and contents of a store."""

from __future__ import annotations

import json
from typing import Any

import click

from durable_streams_tw.cli.store_options import with_data_dir, with_json
from durable_streams_tw.cli.store_tasks import run_task, size


@click.command()
@with_data_dir
@click.option(
    "--quick", is_flag=True, help="Skip the figures that require reading the whole store."
)
@click.option(
    "--top",
    type=click.IntRange(0, 10_000),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of largest streams to list.",
)
@with_json
def stats(directory: str, quick: bool, top: int, as_json: bool) -> None:
    """Show the size and contents of a store, also while its server runs.

    Exit status: 0 success, 2 failure.
    """
    done = run_task("stats", directory=directory, quick=quick, top=top)
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    for name, value in rows(directory, done):
        click.echo(f"{name:<24}{value}")
    for stream in (done["counted"] or {}).get("largest", ()):
        click.echo(f"  {size(stream['size']):>12}  {stream['path']}")


def rows(directory: str, done: dict[str, Any]) -> list[tuple[str, str]]:
    """Return labels and values of all figures except the largest streams."""
    store, counted, owner = done["store"], done["counted"], done["owner"]
    used = {None: "no process", 0: "a server"}.get(owner, f"process {owner}")
    found = [
        ("directory", directory),
        ("used by", used),
        ("file", size(store["file"])),
        ("in use", size(store["used"])),
        ("free pages", size(store["free"])),
        ("LMDB map size", size(store["map_size"])),
        ("records", f"{store['entries']:,}"),
        ("last commit", f"{store['commit']:,}"),
        ("reader slots", f"{store['readers']:,}"),
    ]
    if counted is None:
        return found
    streams = f"{counted['streams']:,} ({counted['closed']:,} closed"
    subscriptions = counted["webhooks"] + counted["pull_wakes"]
    pending = f"{counted['pending']:,} with pending work"
    found += [
        ("streams", f"{streams}, {counted['expiring']:,} expire)"),
        ("stream bytes", size(counted["size"])),
        ("forks", f"{counted['forks']:,}"),
        ("deleted, used by forks", f"{counted['held']:,}"),
        ("deleted, not yet freed", f"{counted['ended']:,}"),
        ("producers", f"{counted['producers']:,}"),
        (
            "subscriptions",
            f"{subscriptions:,} ({counted['webhooks']:,} webhooks, {pending})",
        ),
    ]
    if counted["unreadable"]:
        found.append(("unreadable", f"{counted['unreadable']:,} records (run check)"))
    if counted["largest"]:
        found.append(("largest streams", ""))
    return found
