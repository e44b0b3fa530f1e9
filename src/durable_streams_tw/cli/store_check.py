"""Command ``check``: integrity check of a store."""

from __future__ import annotations

import json
import sys

import click

from durable_streams_tw.cli.store_options import with_data_dir, with_deep, with_json
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND, finding_line, run_task

_SHOWN = 50


@click.command()
@with_data_dir
@with_deep
@with_json
def check(directory: str, deep: bool, as_json: bool) -> None:
    """Check the integrity of a store, also while its server runs.

    Reads all records of the last commit: checksums, lengths, indexes, forks, subscriptions.
    Changes nothing. Also checks the directory of a backup.

    Exit status: 0 no findings, 1 the store is damaged, 2 failure.
    """
    findings: list[dict[str, str]] = []

    def found(finding: dict[str, str]) -> None:
        findings.append(finding)
        if not as_json and len(findings) <= _SHOWN:
            click.echo(finding_line(finding))

    done = run_task("check", found, directory=directory, deep=deep)
    if as_json:
        click.echo(json.dumps({"entries": done["entries"], "findings": findings}, indent=2))
    elif not findings:
        click.echo(f"{directory}: {done['entries']:,} records, no findings.")
    else:
        more = len(findings) - _SHOWN
        if more > 0:
            click.echo(f"{more:,} more findings (use --json for all)")
        click.echo(f"{directory}: {len(findings):,} findings, the store is damaged.")
    if findings:
        sys.exit(EXIT_UNSOUND)
