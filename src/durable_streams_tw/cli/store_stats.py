"""Command ``stats``: size and contents of a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from durable_streams_tw.cli.store_options import with_json, with_store
from durable_streams_tw.cli.store_tasks import TaskFailed, run_task, size

if TYPE_CHECKING:
    from durable_streams_tw.storage.postgres.connection import DatabaseSettings


@click.command()
@with_store
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
def stats(
    directory: str | None,
    database: DatabaseSettings | None,
    quick: bool,
    top: int,
    as_json: bool,
) -> None:
    """Show the size and contents of a store, also while its server runs.

    A database has no largest streams: --quick and --top are for data directories.

    Exit status: 0 success, 2 failure.
    """
    if database is not None:
        _database_stats(database, as_json)
        return
    assert directory is not None, "there is a directory or a database"
    done = run_task("stats", directory=directory, quick=quick, top=top)
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    for name, value in rows(directory, done):
        click.echo(f"{name:<24}{value}")
    for stream in (done["counted"] or {}).get("largest", ()):
        click.echo(f"  {size(stream['size']):>12}  {stream['path']}")


def _database_stats(database: DatabaseSettings, as_json: bool) -> None:
    # Imported here, because psycopg is optional.
    from msgspec.structs import asdict

    from durable_streams_tw.storage.admin.database import database_stats
    from durable_streams_tw.storage.errors import StoreUnusable

    try:
        found = asdict(database_stats(database))
    except StoreUnusable as error:
        raise TaskFailed(str(error)) from None
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    labels = {"size": "stream bytes", "disk": "tables and indexes", "ended": "not yet freed"}
    click.echo(f"{'schema':<24}{database.schema}")
    for name, value in found.items():
        text = size(value) if name in ("size", "disk") else f"{value:,}"
        click.echo(f"{labels.get(name, name):<24}{text}")


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
