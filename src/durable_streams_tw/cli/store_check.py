"""``check``: walk through a store and prove that it holds together."""

from __future__ import annotations

import json
import sys

import click

from durable_streams_tw.cli.store_options import chosen, with_data_dir, with_deep, with_json
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND, run_task

_SHOWN = 50


@click.command()
@with_data_dir
@with_deep
@with_json
def check(data_dir: str | None, config: str | None, deep: bool, as_json: bool) -> None:
    """Prove that a store holds together, also beside its server.

    Looks at all records as the last commit left them: checksums, lengths, indexes, forks,
    subscriptions. Changes nothing. It works on a backup's directory too.

    Exit status: 0 sound, 1 not sound, 2 it could not be checked.
    """
    directory = chosen(data_dir, config)
    findings: list[dict[str, str]] = []

    def found(finding: dict[str, str]) -> None:
        findings.append(finding)
        if not as_json and len(findings) <= _SHOWN:
            click.echo(f"{finding['meaning']}: {finding['detail']} (key {finding['key']})")

    done = run_task({"name": "check", "directory": directory, "deep": deep}, found)
    if as_json:
        click.echo(json.dumps({"entries": done["entries"], "findings": findings}, indent=2))
    elif not findings:
        click.echo(f"{directory} is sound: {done['entries']:,} records.")
    else:
        more = len(findings) - _SHOWN
        if more > 0:
            click.echo(f"and {more:,} more (--json has all)")
        click.echo(f"{directory} is not sound: {len(findings):,} findings.")
    if findings:
        sys.exit(EXIT_UNSOUND)
