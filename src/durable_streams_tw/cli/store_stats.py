"""``stats``: how large a store is, and what is in it."""

from __future__ import annotations

import json
from typing import Any

import click

from durable_streams_tw.cli.store_options import chosen, with_data_dir, with_json
from durable_streams_tw.cli.store_tasks import run_task, size


@click.command()
@with_data_dir
@click.option("--quick", is_flag=True, help="Only what is known without counting.")
@click.option(
    "--top",
    type=click.IntRange(0, 10_000),
    default=5,
    show_default=True,
    metavar="N",
    help="Name so many of the largest streams.",
)
@with_json
def stats(data_dir: str | None, config: str | None, quick: bool, top: int, as_json: bool) -> None:
    """Say how large a store is and what is in it, also beside its server.

    Exit status: 0 done, 2 it could not be done.
    """
    directory = chosen(data_dir, config)
    done = run_task({"name": "stats", "directory": directory, "quick": quick, "top": top})
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    for name, value in rows(directory, done):
        click.echo(f"{name:<24}{value}")
    for stream in (done["counted"] or {}).get("largest", ()):
        click.echo(f"  {size(stream['size']):>12}  {stream['path']}")


def rows(directory: str, done: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to say, but for the largest streams."""
    store, counted, owner = done["store"], done["counted"], done["owner"]
    used = {None: "nobody", 0: "a server"}.get(owner, f"process {owner}")
    found = [
        ("directory", directory),
        ("used by", used),
        ("file", size(store["file"])),
        ("in use", size(store["used"])),
        ("free inside the file", size(store["free"])),
        ("map", size(store["map"])),
        ("records", f"{store['entries']:,}"),
        ("last commit", f"{store['commit']:,}"),
        ("slots of readers", f"{store['readers']:,}"),
    ]
    if counted is None:
        return found
    streams = f"{counted['streams']:,} ({counted['closed']:,} closed"
    subscriptions = counted["webhooks"] + counted["pull_wakes"]
    pending = f"{counted['pending']:,} with pending work"
    found += [
        ("streams", f"{streams}, {counted['expiring']:,} expire)"),
        ("their bytes", size(counted["size"])),
        ("forks", f"{counted['forks']:,}"),
        ("deleted, kept for forks", f"{counted['held']:,}"),
        ("waiting to be freed", f"{counted['ended']:,}"),
        ("producers", f"{counted['producers']:,}"),
        (
            "subscriptions",
            f"{subscriptions:,} ({counted['webhooks']:,} webhooks, {pending})",
        ),
    ]
    if counted["unreadable"]:
        found.append(("cannot be read", f"{counted['unreadable']:,} records: see check"))
    if counted["largest"]:
        found.append(("largest streams", ""))
    return found
