"""Command ``check``: integrity check of a store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from durable_streams_tw.cli.store_options import with_deep, with_json, with_store
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND, TaskFailed, finding_line, run_task

if TYPE_CHECKING:
    from durable_streams_tw.storage.postgres.connection import DatabaseSettings

_SHOWN = 50


@click.command()
@with_store
@with_deep
@with_json
def check(
    directory: str | None, database: DatabaseSettings | None, deep: bool, as_json: bool
) -> None:
    """Check the integrity of a store, also while its server runs.

    Reads all records of the last commit: checksums, lengths, indexes, forks, subscriptions.
    Changes nothing. Also checks the directory of a backup. In a database it compares the records of
    streams, bytes, forks and subscriptions; PostgreSQL itself checks its pages.

    Exit status: 0 no findings, 1 the store is damaged, 2 failure.
    """
    findings: list[dict[str, str]] = []

    def found(finding: dict[str, str]) -> None:
        findings.append(finding)
        if not as_json and len(findings) <= _SHOWN:
            click.echo(finding_line(finding))

    if database is None:
        place = directory
        entries = run_task("check", found, directory=directory, deep=deep)["entries"]
    else:
        place = f"schema {database.schema}"
        entries = _check_database(database, found)
    if as_json:
        click.echo(json.dumps({"entries": entries, "findings": findings}, indent=2))
    elif not findings:
        click.echo(f"{place}: {entries:,} records, no findings.")
    else:
        more = len(findings) - _SHOWN
        if more > 0:
            click.echo(f"{more:,} more findings (use --json for all)")
        click.echo(f"{place}: {len(findings):,} findings, the store is damaged.")
    if findings:
        sys.exit(EXIT_UNSOUND)


def _check_database(database: DatabaseSettings, found: Callable[[dict[str, str]], None]) -> int:
    """Pass on the findings in a database; return the number of its records."""
    # Imported here, because psycopg is optional.
    from durable_streams_tw.storage.admin.database import check_database, database_stats
    from durable_streams_tw.storage.errors import StoreUnusable

    try:
        contents = database_stats(database)
        for finding in check_database(database):
            found(finding.as_json())
    except StoreUnusable as error:
        raise TaskFailed(str(error)) from None
    return contents.streams + contents.chunks + contents.producers + contents.subscriptions
