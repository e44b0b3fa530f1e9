"""Command ``move``: copies of a store between a data directory and PostgreSQL."""

from __future__ import annotations

import json

import click

from durable_streams_tw.cli.store_options import with_json
from durable_streams_tw.cli.store_tasks import counted, run_task, size
from durable_streams_tw.service.settings_table import SETTINGS

_SCHEMA = SETTINGS["database-schema"]


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option(
    "--database-schema",
    "schema",
    metavar=_SCHEMA.metavar,
    default=_SCHEMA.default,
    help=_SCHEMA.help(_SCHEMA.default),
)
@with_json
def move(source: str, destination: str, schema: str, as_json: bool) -> None:
    """Copy a store from a data directory to PostgreSQL, or back.

    One of SOURCE and DESTINATION is a data directory, or a backup as the source, the other the URL
    of a database. Offsets, entity tags, producers, subscriptions and keys stay valid. Stop the
    servers of both first. The source is not changed. Run an interrupted move again to continue it.
    All bytes are compared at the end.

    Exit status: 0 success, 1 the copy in the data directory is damaged, 2 failure.
    """
    if ("://" in source) == ("://" in destination):
        raise click.UsageError(
            "One of SOURCE and DESTINATION must be a directory, and the other a URL such as "
            "postgresql://streams@db.example/streams."
        )
    done = run_task("move", source=source, destination=destination, schema=schema)
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    click.echo(
        f"Moved and compared {counted(done['streams'], 'stream')} ({size(done['bytes'])}) and "
        f"{counted(done['subscriptions'], 'subscription')}."
    )
